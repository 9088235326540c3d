"""Run folders: how they are named, claimed and locked; `finding.py` finds them again.

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
import itertools
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dqn_zoo.errors import UserError
from dqn_zoo.system import shell
from dqn_zoo.system.files import flush_directory, flush_file, move, writing
from dqn_zoo.system.locks import hold

RUN_FORMAT = 1
"""Version of the layout above; a program refuses folders of a newer one."""

CHECKPOINT_PREFIX = "step_"
UNFINISHED = ".unfinished"
STALE_S = 3_600.0


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


def split_name(name: str) -> tuple[str, int] | None:
    """Return ("SpaceInvaders", 3) for `SpaceInvaders_3`; None: no run is called so."""
    match = re.fullmatch(r"(.+)_([1-9][0-9]*)", name)
    return (match[1], int(match[2])) if match else None


def check_exp_id(exp_id: int | None) -> None:
    """Refuse a number that no run has.

    Raises:
        UserError: it is below 0.
    """
    if exp_id is not None and exp_id < 0:
        raise UserError(f"--exp-id must be 1 or more, or 0 for the default; got {exp_id}")


def is_complete(run: Run) -> bool:
    """Return whether a start, a pull or an import got as far as to the manifest."""
    try:
        return run.config_file.is_file() and run.manifest_file.is_file()
    except OSError:
        return False


def claim_run(log_folder: str | Path, algo: str, game: str, *, exp_id: int | None = None) -> Run:
    """Create the folder of a new run; two processes never get the same one.

    `exp_id` is its number, at least 1; None or 0 takes the highest existing one plus 1.

    Raises:
        UserError: The number is taken or negative, or the folder cannot be written.
    """
    check_exp_id(exp_id)
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
    return resume_with(run.path, {}) if is_complete(run) else None


def resume_with(path: Path, flags: Mapping[str, str]) -> str:
    """Return the command that resumes a run or a checkpoint of it with flags and their values."""
    words = itertools.chain.from_iterable(flags.items())
    return shell.command("dqn-train", "--resume", path, *words)


def place_run(log_folder: str | Path, algo: str, game: str, fill: Callable[[Run], None]) -> Run:
    """Make a run whose files are all there already: it appears whole, or not at all.

    `fill` writes the files into the folder that it is given; the run takes the game's next number.

    Raises:
        UserError: The folder cannot be written; then nothing is left.
    """
    parent = Path(log_folder) / algo
    with writing(parent, "make room, or name a folder that you can write with -f FOLDER"):
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


def _remove_stale(parent: Path) -> None:
    """Remove what a killed `place_run` left; another process may be filling a young one."""
    for path in parent.glob(f"*{UNFINISHED}"):
        with contextlib.suppress(OSError):
            written_at = max(each.stat().st_mtime for each in (path, *path.rglob("*")))
            if time.time() - written_at > STALE_S:
                shutil.rmtree(path)


def is_unfinished(path: Path, top: Path) -> bool:
    """Return whether what lies below `top` is under way: a run that is fetched, a backup, ..."""
    return any(part.endswith(UNFINISHED) for part in path.relative_to(top).parts)


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
    """Be the only process that writes this run; see `locks.hold`."""
    return hold(run.path, what=f"run {run.name}", otherwise="start a new run")


def _checkpoint_step(path: Path) -> int:
    return int(path.name.removeprefix(CHECKPOINT_PREFIX))


def _next_number(parent: Path, game: str) -> int:
    """Return the first number that no run of the game has, also where the disk ignores case."""
    names = (split_name(entry.name) for entry in parent.iterdir())
    numbers = (name[1] for name in names if name and name[0].casefold() == game.casefold())
    return 1 + max(numbers, default=0)


def _has_rows(csv_file: Path) -> bool:
    if not csv_file.is_file():
        return False
    with csv_file.open("rb") as file:
        return len(file.readlines(4096)) > 1
