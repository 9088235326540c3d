"""Going back to an older checkpoint: what a run has after it is put aside, not lost.

set_aside/1/
    step_000200000/ ...     the newer checkpoints
    old_progress.csv, old_episodes.csv, old_evaluations.csv, old_results.json
    old_model.safetensors, old_best_model.safetensors, old_online_model.safetensors
"""

import re
import shutil
from pathlib import Path

from dqn_zoo.errors import UserError
from dqn_zoo.runs.checkpoint import Checkpoint, DamagedError, verify
from dqn_zoo.runs.run import CHECKPOINT_PREFIX, Run
from dqn_zoo.system.files import move


def split_checkpoint(asked: str) -> tuple[str, int | None]:
    """Split RUN/checkpoints/step_000100000 into the run and the step; None: a run is asked for."""
    form = rf"(.+)[/\\]checkpoints[/\\]{CHECKPOINT_PREFIX}(\d+)[/\\]?"
    match = re.fullmatch(form, asked)
    if match is None and Path(asked).is_dir():  # named from somewhere inside the run
        match = re.fullmatch(form, str(Path(asked).absolute()))
    return (asked, None) if match is None else (match[1], int(match[2]))


def older_checkpoint(run: Run, step: int) -> Checkpoint:
    """Return the checkpoint of a step, verified.

    Raises:
        UserError: the run has none at this step, or it is damaged.
    """
    steps = run.checkpoint_steps()
    if step not in steps:
        have = ", ".join(str(run.checkpoint(each)) for each in steps) or "none"
        raise UserError(f"{run.path} has no checkpoint of step {step:,}; it has {have}")
    try:
        return verify(run.checkpoint(step))
    except DamagedError as error:
        raise UserError(f"{run.checkpoint(step)} cannot be resumed: {error}") from error


def set_aside(run: Run, checkpoint: Checkpoint) -> Path | None:
    """Put aside what a run has after a checkpoint; None: nothing, it is the newest.

    Logs and models are copied before a checkpoint is moved, the newest first: whenever it is
    interrupted, the run goes on from a checkpoint that it has, and nothing is missing. Logs and
    models themselves stay as they are: whoever goes back puts them back as well.

    Raises:
        OSError: the disk is full or refuses; while it copies, every checkpoint is where it was.
    """
    newer = [run.checkpoint(step) for step in run.checkpoint_steps() if step > checkpoint.step]
    if not newer:
        return None
    number = 1
    while (folder := run.path / "set_aside" / str(number)).exists():
        number += 1
    folder.mkdir(parents=True)
    logs = (run.progress_file, run.episodes_file, run.evaluations_file, run.results_file)
    try:
        for file in (*logs, run.model_file, run.best_model_file, run.online_model_file):
            if file.exists():  # under another name: it is no run of its own
                shutil.copy2(file, folder / f"old_{file.name}")
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    for path in reversed(newer):
        move(path, folder / path.name)
    return folder
