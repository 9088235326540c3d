"""Samplers: which rows of the memory make the next minibatch.

One memory serves both. A sampler knows rows by their place alone; what they hold is not its affair.

What is random comes from a numpy generator on every device, so that a run draws in the same order
on a CPU and on a GPU and a checkpoint keeps one state. To a GPU goes one small copy per minibatch;
searching and gathering happen there.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from dqn_zoo.replay.sum_tree import SumTree
from dqn_zoo.schedules import LinearSchedule
from dqn_zoo.settings.config import Config
from dqn_zoo.system.devices import most_exact, upload


class Draw(NamedTuple):
    """Rows drawn for one minibatch, or for several, one behind the other.

    Attributes:
        rows: int64 [num_batches * batch], places in the memory.
        weight: float32 [num_batches * batch], what each row counts in the loss.
    """

    rows: Tensor
    weight: Tensor

    def split(self, size: int) -> "list[Draw]":
        """Return views of so many rows each, in their order; the last may have fewer."""
        columns = (torch.split(column, size) for column in self)
        return [Draw(*parts) for parts in zip(*columns, strict=True)]


class Sampler(Protocol):
    """Anything that draws rows."""

    def add(self, rows: Tensor) -> None:
        """Take note of new rows at these places, int64 [count]."""
        ...

    def evict(self, rows: Tensor) -> None:
        """Never draw the rows at these places again, int64 [count]."""
        ...

    def draw(
        self,
        numbers: range,
        batch_size: int,
        generator: np.random.Generator,
        *,
        step: int,
        num_batches: int = 1,
    ) -> Draw:
        """Draw rows with replacement; several minibatches are those of as many calls.

        Args:
            numbers: of the valid rows, in the order of their arrival; row k lies at place
                k % capacity.
            batch_size: rows in a minibatch.
            generator: of the choice.
            step: of the run, for schedules.
            num_batches: how many minibatches.
        """
        ...

    def update(self, rows: Tensor, priority: Tensor) -> None:
        """Take note of how surprising rows were: float [batch], >= 0."""
        ...

    def columns(self, used: int) -> dict[str, Tensor]:
        """Return what a checkpoint keeps of each of the first `used` places, on the CPU."""
        ...

    def state(self) -> dict[str, Any]:
        """Return what else a checkpoint keeps, as JSON."""
        ...

    def restore(self, state: dict[str, Any], columns: dict[str, Tensor]) -> None:
        """Continue from `state` and `columns`."""
        ...


class UniformSampler:
    """Every row with the same probability and weight (Mnih et al., 2015)."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        self._capacity = capacity
        self._device = device

    def add(self, rows: Tensor) -> None:
        """Do nothing: a row has no state."""

    def evict(self, rows: Tensor) -> None:
        """Do nothing: only valid rows are drawn."""

    def draw(
        self,
        numbers: range,
        batch_size: int,
        generator: np.random.Generator,
        *,
        step: int,
        num_batches: int = 1,
    ) -> Draw:
        """Draw from `numbers`; all weights are 1."""
        drawn = generator.integers(numbers.start, numbers.stop, size=num_batches * batch_size)
        rows = upload(drawn % self._capacity, self._device)
        return Draw(rows, torch.ones(len(drawn), device=self._device))

    def update(self, rows: Tensor, priority: Tensor) -> None:
        """Do nothing."""

    def columns(self, used: int) -> dict[str, Tensor]:
        """Return nothing."""
        return {}

    def state(self) -> dict[str, Any]:
        """Return nothing."""
        return {}

    def restore(self, state: dict[str, Any], columns: dict[str, Tensor]) -> None:
        """Do nothing."""


class PrioritizedSampler:
    """Surprising rows more often, and weights that undo the bias (Schaul et al., 2016).

    https://arxiv.org/abs/1511.05952, the proportional variant of algorithm 1: a row is drawn with a
    probability proportional to (priority + floor)**exponent and weighs (N P)**-beta, divided by the
    largest weight of its minibatch. New rows get the largest priority so far.

    Args:
        capacity: of the memory.
        device: where rows and weights are wanted.
        exponent: alpha; 0 draws uniformly.
        beta: share of the bias that the weights undo, by step.
        floor: keeps rows without any error in play.
    """

    def __init__(
        self,
        capacity: int,
        device: torch.device,
        *,
        exponent: float,
        beta: LinearSchedule,
        floor: float,
    ) -> None:
        self._exponent = exponent
        self._beta = beta
        self._floor = floor
        self._tree = SumTree(capacity, device)
        # Of all (priority + floor)**exponent so far; on the device, so that nothing waits for it.
        self._largest = torch.ones((), dtype=most_exact(device), device=device)

    def add(self, rows: Tensor) -> None:
        """Give new rows the largest priority so far."""
        self._tree.set(rows, self._largest.expand(len(rows)))

    def evict(self, rows: Tensor) -> None:
        """Give rows the probability 0."""
        self._tree.set(rows, torch.zeros_like(rows, dtype=self._largest.dtype))

    def draw(
        self,
        numbers: range,
        batch_size: int,
        generator: np.random.Generator,
        *,
        step: int,
        num_batches: int = 1,
    ) -> Draw:
        """Draw one row from each of `batch_size` equal shares of the mass (appendix B.2.1)."""
        within = generator.random((num_batches, batch_size))
        shares = (np.arange(batch_size) + within) / batch_size
        total = self._tree.total()
        rows = self._tree.find(upload(shares.reshape(-1), total.device) * total)
        probability = self._tree.leaves[rows] / total
        weight = (len(numbers) * probability) ** -self._beta(step)
        weight = weight.view(num_batches, batch_size)
        weight = weight / weight.amax(dim=1, keepdim=True)
        return Draw(rows, weight.view(-1).float())

    def update(self, rows: Tensor, priority: Tensor) -> None:
        """Set the priorities of rows; one that was drawn twice keeps the larger."""
        powers = (priority.to(self._largest.dtype) + self._floor) ** self._exponent
        self._largest = torch.maximum(self._largest, powers.max())
        self._tree.set(rows, powers)

    def columns(self, used: int) -> dict[str, Tensor]:
        """Return the leaves of the tree; its sums are made of them."""
        return {"priority": self._tree.leaves[:used].cpu().double()}

    def state(self) -> dict[str, Any]:
        """Return the largest priority."""
        return {"largest_priority": self._largest.item()}

    def restore(self, state: dict[str, Any], columns: dict[str, Tensor]) -> None:
        """Rebuild the tree from its leaves; its bits are those that were saved."""
        self._largest.fill_(state["largest_priority"])
        self._tree.rebuild(columns["priority"])


def build_sampler(config: Config, device: torch.device) -> Sampler:
    """Build the sampler of a run."""
    return SAMPLERS[config.replay](config, device)


def _uniform(config: Config, device: torch.device) -> Sampler:
    return UniformSampler(config.buffer_size, device)


def _prioritized(config: Config, device: torch.device) -> Sampler:
    return PrioritizedSampler(
        config.buffer_size,
        device,
        exponent=config.priority_exponent,
        beta=LinearSchedule(
            config.priority_weight_initial, config.priority_weight_final, config.n_timesteps
        ),
        floor=config.priority_floor,
    )


SAMPLERS: dict[str, Callable[[Config, torch.device], Sampler]] = {
    "uniform": _uniform,
    "prioritized": _prioritized,
}
