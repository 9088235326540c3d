"""How a run is started, and how it is resumed."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from dqn_zoo.errors import UserError
from dqn_zoo.play.given import find_given, load_given, name_of
from dqn_zoo.runs.checkpoint import Checkpoint, DamagedError, newest_checkpoint
from dqn_zoo.runs.going_back import older_checkpoint, set_aside
from dqn_zoo.runs.manifest import (
    Manifest,
    Setup,
    append_invocation,
    end_invocation,
    goal_steps,
    has_finished,
    read_manifest,
    write_manifest,
)
from dqn_zoo.runs.metrics import RunLog
from dqn_zoo.runs.run import Run, claim_run, discard_run, lock, resume_command
from dqn_zoo.runs.trackers import (
    TrackedLog,
    TrackTo,
    import_tracker,
    settings_shown,
    tracking_of,
)
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.protocols import protocol_from_config, published_scores
from dqn_zoo.settings.recipes import dump_config
from dqn_zoo.system import shell
from dqn_zoo.system.files import replace_file
from dqn_zoo.system.machine import keep_freed_memory
from dqn_zoo.system.signals import EXIT_CODES as STOPPED_CODES
from dqn_zoo.system.signals import Ended, Stop, StopReason, ends_at_once, stop_requests
from dqn_zoo.system.stopwatch import Stopwatch
from dqn_zoo.training.backup import Backup, NoBackup, finishing
from dqn_zoo.training.display import Display, Heading, make_display
from dqn_zoo.training.duties import Duties
from dqn_zoo.training.kept_settings import changed_settings
from dqn_zoo.training.loop import training_loop
from dqn_zoo.training.preparation import check_memory, complete
from dqn_zoo.training.snapshot import restore, saved_settings
from dqn_zoo.training.trainer import Trainer

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
        command: command line, for the manifest.
        backup: where the checkpoints go while it trains.
    """

    until_steps: int | None = None
    time_limit_s: float | None = None
    progress: bool | None = None
    tensorboard_folder: Path | None = None
    track: TrackTo | None = None
    command: tuple[str, ...] = ()
    backup: Backup = field(default_factory=NoBackup)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an invocation ended: which run, at which step, and why."""

    run: Run
    steps: int
    reason: Reason


def train(
    config: Config,
    *,
    log_folder: str | Path = "logs",
    exp_id: int | None = None,
    trained_agent: Path | None = None,
    options: TrainOptions | None = None,
    announce: Callable[[Config], None] | None = None,
    stopwatch: Stopwatch | None = None,
) -> Outcome:
    """Train a new run in the next free folder of `log_folder`.

    Args:
        config: as `recipes.resolve(...).config` gives it; what it leaves open is chosen here.
        log_folder: holds the runs; the run becomes `log_folder/ALGO/GAME_N`.
        exp_id: number of the run, if it must be this one.
        trained_agent: run, checkpoint or weights to start from, see `given.find_given`; counters
            and schedules start at 0.
        options: see `TrainOptions`.
        announce: told the complete config before anything is built or made.
        stopwatch: counts where the time goes; None: one that starts now.

    Raises:
        UserError: for anything that the user can mend; no run folder is left behind.
    """
    options = options or TrainOptions()
    stopwatch = stopwatch or Stopwatch()
    if options.track is not None:
        import_tracker(options.track.tracker)
    config = complete(config)
    assert config.seed is not None, "complete draws it"
    tracking = options.track and tracking_of(
        options.track, env=config.env, algo=config.algo, seed=config.seed
    )
    check_memory(config)
    if announce is not None:
        announce(config)
    given, parent = None, None
    if trained_agent is not None:
        found = find_given(trained_agent, Path(log_folder))
        given, parent = load_given(found, config), name_of(found)
    prepare_process(config)
    with (
        stop_requests(options.time_limit_s) as stop,
        contextlib.closing(started(config, stopwatch)) as trainer,
    ):
        if given is not None:
            trainer.take_weights(*given)
        run = claim_run(log_folder, config.algo, config.env, exp_id=exp_id)
        try:
            with lock(run), _writing(run):
                if given is not None:  # a resume must not depend on a file elsewhere
                    replace_file(run.initial_model_file, trainer.weights_bytes())
                replace_file(run.config_file, dump_config(config).encode())
                write_manifest(
                    run,
                    _setup(config),
                    command=options.command,
                    seed=config.seed,
                    protocol=protocol_from_config(config).as_json(),
                    until_steps=config.n_timesteps,
                    tensorboard=_tensorboard_folder(run, options),
                    tracking=tracking,
                    begins_with=parent,
                )
                goal = config.n_timesteps
                with _invocation(trainer, run, options, stop, goal) as invocation:
                    training_loop(trainer, invocation.duties, stop, until_steps=goal)
                return invocation.outcome
        except BaseException:
            discard_run(run)  # keeps the folder once something was trained
            raise


def resume(
    run: Run,
    config: Config,
    *,
    from_step: int | None = None,
    options: TrainOptions | None = None,
    stopwatch: Stopwatch | None = None,
) -> Outcome:
    """Continue a run from its newest checkpoint that verifies; without any, from step 0.

    Args:
        run: nothing else may be writing it.
        config: the run's own; `device`, `num_threads` and `cuda_graph` may differ, then the bits
            may, too.
        from_step: go back to the checkpoint of this step; what the run has after it is put aside.
        options: see `TrainOptions`.
        stopwatch: counts where the time goes; None: one that starts now.

    Raises:
        UserError: if no checkpoint can be read, the one of `from_step` least of all, or the run is
            locked or has finished.
    """
    options = options or TrainOptions()
    stopwatch = stopwatch or Stopwatch()
    config = complete(config)
    prepare_process(config)
    with lock(run), stop_requests(options.time_limit_s) as stop:
        until_steps = _goal(run, options, from_step)
        with stopwatch.section("restoring"):
            checkpoint = (
                _find_checkpoint(run) if from_step is None else older_checkpoint(run, from_step)
            )
        changed = _changed_settings(checkpoint, config)
        check_memory(config)
        with contextlib.ExitStack() as ending:
            with _as_it_was(run.manifest_file):
                changes = append_invocation(
                    run,
                    _setup(config),
                    command=options.command,
                    resumed_from_step=0 if checkpoint is None else checkpoint.step,
                    until_steps=until_steps,
                    settings=changed,
                )
                if config.device != "cpu":
                    changes.append("a GPU may add in another order")
                if changes:
                    print("not bit-exact: " + "; ".join(changes))
                if isinstance(config.learning_rate, str) and until_steps > config.n_timesteps:
                    print(f"note: {config.learning_rate} is 0 from step {config.n_timesteps:,} on")
                trainer = ending.enter_context(contextlib.closing(Trainer(config, stopwatch)))
                ending.enter_context(_writing(run))
                if checkpoint is None and run.initial_model_file.exists():
                    trainer.take_weights(
                        *load_given(find_given(run.initial_model_file, run.path), config)
                    )
                if checkpoint is None:
                    trainer.start()
                invocation = ending.enter_context(
                    _invocation(
                        trainer,
                        run,
                        options,
                        stop,
                        until_steps,
                        checkpoint=checkpoint,
                        goes_back=from_step is not None,
                    )
                )
            training_loop(trainer, invocation.duties, stop, until_steps=until_steps)
        return invocation.outcome


@dataclass(slots=True)
class _Invocation:
    """A run that is set up: what is due between its steps, and afterwards how it ended."""

    duties: Duties
    _outcome: Outcome | None = None

    @property
    def outcome(self) -> Outcome:
        assert self._outcome is not None, "the invocation has not ended"
        return self._outcome


@contextlib.contextmanager
def _invocation(
    trainer: Trainer,
    run: Run,
    options: TrainOptions,
    stop: Stop,
    until_steps: int,
    *,
    checkpoint: Checkpoint | None = None,
    goes_back: bool = False,
) -> Iterator["_Invocation"]:
    """Set a run up, started or from a checkpoint, and save it when the loop is left."""
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
                trainer, run, log, display, stop, previous=checkpoint, backup=options.backup
            )
            invocation = _Invocation(duties)
            with trainer.stopwatch.section("everything else"):
                yield invocation
            duties.save_at_the_end()
        reason: Reason = "finished"
        if trainer.algorithm.steps < until_steps or duties.owes_evaluation():
            reason = stop.reason() or "finished"
        else:
            trainer.algorithm.learn()  # what the last vector step called for
            duties.check_finite()
            trainer.write_weights(run)
        try:
            seconds = trainer.stopwatch.seconds()
            steps, updates = trainer.algorithm.steps, trainer.algorithm.updates_made
            end_invocation(run, reason, step=steps, seconds=seconds, updates=updates)
        except UserError as error:  # everything that matters is saved
            display.message(f"warning: {error}")
        invocation._outcome = Outcome(run, trainer.algorithm.steps, reason)


def started(config: Config, stopwatch: Stopwatch) -> Trainer:
    """Return a run at step 0; as long as its emulators start, a signal ends the process."""
    with ends_at_once():
        trainer = Trainer(config, stopwatch)
        trainer.start()
    return trainer


def prepare_process(config: Config) -> None:
    """Let PyTorch and the C library compute as the run wants it.

    Adam's averages of units that stay at 0 fade to denormal numbers, a third of them after 200,000
    steps of Pong, and a processor takes a hundred cycles for each. The units are done for either
    way; what they would add to a weight is far below its last digit.
    """
    torch.set_flush_denormal(True)  # before the first parallel work: threads inherit it
    torch.set_num_threads(config.num_threads)
    keep_freed_memory()


@contextlib.contextmanager
def _as_it_was(file: Path) -> Iterator[None]:
    """Put a file back as it was, where what follows is refused."""
    content = file.read_bytes()
    try:
        yield
    except BaseException:
        replace_file(file, content)
        raise


@contextlib.contextmanager
def _writing(run: Run) -> Iterator[None]:
    """Turn a disk that refuses into an error that says what to do."""
    try:
        yield
    except OSError as error:
        resume = resume_command(run)
        raise UserError(
            f"{error.filename or run.path} cannot be written ({error.strerror}); make room or make "
            f"it writable, then {f'{resume} goes on' if resume else 'start the run again'}"
        ) from error


def _goal(run: Run, options: TrainOptions, from_step: int | None) -> int:
    """Return the steps to train to: those of before, or more if the user asks for more.

    Raises:
        UserError: if fewer are asked for, or the run has reached them.
    """
    manifest = read_manifest(run)
    if "origin" in manifest:
        raise UserError(
            f"{run.path} was trained elsewhere and came here as weights, without what a resume "
            "needs; a new run can start from them: " + shell.command("dqn-train", "-i", run.path)
        )
    goal = goal_steps(manifest)
    asked = options.until_steps
    if asked is not None and asked < goal:
        raise UserError(
            f"-n {asked} is below the {goal:,} steps that {run.path} is to reach: a resumed run "
            "takes only a larger -n; --time-limit stops it earlier"
        )
    goes_back = from_step is not None and from_step < goal
    if has_finished(manifest) and not goes_back and (asked is None or asked == goal):
        raise UserError(
            f"{run.path} has finished its {goal:,} steps; to train on, give a larger -n: "
            + shell.command("dqn-train", "--resume", run.path, "-n", 2 * goal)
        )
    return goal if asked is None else asked


def _tensorboard_folder(run: Run, options: TrainOptions) -> Path | None:
    if options.tensorboard_folder is None:
        return None
    return options.tensorboard_folder / run.path.parent.name / run.name


def _tracked(trainer: Trainer, run: Run, manifest: Manifest, display: Display) -> TrackedLog | None:
    tracking = manifest.get("tracking")
    if tracking is None:
        return None
    settings = settings_shown(trainer.config.model_dump(mode="json"), manifest)
    with trainer.stopwatch.section("logging"):
        return TrackedLog(tracking, settings, folder=run.path, say=display.message)


def _setup(config: Config) -> Setup:
    device: str = config.device
    if device == "cuda":
        device = f"cuda ({torch.cuda.get_device_name()})"
    return Setup(device=device, num_threads=config.num_threads, precision=config.precision)


def _restore(
    trainer: Trainer,
    checkpoint: Checkpoint,
    run: Run,
    display: Display,
    stop: Stop,
    *,
    goes_back: bool,
) -> dict[str, int]:
    """Load a checkpoint, put the best model back to where it was then, return the logs' offsets.

    Raises:
        Ended: by a signal before the run went on; the checkpoint is as it was.
    """
    told_at = time.monotonic()

    def on_progress(done: int, total: int) -> None:
        nonlocal told_at
        reason = stop.reason()
        if reason is not None and reason != "time_limit":
            display.message(f"stopped before {run.path} went on; it is as it was")
            raise Ended(reason)
        if done == 0 and total >= 2_000:
            display.message(f"replaying up to {total:,} actions in every environment")
        elif time.monotonic() >= told_at + REPLAY_LINE_S:
            told_at = time.monotonic()
            display.message(f"replayed {done:,} of {total:,}")

    try:
        offsets = restore(trainer, checkpoint, on_progress)
    except DamagedError as error:
        raise UserError(f"{checkpoint.path} cannot be resumed: {error}") from error
    aside = set_aside(run, checkpoint) if goes_back else None
    if aside is not None:
        display.message(
            f"goes back to step {checkpoint.step:,}: checkpoints after it, logs and models as they "
            f"were are put aside in {aside}"
        )
    if trainer.best.score is None:
        run.best_model_file.unlink(missing_ok=True)
    else:
        replace_file(run.best_model_file, trainer.best_bytes())
    display.message(f"resumed {run.path} at step {trainer.algorithm.steps:,}")
    return offsets


def _changed_settings(checkpoint: Checkpoint | None, config: Config) -> list[str]:
    """Return what the settings of a checkpoint and those of now differ in.

    Raises:
        UserError: one of them must not differ, or the checkpoint cannot be read.
    """
    if checkpoint is None:
        return []
    try:
        return changed_settings(saved_settings(checkpoint), config)
    except DamagedError as error:
        raise UserError(f"{checkpoint.path} cannot be resumed: {error}") from error


def _find_checkpoint(run: Run) -> Checkpoint | None:
    """Return the newest checkpoint that verifies, saying what was passed over and why.

    Raises:
        UserError: if there are checkpoints and none can be read.
    """
    checkpoint, skipped = newest_checkpoint(run.checkpoints)
    for passed in skipped:
        print(f"skipped {passed.path}: {passed.reason}")
    if checkpoint is None and skipped:
        raise UserError(
            f"none of the checkpoints in {run.checkpoints} can be read; remove that folder to "
            "start this run again from step 0"
        )
    if checkpoint is None:
        print(f"{run.path} has no checkpoint yet: it starts again from step 0 with the same seed")
    return checkpoint
