"""A stand-in for CUDA graphs on a CPU: a tape of operations that is played again."""

from torch import Tensor, no_grad
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Operations with the tensors that they read and wrote, as a graph has them.

    Playing it runs no Python of the work: a number that the work read is the number of the
    recording, and what the work allocated stays where it was.

    Args:
        broken_at: name of an operation that cannot be recorded.
        forgets: names of operations that are left out when it is played.
    """

    def __init__(self, broken_at: str = "", forgets: tuple[str, ...] = ()) -> None:
        super().__init__()
        self._broken_at, self._forgets = broken_at, forgets
        self._operations: list[tuple] = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        name = operation.name()
        if self._broken_at and name.startswith(self._broken_at):
            raise RuntimeError(f"{name} is not permitted while it is recorded\nat some place")
        results = operation(*args, **kwargs or {})
        if not name.startswith(self._forgets or "no operation"):
            self._operations.append((operation, args, kwargs or {}, results))
        return results

    @no_grad()
    def play(self) -> None:
        for operation, args, kwargs, results in self._operations:
            again = operation(*args, **kwargs)
            for old, new in zip(tree_leaves(results), tree_leaves(again), strict=True):
                # Views and operations in place return what is there already.
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class TapeRecorder:
    """Records on tapes and counts what it is asked for."""

    def __init__(self, **tape) -> None:
        self._tape = tape
        self.warm_ups = self.recordings = self.repetitions = 0

    def warm_up(self, work):
        self.warm_ups += 1
        return work()

    def record(self, work, generator):
        self.recordings += 1
        self.generator = generator
        tape = Tape(**self._tape)
        with tape:
            work()

        def play() -> None:
            self.repetitions += 1
            tape.play()

        return play
