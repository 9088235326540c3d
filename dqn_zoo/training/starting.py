"""How a run is started, and how it is resumed."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

from dqn_zoo.errors import UserError
from dqn_zoo.play.given import find_given, load_given, name_of
from dqn_zoo.runs.checkpoint import Checkpoint, DamagedError, newest_checkpoint
from dqn_zoo.runs.going_back import older_checkpoint
from dqn_zoo.runs.manifest import (
    Tracking,
    append_invocation,
    goal_steps,
    has_finished,
    read_manifest,
    write_manifest,
)
from dqn_zoo.runs.run import Run, claim_run, discard_run, lock
from dqn_zoo.runs.trackers import import_tracker, tracking_of
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.protocols import protocol_from_config
from dqn_zoo.settings.recipes import dump_config
from dqn_zoo.system import shell
from dqn_zoo.system.files import replace_file, update_file
from dqn_zoo.system.signals import stop_requests
from dqn_zoo.system.stopwatch import Stopwatch
from dqn_zoo.training.invocation import (
    Outcome,
    TrainOptions,
    end_if_asked,
    prepare_process,
    set_up,
    setup_of,
    started,
    writing_run,
)
from dqn_zoo.training.kept_settings import changed_settings
from dqn_zoo.training.loop import training_loop
from dqn_zoo.training.preparation import check_memory, complete, remarks
from dqn_zoo.training.snapshot import saved_settings
from dqn_zoo.training.trainer import Trainer


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
    prepare_process(config)
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
    with (
        stop_requests(options.time_limit_s) as stop,
        contextlib.closing(started(config, stopwatch)) as trainer,
    ):
        if given is not None:
            trainer.take_weights(*given)
        run = claim_run(log_folder, config.algo, config.env, exp_id=exp_id)
        try:
            with lock(run), writing_run(run, options):
                if given is not None:  # a resume must not depend on a file elsewhere
                    replace_file(run.initial_model_file, trainer.weights_bytes())
                _describe(run, config, options, tracking=tracking, begins_with=parent)
                goal = config.n_timesteps
                with set_up(trainer, run, options, stop, goal) as invocation:
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
    """Continue a run from its newest checkpoint that verifies; before its first, from step 0.

    Args:
        run: nothing else may be writing it.
        config: the run's own; `device`, `num_threads` and `cuda_graph` may differ, then the bits
            may, too.
        from_step: go back to the checkpoint of this step; what the run has after it is put aside.
        options: see `TrainOptions`.
        stopwatch: counts where the time goes; None: one that starts now.

    Raises:
        Ended: by a signal before the run went on; it is as it was.
        UserError: if no checkpoint can be read, the one of `from_step` least of all, or the run is
            locked or has finished.
    """
    options = options or TrainOptions()
    stopwatch = stopwatch or Stopwatch()
    config = complete(config, may_change=False)
    prepare_process(config)
    with lock(run), stop_requests(options.time_limit_s) as stop:
        until_steps = _goal(run, config, options, from_step)
        with stopwatch.section("restoring"):
            checkpoint = (
                _find_checkpoint(run) if from_step is None else older_checkpoint(run, from_step)
            )
        changed = _changed_settings(checkpoint, config)
        check_memory(config, may_change=False)
        end_if_asked(stop, run, print)
        with contextlib.ExitStack() as ending:
            with _as_it_was(run.manifest_file):
                _note_resume(run, config, options, checkpoint, until_steps, changed)
                trainer = ending.enter_context(contextlib.closing(Trainer(config, stopwatch)))
                ending.enter_context(writing_run(run, options, from_step))
                if checkpoint is None:
                    if run.initial_model_file.exists():
                        given = find_given(run.initial_model_file, run.path)
                        trainer.take_weights(*load_given(given, config))
                    trainer.start()
                invocation = ending.enter_context(
                    set_up(
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


def _describe(
    run: Run,
    config: Config,
    options: TrainOptions,
    *,
    tracking: Tracking | None,
    begins_with: str | None,
) -> None:
    """Write the settings of a new run, and its manifest."""
    assert config.seed is not None, "complete draws it"
    replace_file(run.config_file, dump_config(config).encode())
    folder = options.tensorboard_folder
    write_manifest(
        run,
        setup_of(config),
        command=options.command,
        seed=config.seed,
        protocol=protocol_from_config(config).as_json(),
        until_steps=config.n_timesteps,
        tensorboard=None if folder is None else folder / run.path.parent.name / run.name,
        tracking=tracking,
        begins_with=begins_with,
    )


def _note_resume(
    run: Run,
    config: Config,
    options: TrainOptions,
    checkpoint: Checkpoint | None,
    until_steps: int,
    changed: list[str],
) -> None:
    """Write into the manifest that the run goes on; say if its bits may differ, or it is slow."""
    changes = append_invocation(
        run,
        setup_of(config),
        command=options.command,
        resumed_from_step=0 if checkpoint is None else checkpoint.step,
        until_steps=until_steps,
        settings=changed,
    )
    if config.device != "cpu":
        changes.append("a GPU may add in another order")
    if changes:
        print("not bit-exact: " + "; ".join(changes))
    for kind, line in remarks(config, config, may_change=False):
        if kind == "warning":
            print(f"warning: {line}")
    if _rate_falls_to_0(config) and until_steps > config.n_timesteps:
        print(
            f"note: {config.learning_rate} is 0 from step {config.n_timesteps:,} on, where nothing "
            "more is learned; a new run can start from these weights: "
            + shell.command("dqn-train", "-i", run.path)
        )


def _rate_falls_to_0(config: Config) -> bool:
    """Return whether the learning rate is 0 after the config's own steps."""
    return isinstance(config.learning_rate, str)


@contextlib.contextmanager
def _as_it_was(file: Path) -> Iterator[None]:
    """Put a file back as it was, where what follows is refused."""
    content = file.read_bytes()
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # on a full disk it is as it was
            update_file(file, content)
        raise


def _goal(run: Run, config: Config, options: TrainOptions, from_step: int | None) -> int:
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
        if _rate_falls_to_0(config):
            raise UserError(
                f"{run.path} has finished its {goal:,} steps, and its learning rate is 0; a new "
                "run can start from its weights: " + shell.command("dqn-train", "-i", run.path)
            )
        raise UserError(
            f"{run.path} has finished its {goal:,} steps; to train on, give a larger -n: "
            + shell.command("dqn-train", "--resume", run.path, "-n", 2 * goal)
        )
    return goal if asked is None else asked


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
        UserError: if there were checkpoints and none can be read.
    """
    checkpoint, skipped = newest_checkpoint(run.checkpoints)
    for passed in skipped:
        print(f"skipped {passed.path}: {passed.reason}")
    if checkpoint is not None:
        return checkpoint
    missing = f"none of the checkpoints in {run.checkpoints} can be read"
    if run.model_file.exists():  # weights are written beside a checkpoint, never before the first
        if not skipped:
            missing = f"{run.checkpoints} has no checkpoint any more"
        raise UserError(
            f"{missing}, and a resume needs one; a new run can start from the weights: "
            + shell.command("dqn-train", "-i", run.path)
        )
    if skipped:
        raise UserError(f"{missing}; remove that folder to start this run again from step 0")
    print(f"{run.path} has no checkpoint yet: it starts again from step 0 with the same seed")
    return None
