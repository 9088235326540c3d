"""How a run is started, and how it is resumed."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import torch

from dqn_zoo.errors import UserError
from dqn_zoo.play.weights import load_weights
from dqn_zoo.runs.checkpoint import Checkpoint, DamagedError, newest_checkpoint
from dqn_zoo.runs.manifest import (
    Setup,
    append_invocation,
    end_invocation,
    goal_steps,
    has_finished,
    read_manifest,
    write_manifest,
)
from dqn_zoo.runs.metrics import RunLog
from dqn_zoo.runs.run import Run, claim_run, discard_run, lock
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.games import protocol_from_config, random_score
from dqn_zoo.settings.recipes import dump_config
from dqn_zoo.system.files import replace_file
from dqn_zoo.system.machine import keep_freed_memory
from dqn_zoo.system.signals import Stop, StopReason, stop_requests
from dqn_zoo.system.stopwatch import Stopwatch
from dqn_zoo.training.display import Display, Heading, make_display
from dqn_zoo.training.duties import Duties
from dqn_zoo.training.kept_settings import changed_settings
from dqn_zoo.training.loop import training_loop
from dqn_zoo.training.preparation import check_memory, complete
from dqn_zoo.training.snapshot import restore, saved_settings
from dqn_zoo.training.trainer import Trainer

Reason = Literal["finished"] | StopReason
EXIT_CODES: dict[Reason, int] = {"finished": 0, "time_limit": 75, "SIGINT": 130, "SIGTERM": 143}


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
    """

    until_steps: int | None = None
    time_limit_s: float | None = None
    progress: bool | None = None
    tensorboard_folder: Path | None = None
    command: tuple[str, ...] = ()


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
        trained_agent: run folder or weights to start from; counters and schedules start at 0.
        options: see `TrainOptions`.
        announce: told the complete config before anything is built or made.
        stopwatch: counts where the time goes; None: one that starts now.

    Raises:
        UserError: for anything that the user can mend; no run folder is left behind.
    """
    options = options or TrainOptions()
    stopwatch = stopwatch or Stopwatch()
    config = complete(config)
    assert config.seed is not None, "complete draws it"
    check_memory(config)
    if announce is not None:
        announce(config)
    _prepare_process(config)
    with (
        stop_requests(options.time_limit_s) as stop,
        contextlib.closing(Trainer(config, stopwatch)) as trainer,
    ):
        if trained_agent is not None:
            trainer.take_weights(load_weights(trained_agent))
        run = claim_run(log_folder, config.algo, config.env, exp_id=exp_id)
        try:
            with lock(run), _writing(run):
                if trained_agent is not None:  # a resume must not depend on a file elsewhere
                    replace_file(run.initial_model_file, trainer.weights_bytes())
                replace_file(run.config_file, dump_config(config).encode())
                write_manifest(
                    run,
                    _setup(config),
                    command=options.command,
                    seed=config.seed,
                    protocol=asdict(protocol_from_config(config)),
                    until_steps=config.n_timesteps,
                    tensorboard=_tensorboard_folder(run, options),
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
    options: TrainOptions | None = None,
    stopwatch: Stopwatch | None = None,
) -> Outcome:
    """Continue a run from its newest checkpoint that verifies; without any, from step 0.

    Args:
        run: nothing else may be writing it.
        config: the run's own; `device`, `num_threads` and `cuda_graph` may differ, then the bits
            may, too.
        options: see `TrainOptions`.
        stopwatch: counts where the time goes; None: one that starts now.

    Raises:
        UserError: if no checkpoint can be read, or the run is locked or has finished.
    """
    options = options or TrainOptions()
    stopwatch = stopwatch or Stopwatch()
    config = complete(config)
    _prepare_process(config)
    with lock(run), stop_requests(options.time_limit_s) as stop:
        until_steps = _goal(run, options)
        with stopwatch.section("restoring"):
            checkpoint = _find_checkpoint(run)
        changed = _changed_settings(checkpoint, config)
        check_memory(config)
        changes = append_invocation(
            run,
            _setup(config),
            command=options.command,
            resumed_from_step=0 if checkpoint is None else checkpoint.step,
            until_steps=until_steps,
            settings=changed,
        )
        if config.device == "cuda":
            changes.append("a GPU may add in another order")
        if changes:
            print("not bit-exact: " + "; ".join(changes))
        if isinstance(config.learning_rate, str) and until_steps > config.n_timesteps:
            print(f"note: {config.learning_rate} is 0 from step {config.n_timesteps:,} on")
        with contextlib.closing(Trainer(config, stopwatch)) as trainer, _writing(run):
            if checkpoint is None and run.initial_model_file.exists():
                trainer.take_weights(load_weights(run.initial_model_file))
            with _invocation(
                trainer, run, options, stop, until_steps, checkpoint=checkpoint
            ) as invocation:
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
) -> Iterator["_Invocation"]:
    """Set a run up from step 0 or from a checkpoint, and save it when the loop is left."""
    display = make_display(
        options.progress,
        Heading(
            name=run.name,
            n_timesteps=until_steps,
            random_score=random_score(trainer.config.env),
        ),
    )
    tensorboard_folder = Path(read_manifest(run)["tensorboard"] or run.tensorboard)
    with contextlib.closing(display):
        log = RunLog(run, tensorboard_folder=tensorboard_folder, warn=display.message)
        with contextlib.closing(log):
            if checkpoint is None:
                trainer.start()
                log.rollback({}, 0)
                run.best_model_file.unlink(missing_ok=True)  # of an attempt that was killed
                display.message(f"training in {run.path}")
            else:
                with trainer.stopwatch.section("restoring"):
                    offsets = _restore(trainer, checkpoint, run, display)
                log.rollback(offsets, trainer.algorithm.steps)
            duties = Duties(trainer, run, log, display, stop, previous=checkpoint)
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
            replace_file(run.model_file, trainer.weights_bytes())
        try:
            seconds = trainer.stopwatch.seconds()
            steps, updates = trainer.algorithm.steps, trainer.algorithm.updates_made
            end_invocation(run, reason, step=steps, seconds=seconds, updates=updates)
        except UserError as error:  # everything that matters is saved
            display.message(f"warning: {error}")
        invocation._outcome = Outcome(run, trainer.algorithm.steps, reason)


def _prepare_process(config: Config) -> None:
    torch.set_num_threads(config.num_threads)
    keep_freed_memory()


@contextlib.contextmanager
def _writing(run: Run) -> Iterator[None]:
    """Turn a disk that refuses into an error that says what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or run.path} cannot be written ({error.strerror}); make room or make "
            f"it writable, then dqn-train --resume {run.quoted_path} if the run had begun"
        ) from error


def _goal(run: Run, options: TrainOptions) -> int:
    """Return the steps to train to: those of before, or more if the user asks for more.

    Raises:
        UserError: if fewer are asked for, or the run has reached them.
    """
    manifest = read_manifest(run)
    if "origin" in manifest:
        raise UserError(
            f"{run.path} was trained elsewhere and came here as weights, without what a resume "
            f"needs; a new run can start from them: dqn-train -i {run.quoted_path}"
        )
    goal = goal_steps(manifest)
    asked = options.until_steps
    if asked is not None and asked < goal:
        raise UserError(
            f"-n {asked} is below the {goal:,} steps that {run.path} is to reach: a resumed run "
            "takes only a larger -n; --time-limit stops it earlier"
        )
    if has_finished(manifest) and (asked is None or asked == goal):
        raise UserError(
            f"{run.path} has finished its {goal:,} steps; to train on, give a larger -n: "
            f"dqn-train --resume {run.quoted_path} -n {2 * goal}"
        )
    return goal if asked is None else asked


def _tensorboard_folder(run: Run, options: TrainOptions) -> Path | None:
    if options.tensorboard_folder is None:
        return None
    return options.tensorboard_folder / run.path.parent.name / run.name


def _setup(config: Config) -> Setup:
    device: str = config.device
    if device == "cuda":
        device = f"cuda ({torch.cuda.get_device_name()})"
    return Setup(device=device, num_threads=config.num_threads, precision=config.precision)


def _restore(
    trainer: Trainer, checkpoint: Checkpoint, run: Run, display: Display
) -> dict[str, int]:
    """Load a checkpoint, put the best model back to where it was then, return the logs' offsets."""

    def on_progress(done: int, total: int) -> None:
        if done == 0 and total >= 2_000:
            display.message(f"replaying up to {total:,} actions in every environment")

    try:
        offsets = restore(trainer, checkpoint, on_progress)
    except DamagedError as error:
        raise UserError(f"{checkpoint.path} cannot be resumed: {error}") from error
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
