"""What a checkpoint holds, and how a run goes on from one.

state.json           settings, counters, generators, logs' lengths, and the games: seeds and
                     actions since
model.safetensors    the weights that play
online_model.safetensors
                     those that learn, where an average of them plays
best.safetensors     those of the best evaluation, once there was one
...                  whatever the algorithm keeps, such as target network, optimizer and memory
"""

import json
import time
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Annotated, Any

from pydantic import Field
from safetensors import SafetensorError

from dqn_zoo.algorithms.algorithm import Files
from dqn_zoo.errors import UserError
from dqn_zoo.learning.averaged import ONLINE_FILE
from dqn_zoo.learning.optimizers import read_pickled
from dqn_zoo.play.weights import parse_weights
from dqn_zoo.runs.checkpoint import Checkpoint, DamagedError
from dqn_zoo.system.saved import Count, Finite, Saved, require
from dqn_zoo.training.trainer import Best, Trainer

STATE = "state.json"
MODEL = "model.safetensors"
BEST = "best.safetensors"
OPTIMIZER = "optimizer.safetensors"  # earlier versions kept optimizer.pt


def snapshot(trainer: Trainer, log_offsets: dict[str, int], previous: Checkpoint | None) -> Files:
    """Yield name and content of every file of a checkpoint; None: as in `previous`."""
    yield STATE, _state_bytes(trainer, log_offsets)
    yield MODEL, trainer.weights_bytes()
    if trainer.algorithm.played.is_averaged:
        yield ONLINE_FILE, trainer.online_bytes()
    if trainer.best.score is not None:
        yield BEST, trainer.best_bytes()
    before = None if previous is None else json.loads(previous.read(STATE))
    yield from trainer.algorithm.files(before)


def restore(
    trainer: Trainer,
    checkpoint: Checkpoint,
    on_progress: Callable[[int, int], None] | None = None,
    on_file: Callable[[], None] | None = None,
) -> dict[str, int]:
    """Continue from a verified checkpoint, with a new trainer; return the byte offsets of the logs.

    `on_file` is called before each large file is read, `on_progress` is told (done, total) while
    the emulators replay their actions; either may raise.

    Raises:
        DamagedError: if something in it cannot be, or the emulators do not arrive at what was
            stored.
        UserError: if it is of other settings.
    """

    def read(name: str) -> bytes:
        if on_file is not None:
            on_file()
        return _read_file(checkpoint, name)

    try:
        state = _read_state(checkpoint)
        saved = _SavedRun.read(state)
        _check(saved, checkpoint, trainer)
        offsets = saved.log_offsets
        trainer.log_rows = saved.counters.log_rows
        trainer.evaluations = saved.counters.evaluations
        trainer.elapsed_before_s = saved.elapsed_s
        trainer.began = time.monotonic()
        trainer.best = Best(saved.best.score, saved.best.steps)
        if trainer.best.score is not None:
            trainer.best.weights = parse_weights(checkpoint.read(BEST))
        trainer.statistics.restore(state["statistics"])
        trainer.algorithm.restore(state, read)
        trainer.observation = trainer.envs.restore(state["environments"], on_progress)
        trainer.algorithm.check_restored(trainer.observation)
    except UserError:
        raise
    except _DAMAGE as error:
        raise DamagedError(" ".join(str(error).split())[:300] or type(error).__name__) from error
    return offsets


def saved_settings(checkpoint: Checkpoint) -> dict[str, Any] | None:
    """Return the settings that a checkpoint was made with; earlier versions did not keep them.

    Raises:
        DamagedError: its state is no JSON object.
    """
    try:
        return _SavedSettings.read(_read_state(checkpoint)).config
    except _DAMAGE as error:
        raise DamagedError(f"{STATE}: {error}") from error


class _SavedSettings(Saved):
    config: dict[str, Any] | None = None


class _SavedCounters(Saved):
    steps: Count
    log_rows: Count
    evaluations: Count


class _SavedBest(Saved):
    score: Finite | None
    steps: Count


class _SavedLog(Saved):
    steps: Count


class _SavedEnvironments(Saved):
    environments: list[_SavedLog]


class _SavedRun(_SavedSettings):
    environments: _SavedEnvironments
    counters: _SavedCounters
    best: _SavedBest
    elapsed_s: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    log_offsets: dict[str, Count]


_DAMAGE = (
    ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError, OverflowError,
    RecursionError, MemoryError, EOFError, OSError, UnpicklingError, SafetensorError,
)  # fmt: skip
"""What reading damaged bytes raises in the libraries that read them."""


def _read_state(checkpoint: Checkpoint) -> dict[str, Any]:
    state = json.loads(checkpoint.read(STATE))
    if not isinstance(state, dict):
        raise ValueError(f"{STATE} is no JSON object")
    return state


def _read_file(checkpoint: Checkpoint, name: str) -> bytes:
    if name == OPTIMIZER and name not in checkpoint.files:
        return read_pickled(checkpoint.read("optimizer.pt"))
    content = checkpoint.read(name)
    if name.endswith(".safetensors"):
        try:
            parse_weights(content)
        except DamagedError as error:
            raise ValueError(f"{name}: {error}") from error
    return content


def _check(saved: _SavedRun, checkpoint: Checkpoint, trainer: Trainer) -> None:
    """Compare the counters of a run with each other.

    Raises:
        ValueError: they cannot all be true.
    """
    config, steps, counters = trainer.config, saved.counters.steps, saved.counters
    require(steps == checkpoint.step, "counters.steps", steps)
    require(saved.best.steps <= steps, "best.steps", saved.best.steps)
    for log in saved.environments.environments:
        require(log.steps <= steps // config.n_envs, "environments.steps", log.steps)
    if saved.config is None:
        return
    before = max(0, steps - config.n_envs)
    due = ((counters.log_rows, config.log_interval), (counters.evaluations, config.eval_freq))
    for done, every in due:
        low, high = (before // every, steps // every) if every else (0, 0)
        require(low <= done <= high, "counters", done)


def _state_bytes(trainer: Trainer, log_offsets: dict[str, int]) -> bytes:
    """Return everything small that a checkpoint keeps; floats survive JSON exactly."""
    state = trainer.algorithm.state()
    state["counters"] |= {"log_rows": trainer.log_rows, "evaluations": trainer.evaluations}
    state |= {
        "best": {"score": trainer.best.score, "steps": trainer.best.steps},
        "elapsed_s": trainer.elapsed_s,
        "environments": trainer.envs.state(),
        "statistics": trainer.statistics.state(),
        "log_offsets": log_offsets,
        "config": trainer.config.model_dump(mode="json"),
    }
    return json.dumps(state).encode()
