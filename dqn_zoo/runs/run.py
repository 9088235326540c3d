"""Run folders: how they are named, claimed, locked and found again.

logs/dqn/SpaceInvaders_1/
    config.yml            every setting, with every default
    manifest.json         versions, hardware, commands (see manifest.py)
    model.safetensors     the final weights
    best_model.safetensors
    progress.csv, episodes.csv, evaluations.csv (see metrics.py), results.json
    checkpoints/, tensorboard/
"""

import contextlib
import difflib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from dqn_zoo.errors import UserError
from dqn_zoo.system.documents import AS_WRITTEN, DocumentError, read_document
from dqn_zoo.system.files import quoted
from dqn_zoo.system.locks import hold

RUN_FORMAT = 1
"""Version of the layout above; a program refuses folders of a newer one."""

CHECKPOINT_PREFIX = "step_"


@with_config(AS_WRITTEN)
class _Head(TypedDict):
    """The part of a manifest that every version has."""

    format: int
    origin: NotRequired[dict[str, Any]]


class NoRunError(UserError):
    """There is no such run."""


@dataclass(frozen=True)
class Run:
    """One run folder and the names of what lies in it."""

    path: Path

    @property
    def name(self) -> str:
        """Name of the run, for example `SpaceInvaders_1`."""
        return self.path.resolve().name

    @property
    def quoted_path(self) -> str:
        """The folder as a shell takes it, for commands in messages."""
        return quoted(self.path)

    @property
    def config_file(self) -> Path:
        """Every setting of the run."""
        return self.path / "config.yml"

    @property
    def manifest_file(self) -> Path:
        """Versions, hardware and commands of the run."""
        return self.path / "manifest.json"

    @property
    def model_file(self) -> Path:
        """The final weights."""
        return self.path / "model.safetensors"

    @property
    def best_model_file(self) -> Path:
        """The weights with the best evaluation."""
        return self.path / "best_model.safetensors"

    @property
    def initial_model_file(self) -> Path:
        """The weights that the run was started from, where it was started from any."""
        return self.path / "initial_model.safetensors"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """Folder of the checkpoint at a step, whether it exists or not."""
        return self.checkpoints / checkpoint_name(step)

    def checkpoint_steps(self) -> list[int]:
        """Steps of the checkpoints, ascending, verified or not."""
        return [_checkpoint_step(path) for path in checkpoint_folders(self.checkpoints)]

    @property
    def progress_file(self) -> Path:
        """One row per log interval."""
        return self.path / "progress.csv"

    @property
    def episodes_file(self) -> Path:
        """One row per finished training game."""
        return self.path / "episodes.csv"

    @property
    def evaluations_file(self) -> Path:
        """One row per evaluation."""
        return self.path / "evaluations.csv"

    @property
    def results_file(self) -> Path:
        """Scores of the last `dqn-enjoy`."""
        return self.path / "results.json"

    @property
    def tensorboard(self) -> Path:
        """Default folder of the TensorBoard events."""
        return self.path / "tensorboard"


def checkpoint_name(step: int) -> str:
    """Return the name of a checkpoint's folder: `step_000100000`; names sort as steps do."""
    return f"{CHECKPOINT_PREFIX}{step:09d}"


def checkpoint_folders(folder: Path) -> list[Path]:
    """Return the finished checkpoints in a folder, by step."""
    found = [
        path
        for path in folder.glob(f"{CHECKPOINT_PREFIX}*")
        if path.is_dir() and path.name.removeprefix(CHECKPOINT_PREFIX).isdecimal()
    ]
    return sorted(found, key=_checkpoint_step)


def claim_run(log_folder: str | Path, algo: str, game: str, *, exp_id: int | None = None) -> Run:
    """Create the folder of a new run; two processes never get the same one.

    Args:
        log_folder: Folder of all runs, created where missing.
        algo: Name of the recipe, for example `dqn`.
        game: Name of the game, for example `SpaceInvaders`.
        exp_id: Number of the run, at least 1; None or 0 takes the highest existing number plus 1.

    Raises:
        UserError: The number is taken or negative, or the folder cannot be written.
    """
    _check_exp_id(exp_id)
    parent = Path(log_folder) / algo
    try:
        parent.mkdir(parents=True, exist_ok=True)
        while True:
            path = parent / f"{game}_{exp_id or _next_number(parent, game)}"
            try:
                path.mkdir()  # atomic: of two processes exactly one gets through
            except FileExistsError:
                if exp_id:
                    raise UserError(
                        f"--exp-id {exp_id} is taken: {path} exists; resume it with "
                        f"`--resume {Run(path).quoted_path}`, or leave --exp-id out to get the "
                        "next free number"
                    ) from None
                continue
            return Run(path)
    except OSError as error:
        raise UserError(
            f"no run folder can be made in {parent} ({error.strerror}): "
            "name a folder that you can write with -f FOLDER"
        ) from error


def discard_run(run: Run) -> bool:
    """Remove a claimed folder in which nothing was trained, after a start that failed.

    Call it outside of `lock`. A folder that holds weights, a checkpoint or a row of progress stays.

    Returns:
        Whether the folder was removed.
    """
    if not run.path.is_dir():
        return False
    weights = run.model_file.exists() or run.best_model_file.exists()
    checkpoints = run.checkpoints.is_dir() and any(run.checkpoints.iterdir())
    if weights or checkpoints or _has_rows(run.progress_file):
        return False
    shutil.rmtree(run.path, ignore_errors=True)
    return not run.path.exists()


def lock(run: Run) -> contextlib.AbstractContextManager[None]:
    """Be the only process that writes this run; see `locking.hold`."""
    return hold(run.path, what=f"run {run.name}", otherwise="start a new run")


def find_run(
    log_folder: str | Path,
    *,
    run: str | Path | None = None,
    algo: str | None = None,
    game: str | None = None,
    exp_id: int | None = None,
) -> Run:
    """Find an existing run.

    Args:
        log_folder: Folder of all runs.
        run: A folder, or the name of a run (`SpaceInvaders_3` or `dqn/SpaceInvaders_3`). Of several
            with one name it is the one that was trained here.
        algo: Look only at runs of this recipe.
        game: Look only at runs of this game.
        exp_id: Look only at runs of this number; None or 0 takes the latest, which is the one whose
            manifest, progress, weights or checkpoints changed last. (Watching a run is no change.)
            Runs that were trained elsewhere come behind all that were trained here.

    Raises:
        NoRunError: There is no such run.
        UserError: There are several, or the folder is no run this version reads.
    """
    _check_exp_id(exp_id)
    if run is not None and Path(run).is_dir():
        found = _checked(Path(run))
        if not _is_of(found, algo, game, exp_id):
            raise UserError(f"{run} is another run than the flags beside it say: drop them")
        return found
    runs = _runs(Path(log_folder))
    if run is not None and not runs:
        runs = _runs(Path(run).parent.parent)  # a folder elsewhere: its neighbours are near, too
    matches = [found for found in runs if _is_of(found, algo, game, exp_id)]
    if run is not None:
        wanted = f"run {str(run)!r}"
        matches = [found for found in matches if str(run) in (found.path.name, _label(found))]
    else:
        wanted = f"run {game or 'GAME'}_{exp_id}" if exp_id else f"run of {game or 'any game'}"
    if not matches:
        target = Path(run).name if run is not None else wanted.split()[-1]
        message = f"no {wanted}" + (f" by {algo}" if algo else "") + f" in {log_folder}"
        raise NoRunError(f"{message}; {_advice(runs, target, algo=algo, game=game)}")
    if run is None and not exp_id:
        return _checked(max(matches, key=_last_change).path)
    if len(matches) > 1:
        matches = [found for found in matches if _was_trained_here(found)] or matches
    if len(matches) > 1:
        labels = ", ".join(sorted(_label(found) for found in matches))
        raise UserError(
            f"{wanted} is ambiguous: {labels}; name one of them, or add --algo or --env"
        )
    return _checked(matches[0].path)


def _checkpoint_step(path: Path) -> int:
    return int(path.name.removeprefix(CHECKPOINT_PREFIX))


def _check_exp_id(exp_id: int | None) -> None:
    if exp_id is not None and exp_id < 0:
        raise UserError(f"--exp-id must be 1 or more, or 0 for the default; got {exp_id}")


def _split(name: str) -> tuple[str, int] | None:
    """`SpaceInvaders_3` is ("SpaceInvaders", 3); other names are no runs."""
    match = re.fullmatch(r"(.+)_([1-9][0-9]*)", name)
    return (match[1], int(match[2])) if match else None


def _next_number(parent: Path, game: str) -> int:
    names = (_split(entry.name) for entry in parent.iterdir())
    return 1 + max((name[1] for name in names if name and name[0] == game), default=0)


def _runs(log_folder: Path) -> list[Run]:
    """Every folder named like a run, complete or not."""
    return [Run(path) for path in log_folder.glob("*/*_*") if path.is_dir() and _split(path.name)]


def _label(run: Run) -> str:
    return f"{run.path.parent.name}/{run.path.name}"


def _is_of(run: Run, algo: str | None, game: str | None, exp_id: int | None) -> bool:
    """Return whether a run is what was asked for; a link counts by its own name."""
    path = run.path.absolute()
    name = _split(path.name)
    return (
        (algo is None or path.parent.name == algo)
        and (game is None or (name is not None and name[0] == game))
        and (not exp_id or (name is not None and name[1] == exp_id))
    )


def _last_change(run: Run) -> tuple[bool, float, int]:
    """What makes the latest run the largest: trained here, time of the last change, number.

    An agent that was only fetched, to be watched, does not come between a user and the own run. A
    folder that a run is just starting in holds none of these files: it comes behind all others.
    """
    files = (run.manifest_file, run.progress_file, run.model_file, run.checkpoints)
    name = _split(run.path.name)
    try:
        times = [file.stat().st_mtime for file in files if file.exists()]
    except OSError:  # somebody else's: it does not come between a user and the own runs
        return False, 0.0, 0
    return _was_trained_here(run), max(times, default=0.0), name[1] if name else 0


def _was_trained_here(run: Run) -> bool:
    try:
        return "origin" not in read_document(run.manifest_file, _Head)
    except DocumentError:  # whoever reads the run says what is wrong with it
        return True


def _advice(runs: list[Run], target: str, *, algo: str | None, game: str | None) -> str:
    """What to do about a run that does not exist: the most similar names, else the latest runs."""
    if not runs:
        start = f"dqn-train --env {game or 'SpaceInvaders'}" + (f" --algo {algo}" if algo else "")
        return f"there is no run at all: start one with `{start}`, or name another -f FOLDER"
    latest_first = sorted(runs, key=_last_change, reverse=True)
    names = dict.fromkeys(found.name for found in latest_first)
    near = difflib.get_close_matches(target, names, n=3) or list(names)
    nearest = [_label(found) for name in near for found in latest_first if found.name == name]
    return f"the nearest are {', '.join(nearest[:3])}"


def _checked(path: Path) -> Run:
    """The run in this folder, if it is one that this version reads."""
    run = Run(path)
    if not any(path.iterdir()):
        raise UserError(f"{path} is empty, not a run folder: name another, or remove it")
    missing = [file.name for file in (run.config_file, run.manifest_file) if not file.is_file()]
    if missing:
        raise UserError(f"{path} is not a run folder: {' and '.join(missing)} missing")
    try:
        version = read_document(run.manifest_file, _Head)["format"]
    except DocumentError as error:
        raise DocumentError(f"{error}; restore it from a backup, or start a new run") from error
    if version > RUN_FORMAT:
        raise UserError(
            f"{path} has run format {version} and this version reads up to {RUN_FORMAT}: "
            "update dqn_zoo"
        )
    return run


def _has_rows(csv_file: Path) -> bool:
    if not csv_file.is_file():
        return False
    with csv_file.open("rb") as file:
        return len(file.readlines(4096)) > 1
