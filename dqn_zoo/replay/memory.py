"""Replay memory that stores every frame once.

`frames` is a ring of images; a transition is a row of frame ids; a batch is one gather. Episode
ends, stacks and n-step returns were settled when the row was written, so sampling needs no masks.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dqn_zoo.replay.samplers import Draw, Sampler
from dqn_zoo.replay.shape import FRAME_BYTES, FRAME_SHAPE, ReplayShape
from dqn_zoo.replay.transitions import Transition
from dqn_zoo.system.devices import upload


class Batch(NamedTuple):
    """Transitions with their pixels, on the learner's device.

    Attributes:
        observation: uint8 [batch, stack, 84, 84].
        action: int64 [batch].
        reward: float32 [batch], clipped and summed over n steps.
        discount: float32 [batch], multiplies the bootstrap value.
        next_observation: uint8 [batch, stack, 84, 84].
        weight: float32 [batch], importance of each row in the loss; ones in uniform sampling.
        rows: int64 [batch], positions of the rows in the memory.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    discount: Tensor
    next_observation: Tensor
    weight: Tensor
    rows: Tensor

    def split(self, sizes: int | list[int]) -> "list[Batch]":
        """Return views of so many rows each, in their order."""
        columns = (torch.split(column, sizes) for column in self)
        return [Batch(*parts) for parts in zip(*columns, strict=True)]


class FrameStore:
    """A ring of frames; the id of a frame is its place, and place 0 is a black frame for ever.

    Attributes:
        ring_size: frames kept.
        frames_written: frames ever stored; the next one lies at 1 + frames_written % ring_size.
        pixels: uint8 [1 + ring_size, 84 * 84].
    """

    def __init__(self, ring_size: int, device: torch.device) -> None:
        self.frames_written = 0
        self.ring_size = ring_size
        if device.type == "cpu":
            # numpy's zeros take memory only where they are written to; torch's take it at once.
            self.pixels = torch.from_numpy(np.zeros((ring_size + 1, FRAME_BYTES), np.uint8))
        else:
            self.pixels = torch.zeros(
                (ring_size + 1, FRAME_BYTES), dtype=torch.uint8, device=device
            )

    def append(self, frames: NDArray[np.uint8]) -> NDArray[np.int32]:
        """Store uint8 [rows, 84, 84] over the oldest and return their ids, int32 [rows]."""
        position = (self.frames_written + np.arange(len(frames))) % self.ring_size
        flat = upload(frames.reshape(len(frames), FRAME_BYTES), self.pixels.device)
        start = int(position[0]) if len(frames) else 0
        before_end = min(len(frames), self.ring_size - start)
        # Two slices, because writing at a list of ids costs a thread hand-over for every frame.
        self.pixels[1 + start : 1 + start + before_end].copy_(flat[:before_end])
        self.pixels[1 : 1 + len(frames) - before_end].copy_(flat[before_end:])
        self.frames_written += len(frames)
        return (1 + position).astype(np.int32)

    def gather(self, ids: Tensor) -> Tensor:
        """Return uint8 [rows, stack, 84, 84] for ids [rows, stack]."""
        flat = self.pixels.index_select(0, ids.reshape(-1))
        return flat.view(*ids.shape, *FRAME_SHAPE)


class Replay:
    """The memory: rows of frame ids over a `FrameStore`; a sampler says which are drawn.

    Rows are numbered in the order in which they were added; row k lies at k % capacity. The valid
    rows are `oldest <= k < newest`: a row is evicted when its place is needed or when a frame that
    it refers to may have been overwritten.
    """

    def __init__(self, shape: ReplayShape, sampler: Sampler, device: torch.device) -> None:
        self.shape = shape
        self._sampler = sampler
        self.frames = FrameStore(shape.ring_size, device)
        self._device = device
        self._oldest = 0
        self._newest = 0
        capacity, stack = shape.capacity, shape.stack
        self._rows = {
            "observation": torch.zeros((capacity, stack), dtype=torch.int32, device=device),
            "action": torch.zeros(capacity, dtype=torch.int64, device=device),
            "reward": torch.zeros(capacity, dtype=torch.float32, device=device),
            "discount": torch.zeros(capacity, dtype=torch.float32, device=device),
            "next_observation": torch.zeros((capacity, stack), dtype=torch.int32, device=device),
        }
        # Frames written when the row was added: decides when the row's own frames are gone.
        self._written_at = np.zeros(capacity, np.int64)

    def __len__(self) -> int:
        return self._newest - self._oldest

    def add(self, rows: Transition) -> None:
        """Append transitions; call it after every `FrameStore.append`, also with no rows at all."""
        count = len(rows.action)
        skipped = max(count - self.shape.capacity, 0)  # of more than fits, the last ones stay
        place = self._places(self._newest + skipped, self._newest + count)
        target = upload(place, self._device)
        for name, values in rows._asdict().items():
            self._rows[name][target] = upload(values[skipped:], self._device)
        self._written_at[place] = self.frames.frames_written
        self._newest += count
        if count:
            self._sampler.add(target)
        self._evict()

    def sample(self, batch_size: int, generator: np.random.Generator, *, step: int = 0) -> Batch:
        """Draw transitions and gather them."""
        return self.gather(self.draw(batch_size, generator, step=step))

    def draw(
        self,
        batch_size: int,
        generator: np.random.Generator,
        *,
        step: int = 0,
        num_batches: int = 1,
    ) -> Draw:
        """Draw places of transitions, with replacement.

        Args:
            batch_size: transitions in a minibatch.
            generator: of the choice.
            step: of the run; the sampler's schedules follow it.
            num_batches: how many minibatches, as so many calls would draw them.

        Raises:
            ValueError: if the memory is empty.
        """
        if len(self) == 0:
            raise ValueError("cannot sample from an empty replay memory")
        numbers = range(self._oldest, self._newest)
        return self._sampler.draw(
            numbers, batch_size, generator, step=step, num_batches=num_batches
        )

    def gather(self, draw: Draw) -> Batch:
        """Return the drawn transitions with their pixels."""
        columns = {name: values.index_select(0, draw.rows) for name, values in self._rows.items()}
        columns["observation"] = self.frames.gather(columns["observation"])
        columns["next_observation"] = self.frames.gather(columns["next_observation"])
        return Batch(**columns, weight=draw.weight, rows=draw.rows)

    def update_priorities(self, rows: Tensor, priority: Tensor) -> None:
        """Tell the sampler how surprising rows were; nothing may be added since they were drawn.

        Args:
            rows: int64 [batch], places.
            priority: float32 [batch], >= 0.
        """
        self._sampler.update(rows, priority)

    def _places(self, start: int, stop: int) -> NDArray[np.int64]:
        return np.arange(start, stop) % self.shape.capacity

    def _evict(self) -> None:
        # Rows whose place was taken are gone; the sampler knows the new ones there.
        self._oldest = first = max(self._oldest, self._newest - self.shape.capacity)
        alive = self.shape.ring_size - self.shape.margin
        written = self.frames.frames_written
        while (
            self._oldest < self._newest
            and written - self._written_at[self._oldest % self.shape.capacity] > alive
        ):
            self._oldest += 1
        if self._oldest > first:
            evicted = upload(self._places(first, self._oldest), self._device)
            self._sampler.evict(evicted)

    def state(self) -> dict[str, Any]:
        """Return the counters that a checkpoint keeps, as JSON."""
        return {
            "oldest": self._oldest,
            "newest": self._newest,
            "frames_written": self.frames.frames_written,
            "sampler": self._sampler.state(),
        }

    def rows(self) -> dict[str, Tensor]:
        """Return the columns of all places that were ever written, on the CPU."""
        used = min(self._newest, self.shape.capacity)
        columns = {name: values[:used].cpu() for name, values in self._rows.items()}
        columns["written_at"] = torch.from_numpy(self._written_at[:used])
        return columns | self._sampler.columns(used)

    def restore(self, state: dict[str, Any], rows: dict[str, Tensor]) -> None:
        """Continue from `state` and `rows`; the frames come through `frame_files.py`."""
        self._oldest, self._newest = state["oldest"], state["newest"]
        self.frames.frames_written = state["frames_written"]
        for name, values in self._rows.items():
            values[: len(rows[name])] = rows[name].to(self._device)
        self._written_at[: len(rows["written_at"])] = rows["written_at"].numpy()
        self._sampler.restore(state.get("sampler", {}), rows)
