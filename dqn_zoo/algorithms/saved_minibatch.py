"""The minibatch that lies ready for the next update, in a checkpoint.

Its pixels are kept: when the run goes on, the memory may have written over what was drawn.
"""

import math
import zlib
from collections.abc import Sequence

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from dqn_zoo.learning.losses import Minibatch
from dqn_zoo.replay.shape import FRAME_SHAPE
from dqn_zoo.settings.config import Config
from dqn_zoo.system.devices import channels_last
from dqn_zoo.system.saved import require, unpack

READY = "ready.z"
HEADER_BYTES = 2**12  # of a safetensors file with four columns


def minibatch_bytes(minibatch: Minibatch) -> bytes:
    """Return a minibatch as a compressed file."""
    columns = {name: column.contiguous() for name, column in minibatch._asdict().items()}
    return zlib.compress(save_tensors(columns), 1)


def read_minibatch(
    content: bytes, shape: Sequence[int], config: Config, *, num_actions: int
) -> Minibatch:
    """Unpack what `minibatch_bytes` gave, and check it; `shape`, of the targets, is the state's.

    Raises:
        ValueError: it is damaged, or of another run.
    """
    num_rows = shape[0]
    pixels = (num_rows, config.frame_stack, *FRAME_SHAPE)
    most_bytes = math.prod(pixels) + num_rows * (8 + 4) + 4 * math.prod(shape) + HEADER_BYTES
    try:
        columns = load_tensors(unpack(content, most_bytes, READY))
    except SafetensorError as error:
        raise ValueError(f"{READY} cannot be read: {error}") from error
    found = {name: (column.dtype, tuple(column.shape)) for name, column in columns.items()}
    expected = {
        "observation": (torch.uint8, pixels),
        "action": (torch.int64, (num_rows,)),
        "weight": (torch.float32, (num_rows,)),
        "targets": (torch.float32, tuple(shape)),
    }
    if found != expected:
        raise ValueError(f"{READY} is of another frame_stack, or not what the state says")
    minibatch = Minibatch(**columns)
    valid = (minibatch.action >= 0) & (minibatch.action < num_actions)
    require(bool(valid.all()), READY, "action")
    require(bool((minibatch.weight == 1.0).all()), READY, "weight")  # drawn uniformly
    require(bool(minibatch.targets.isfinite().all()), READY, "targets")
    return minibatch._replace(observation=channels_last(minibatch.observation))
