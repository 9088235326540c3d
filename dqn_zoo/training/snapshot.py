"""What a checkpoint holds, and how a run goes on from one.

state.json           counters, generators, logs' lengths, and the games: seeds and actions since
model.safetensors    the weights that play
best.safetensors     those of the best evaluation, once there was one
...                  whatever the algorithm keeps, such as target network, optimizer and memory
"""

import json
import time
from collections.abc import Callable
from typing import Any

from safetensors.torch import load as load_tensors

from dqn_zoo.algorithms.algorithm import Files
from dqn_zoo.runs.checkpoint import Checkpoint, DamagedError
from dqn_zoo.training.trainer import Best, Trainer

STATE = "state.json"
MODEL = "model.safetensors"
BEST = "best.safetensors"


def snapshot(trainer: Trainer, log_offsets: dict[str, int], previous: Checkpoint | None) -> Files:
    """Yield name and content of every file of a checkpoint; None: as in `previous`."""
    yield STATE, _state_bytes(trainer, log_offsets)
    yield MODEL, trainer.weights_bytes()
    if trainer.best.score is not None:
        yield BEST, trainer.best_bytes()
    before = None if previous is None else json.loads(previous.read(STATE))
    yield from trainer.algorithm.files(before)


def restore(
    trainer: Trainer,
    checkpoint: Checkpoint,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[str, int]:
    """Continue from a checkpoint and return the byte offsets of the logs.

    Args:
        trainer: newly built; nothing of it was started.
        checkpoint: verified.
        on_progress: told (done, total) while the emulators replay their actions.

    Raises:
        DamagedError: if the emulators do not arrive at what was stored.
    """
    state: dict[str, Any] = json.loads(checkpoint.read(STATE))
    trainer.log_rows = state["counters"]["log_rows"]
    trainer.evaluations = state["counters"]["evaluations"]
    trainer.elapsed_before_s = state["elapsed_s"]
    trainer.began = time.monotonic()
    trainer.best = Best(**state["best"])
    if trainer.best.score is not None:
        trainer.best.weights = load_tensors(checkpoint.read(BEST))
    trainer.statistics.restore(state["statistics"])
    trainer.algorithm.restore(state, checkpoint.read)
    trainer.observation = trainer.envs.restore(state["environments"], on_progress)
    try:
        trainer.algorithm.check_restored(trainer.observation)
    except ValueError as error:
        raise DamagedError(str(error)) from error
    offsets: dict[str, int] = state["log_offsets"]
    return offsets


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
    }
    return json.dumps(state).encode()
