"""One invocation of a run, started or resumed: what it needs, and how it is set up and ends."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from dqn_zoo.errors import UserError
from dqn_zoo.runs.checkpoint import Checkpoint, DamagedError
from dqn_zoo.runs.going_back import set_aside
from dqn_zoo.runs.manifest import Manifest, Setup, end_invocation, read_manifest
from dqn_zoo.runs.metrics import RunLog
from dqn_zoo.runs.run import Run, resume_command, resume_with
from dqn_zoo.runs.trackers import TrackedLog, TrackTo, settings_shown
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.protocols import protocol_from_config, published_scores
from dqn_zoo.system.files import update_file
from dqn_zoo.system.machine import flush_denormals, keep_freed_memory
from dqn_zoo.system.signals import EXIT_CODES as STOPPED_CODES
from dqn_zoo.system.signals import Ended, Stop, StopReason, ends_at_once
from dqn_zoo.system.stopwatch import Stopwatch
from dqn_zoo.training.backup import Backup, NoBackup, finishing
from dqn_zoo.training.display import Display, Heading, make_display
from dqn_zoo.training.duties import Duties
from dqn_zoo.training.snapshot import restore
from dqn_zoo.training.trainer import Trainer, evaluation_threads

Reason = Literal["finished"] | StopReason

EXIT_CODES: dict[str, int] = {"finished": 0, **STOPPED_CODES}

REPLAY_LINE_S = 2.0  # between lines about the actions that a resume replays


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """What may differ between the start of a run and each resume of it.

    Attributes:
        until_steps: train to this step instead of `n_timesteps`; the schedules keep their horizon.
        time_limit_s: save and stop after so many seconds of this invocation.
        progress: live panel, plain lines, or (None) what the output can do.
        tensorboard_folder: where the events of a new run go, in a folder ALGO/RUN of it; None: into
            the run folder. A resumed run goes on where it began.
        track: where a new run is tracked, too.
        command: command line, for the manifest.
        backup: where the checkpoints go while it trains.
        resume_flags: what this invocation set for itself and a resume sets again, by flag.
    """

    until_steps: int | None = None
    time_limit_s: float | None = None
    progress: bool | None = None
    tensorboard_folder: Path | None = None
    track: TrackTo | None = None
    command: tuple[str, ...] = ()
    backup: Backup = field(default_factory=NoBackup)
    resume_flags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an invocation ended: which run, at which step, and why."""

    run: Run
    steps: int
    reason: Reason


@dataclass(slots=True)
class Invocation:
    """A run that is set up: what is due between its steps, and afterwards how it ended."""

    duties: Duties
    _outcome: Outcome | None = None

    @property
    def outcome(self) -> Outcome:
        """How it ended; not to be asked before."""
        assert self._outcome is not None, "the invocation has not ended"
        return self._outcome


@contextlib.contextmanager
def set_up(
    trainer: Trainer,
    run: Run,
    options: TrainOptions,
    stop: Stop,
    until_steps: int,
    *,
    checkpoint: Checkpoint | None = None,
    goes_back: bool = False,
) -> Iterator["Invocation"]:
    """Set a run up, started or from a checkpoint, and save it when the loop is left.

    With `goes_back` what is newer than the checkpoint is put aside: checkpoints, logs and models.

    Raises:
        Ended: by a signal before the run went on; the checkpoint is as it was.
        UserError: the checkpoint cannot be resumed, or the training has diverged.
    """
    scores = published_scores(trainer.config.env, protocol_from_config(trainer.config))
    display = make_display(
        options.progress,
        Heading(
            name=run.name,
            n_timesteps=until_steps,
            random_score=None if scores is None else scores.random,
        ),
    )
    manifest = read_manifest(run)
    with contextlib.closing(display), finishing(options.backup, display.message, stop):
        log = RunLog(
            run,
            tensorboard_folder=Path(manifest["tensorboard"] or run.tensorboard),
            warn=display.message,
            tracked=_tracked(trainer, run, manifest, display),
        )
        with contextlib.closing(log):
            if checkpoint is None:
                log.rollback({}, 0)
                run.best_model_file.unlink(missing_ok=True)  # of an attempt that was killed
                display.message(f"training in {run.path}")
            for line in options.backup.begin(run):
                display.message(line)
            if checkpoint is not None:
                with trainer.stopwatch.section("restoring"):
                    offsets = _restore(trainer, checkpoint, run, display, stop, goes_back=goes_back)
                log.rollback(offsets, trainer.algorithm.steps)
            duties = Duties(
                trainer,
                run,
                log,
                display,
                stop,
                previous=checkpoint,
                backup=options.backup,
                resume_flags=options.resume_flags,
            )
            invocation = Invocation(duties)
            with trainer.stopwatch.section("everything else"):
                yield invocation
            duties.save_at_the_end()
        invocation._outcome = _end(trainer, run, duties, stop, until_steps, display)


def started(config: Config, stopwatch: Stopwatch) -> Trainer:
    """Return a run at step 0; as long as its emulators start, a signal ends the process."""
    with ends_at_once():
        trainer = Trainer(config, stopwatch)
        trainer.start()
    return trainer


def end_if_asked(stop: Stop, run: Run, say: Callable[[str], None]) -> None:
    """Leave a run that is resumed as it was, if a signal has come before it goes on.

    Raises:
        Ended: one has.
    """
    reason = stop.reason()
    if reason is not None and reason != "time_limit":
        say(f"stopped before {run.path} went on; it is as it was")
        raise Ended(reason)


def prepare_process(config: Config) -> None:
    """Let PyTorch and the C library compute as the run wants it."""
    flush_denormals()
    torch.set_num_threads(config.num_threads)
    keep_freed_memory()


@contextlib.contextmanager
def writing_run(run: Run, options: TrainOptions, from_step: int | None = None) -> Iterator[None]:
    """Turn a disk that refuses into an error that says what to do.

    `from_step` is that of an older checkpoint which the run was to go back to.

    Raises:
        UserError: something of the run cannot be written.
    """
    try:
        yield
    except OSError as error:
        asked = run if from_step is None else Run(run.checkpoint(from_step))
        resume = resume_command(run) and resume_with(asked.path, options.resume_flags)
        raise UserError(
            f"{error.filename or run.path} cannot be written ({error.strerror}); make room or make "
            f"it writable, then {f'{resume} goes on' if resume else 'start the run again'}"
        ) from error


def setup_of(config: Config) -> Setup:
    """Return what the manifest says of how a run computes."""
    device: str = config.device
    if device == "cuda":
        device = f"cuda ({torch.cuda.get_device_name()})"
    return Setup(
        device=device,
        num_threads=config.num_threads,
        evaluation_threads=evaluation_threads(config.device),
        precision=config.precision,
    )


def _restore(
    trainer: Trainer,
    checkpoint: Checkpoint,
    run: Run,
    display: Display,
    stop: Stop,
    *,
    goes_back: bool,
) -> dict[str, int]:
    """Load a checkpoint, put models back to where they were then, return the logs' offsets.

    Raises:
        Ended: by a signal before the run went on; the checkpoint is as it was.
    """
    told_at = time.monotonic()

    def on_file() -> None:
        end_if_asked(stop, run, display.message)

    def on_progress(done: int, total: int) -> None:
        nonlocal told_at
        end_if_asked(stop, run, display.message)
        if done == 0 and total >= 2_000:
            display.message(f"replaying up to {total:,} actions in every environment")
        elif time.monotonic() >= told_at + REPLAY_LINE_S:
            told_at = time.monotonic()
            display.message(f"replayed {done:,} of {total:,}")

    try:
        offsets = restore(trainer, checkpoint, on_progress, on_file)
    except DamagedError as error:
        raise UserError(f"{checkpoint.path} cannot be resumed: {error}") from error
    aside = set_aside(run, checkpoint) if goes_back else None
    if aside is not None:
        display.message(
            f"goes back to step {checkpoint.step:,}: checkpoints after it, logs and models as they "
            f"were are put aside in {aside}"
        )
    if goes_back:  # also where an earlier attempt put all aside and was ended
        trainer.write_weights(run)
    if trainer.best.score is None:
        run.best_model_file.unlink(missing_ok=True)
    else:
        update_file(run.best_model_file, trainer.best_bytes())
    display.message(f"resumed {run.path} at step {trainer.algorithm.steps:,}")
    return offsets


def _end(
    trainer: Trainer, run: Run, duties: Duties, stop: Stop, until_steps: int, display: Display
) -> Outcome:
    """Write the weights of a run that is done, and how its invocation ended."""
    reason: Reason = "finished"
    if trainer.algorithm.steps < until_steps or duties.owes_evaluation():
        reason = stop.reason() or "finished"
    else:
        trainer.algorithm.learn()  # what the last vector step called for
        duties.check_finite()
        trainer.write_weights(run)
    steps, updates = trainer.algorithm.steps, trainer.algorithm.updates_made
    try:
        seconds = trainer.stopwatch.seconds()
        end_invocation(run, reason, step=steps, seconds=seconds, updates=updates)
    except UserError as error:  # everything that matters is saved
        display.message(f"warning: {error}")
    return Outcome(run, steps, reason)


def _tracked(trainer: Trainer, run: Run, manifest: Manifest, display: Display) -> TrackedLog | None:
    tracking = manifest.get("tracking")
    if tracking is None:
        return None
    settings = settings_shown(trainer.config.model_dump(mode="json"), manifest)
    with trainer.stopwatch.section("logging"):
        return TrackedLog(tracking, settings, folder=run.path, say=display.message)
