"""A tree of sums: drawing rows with given probabilities in logarithmic time."""

from itertools import pairwise

import torch
from torch import Tensor

from dqn_zoo.system.devices import most_exact

FANOUT = 16


class SumTree:
    """Numbers >= 0 that can be changed and searched by their running sum in logarithmic time.

    Every node has `FANOUT` children and holds their sum. A sum is always computed anew from the
    children, in one fixed order, never by adding a difference: so the tree is a function of its
    leaves, errors do not pile up, and a rebuilt tree has the same bits. All numbers are float64
    where the device has it, see `devices.most_exact`.
    """

    def __init__(self, size: int, device: torch.device) -> None:
        self._size = size
        self._levels: list[Tensor] = []  # leaves first, root last
        exact = most_exact(device)
        blocks = size
        while blocks > 1 or not self._levels:
            blocks = -(-blocks // FANOUT)
            self._levels.append(torch.zeros(blocks * FANOUT, dtype=exact, device=device))
        self._levels.append(torch.zeros(1, dtype=exact, device=device))

    @property
    def leaves(self) -> Tensor:
        """The numbers: float64 [size]."""
        return self._levels[0][: self._size]

    def total(self) -> Tensor:
        """Return the sum of all numbers: float64, without dimensions."""
        return self._levels[-1][0]

    def set(self, places: Tensor, values: Tensor) -> None:
        """Set numbers: int64 [count] and float64 [count]; of two for one place the larger wins."""
        self._levels[0].scatter_reduce_(0, places, values, "amax", include_self=False)
        for children, parents in pairwise(self._levels):
            places = places // FANOUT
            parents[places] = _sum_blocks(children.view(-1, FANOUT)[places])

    def rebuild(self, leaves: Tensor) -> None:
        """Set the first numbers, float64 [count], and compute every sum."""
        self._levels[0][: len(leaves)] = leaves.to(self._levels[0])
        for children, parents in pairwise(self._levels):
            sums = _sum_blocks(children.view(-1, FANOUT))
            parents[: len(sums)] = sums

    def find(self, mass: Tensor) -> Tensor:
        """Return the place where the running sum of the numbers first exceeds each mass.

        Args:
            mass: float64 [count], from 0 up to the total, which must be above 0. Where rounding
                puts one beyond the end, the last number above 0 is found; a number of 0 never is.

        Returns:
            int64 [count].
        """
        place = torch.zeros(len(mass), dtype=torch.int64, device=mass.device)
        zero = torch.zeros((), dtype=mass.dtype, device=mass.device)
        for level in reversed(self._levels[:-1]):
            children = level.view(-1, FANOUT)[place]  # [count, FANOUT]
            running = children.cumsum(dim=1)
            mass = torch.minimum(mass, torch.nextafter(running[:, -1], zero)).clamp(min=0.0)
            child = (running <= mass.unsqueeze(1)).sum(dim=1, keepdim=True).clamp(max=FANOUT - 1)
            before = running.gather(1, child) - children.gather(1, child)
            mass = mass - before.squeeze(1)
            place = place * FANOUT + child.squeeze(1)
        return place


def _sum_blocks(blocks: Tensor) -> Tensor:
    """Return the sums of [count, FANOUT], by halves: an order that no library may change."""
    while blocks.shape[1] > 1:
        half = blocks.shape[1] // 2
        blocks = blocks[:, :half] + blocks[:, half:]
    return blocks[:, 0]
