"""Run folders: how they are named, claimed, locked and found again.

logs/dqn/SpaceInvaders_1/
    config.yml            every setting, with every default
    manifest.json         versions, hardware, commands (see manifest.py)
    model.safetensors     the final weights
    online_model.safetensors    those that learned, where the others are an average of them
    best_model.safetensors
    progress.csv, episodes.csv, evaluations.csv (see metrics.py)
    results.json, results/ (see play/measurements.py)
    checkpoints/, tensorboard/, wandb/ (see trackers.py)
"""

import contextlib
import difflib
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from dqn_zoo.errors import UserError
from dqn_zoo.runs.elsewhere import takes_foreign, where_instead
from dqn_zoo.settings.games import GAMES
from dqn_zoo.settings.recipe_files import available_recipes
from dqn_zoo.system import shell
from dqn_zoo.system.documents import AS_WRITTEN, DocumentError, read_document
from dqn_zoo.system.files import flush_directory, flush_file, move
from dqn_zoo.system.locks import hold

RUN_FORMAT = 1
"""Version of the layout above; a program refuses folders of a newer one."""

CHECKPOINT_PREFIX = "step_"
UNFINISHED = ".unfinished"
STALE_S = 3_600.0


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
    def online_model_file(self) -> Path:
        """The final weights that learned, where `model_file` holds an average of them."""
        return self.path / "online_model.safetensors"

    @property
    def initial_model_file(self) -> Path:
        """The weights that the run was started from, where it was started from any."""
        return self.path / "initial_model.safetensors"

    @property
    def backup_file(self) -> Path:
        """Where the checkpoints are backed up to, if they are."""
        return self.path / "backup.json"

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
        """The largest sample of games by the run's own rules."""
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


def is_checkpoint(folder: Path) -> bool:
    """Return whether a folder lies and is named as the checkpoint of a run."""
    return folder in checkpoint_folders(folder.parent) and folder.parent.name == "checkpoints"


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
                    resume = resume_command(Run(path))
                    raise UserError(
                        f"--exp-id {exp_id} is taken: {path} exists; "
                        + (f"resume it with `{resume}`, or " if resume else "")
                        + "leave --exp-id out to get the next free number"
                    ) from None
                continue
            return Run(path)
    except OSError as error:
        raise UserError(
            f"no run folder can be made in {parent} ({error.strerror}): "
            "name a folder that you can write with -f FOLDER"
        ) from error


def resume_command(run: Run) -> str | None:
    """Return the command that resumes a run; None: there is nothing to resume yet."""
    has_begun = run.config_file.is_file() and run.manifest_file.is_file()
    return shell.command("dqn-train", "--resume", run.path) if has_begun else None


def place_run(log_folder: str | Path, algo: str, game: str, fill: Callable[[Run], None]) -> Run:
    """Make a run whose files are all there already: it appears whole, or not at all.

    Args:
        log_folder: Folder of all runs, created where missing.
        algo: Folder of the run in it.
        game: Name of the game; the run takes its next number.
        fill: Writes the files into the folder that it is given.

    Raises:
        UserError: The folder cannot be written; then nothing is left.
    """
    parent = Path(log_folder) / algo
    try:
        parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(parent)
        with tempfile.TemporaryDirectory(prefix=game, suffix=UNFINISHED, dir=parent) as place:
            aside = Path(place) / "run"
            aside.mkdir()
            fill(Run(aside))
            for file in aside.rglob("*"):
                if file.is_file():
                    flush_file(file)
            flush_directory(aside)
            run = claim_run(log_folder, algo, game)
            try:
                move(aside, run.path)
            except BaseException:
                with contextlib.suppress(OSError):
                    run.path.rmdir()
                raise
            flush_directory(parent)
            return run
    except OSError as error:
        raise UserError(
            f"{parent} cannot be written ({error.strerror}): make room, or name a folder that you "
            "can write with -f FOLDER"
        ) from error


def _remove_stale(parent: Path) -> None:
    """Remove what a killed `place_run` left; another process may be filling a young one."""
    for path in parent.glob(f"*{UNFINISHED}"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > STALE_S:
                shutil.rmtree(path)


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
    takes_it = None if run is None else takes_foreign(Path(run))
    if takes_it is not None:
        raise UserError(f"{run} is no run, but an agent of Stable-Baselines3: {takes_it} takes it")
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
        instead = where_instead(Path(log_folder), game, is_empty=not runs) if run is None else None
        advice = instead or _advice(runs, target, algo=algo, game=game)
        raise NoRunError(f"{message}; {advice}")
    if run is None and not exp_id:
        matches = [found for found in matches if _is_complete(found)] or matches
        return _checked(max(matches, key=_last_change).path)
    if len(matches) > 1:
        matches = [found for found in matches if _was_trained_here(found)] or matches
    if len(matches) > 1:
        labels = ", ".join(sorted(_label(found) for found in matches))
        raise UserError(f"{wanted} is ambiguous: {labels}; name one of them")
    return _checked(matches[0].path)


def list_runs(log_folder: Path) -> list[Run]:
    """Return the runs in a folder, the latest first, as `find_run` orders them.

    A folder that a run is just starting in is left out.
    """
    found = [run for run in _runs(log_folder) if _is_complete(run)]
    return sorted(found, key=_last_change, reverse=True)


def check_log_folder(log_folder: Path) -> None:
    """Refuse a folder without any run, where a user has named it.

    Raises:
        NoRunError: there is none; with where they are.
    """
    if not _runs(log_folder):
        advice = where_instead(log_folder, None, is_empty=True)
        raise NoRunError(f"{log_folder} holds no run" + (f"; {advice}" if advice else ""))


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
    """Every folder named like a run, complete or not; RL-Zoo's have longer names."""
    named = ((path, _split(path.name)) for path in log_folder.glob("*/*_*") if path.is_dir())
    return [Run(path) for path, name in named if name and name[0] in GAMES]


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


def _is_complete(run: Run) -> bool:
    """Return whether a start, a pull or an import got as far as to the manifest."""
    try:
        return run.config_file.is_file() and run.manifest_file.is_file()
    except OSError:
        return False


def _was_trained_here(run: Run) -> bool:
    try:
        return "origin" not in read_document(run.manifest_file, _Head)
    except DocumentError:  # whoever reads the run says what is wrong with it
        return True


def _advice(runs: list[Run], target: str, *, algo: str | None, game: str | None) -> str:
    """What to do about a run that does not exist: similar names, the latest runs, or a start."""
    of_game = [found for found in runs if game is None or _is_of(found, None, game, None)]
    if not of_game:
        recipe = ["--algo", algo] if algo in available_recipes() else []
        start = shell.command("dqn-train", "--env", game or "SpaceInvaders", *recipe)
        there = "" if runs else "there is no run at all: "
        return f"{there}start one with `{start}`, or name another -f FOLDER"
    latest_first = sorted(of_game, key=_last_change, reverse=True)
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
