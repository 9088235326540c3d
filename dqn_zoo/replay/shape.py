"""How large a memory is: what is known before there is one."""

from typing import NamedTuple

FRAME_SHAPE = (84, 84)
FRAME_BYTES = 84 * 84


class ReplayShape(NamedTuple):
    """What decides how much room a memory takes.

    Attributes:
        capacity: most transitions kept.
        num_envs: environments that write.
        n_steps: steps folded into one transition.
        stack: frames in one observation.
        prioritized: rows have priorities.
    """

    capacity: int
    num_envs: int
    n_steps: int
    stack: int
    prioritized: bool = False

    @property
    def margin(self) -> int:
        """Frames that may be older than the row that needs them.

        With several environments and n > 1 the order of rows is not the order of frames. A row
        refers back at most `n_steps + stack` vector steps, each of which stores at most two frames
        per environment.
        """
        return 2 * self.num_envs * (self.n_steps + self.stack)

    @property
    def ring_size(self) -> int:
        """Frames kept: one a transition, the margin, and 0.5 % for the ends of games."""
        return self.capacity + self.capacity // 200 + self.margin

    @property
    def num_bytes(self) -> int:
        """Memory that the full buffer occupies."""
        row_bytes = 2 * 4 * self.stack + 8 + 4 + 4 + 8  # ids, action, reward, discount, written_at
        row_bytes += 9 if self.prioritized else 0  # a float64 leaf and its share of the sums
        return (self.ring_size + 1) * FRAME_BYTES + self.capacity * row_bytes
