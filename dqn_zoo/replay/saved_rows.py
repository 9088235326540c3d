"""The rows of a memory as they come back from a checkpoint: none refers to what is not there."""

from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from dqn_zoo.replay.memory import Replay
from dqn_zoo.system.saved import require, unpack

HEADER_BYTES = 2**16  # of a safetensors file with a few columns


def read_rows(
    content: bytes, replay: Replay, state: Mapping[str, Any], *, num_actions: int
) -> dict[str, Tensor]:
    """Unpack what `Replay.rows` gave, and check it; the state of the memory is checked before.

    Raises:
        ValueError: the rows are damaged, or of another memory.
    """
    like, used = replay.rows(), min(state["newest"], replay.shape.capacity)
    row_bytes = sum(col.element_size() * col.shape[1:].numel() for col in like.values())
    try:
        rows = load_tensors(unpack(content, used * row_bytes + HEADER_BYTES, "rows.z"))
    except SafetensorError as error:
        raise ValueError(f"rows.z cannot be read: {error}") from error
    found = {name: (column.dtype, tuple(column.shape)) for name, column in rows.items()}
    expected = {name: (col.dtype, (used, *col.shape[1:])) for name, col in like.items()}
    if found != expected:
        raise ValueError("rows.z is of another buffer_size, frame_stack or kind of replay")
    if not used:
        return rows
    last_id = min(state["frames_written"], replay.shape.ring_size)
    _check_range(rows, "observation", 0, last_id)
    _check_range(rows, "next_observation", 0, last_id)
    _check_range(rows, "action", 0, num_actions - 1)
    _check_range(rows, "discount", 0.0, 1.0)
    _check_range(rows, "reward", torch.finfo().min, torch.finfo().max)
    _check_range(rows, "written_at", 0, state["frames_written"])
    if "priority" in rows:
        _check_range(rows, "priority", 0.0, torch.finfo().max)
    by_age = rows["written_at"].roll(-(state["newest"] % used))
    require(bool((by_age.diff() >= 0).all()), "rows.z", "written_at")
    return rows


def _check_range(rows: Mapping[str, Tensor], name: str, low: float, high: float) -> None:
    inside = (rows[name] >= low) & (rows[name] <= high)  # NaN is neither
    require(bool(inside.all()), "rows.z", name)
