"""Updates as a CUDA graph: recorded once, then repeated by one call.

An update is hundreds of small kernels, and Python may take longer to start them than a GPU to run
them. A graph starts them all at once: https://docs.pytorch.org/docs/stable/notes/cuda.html. It
repeats kernels on the memory that they were recorded with, and no Python. Therefore

- what differs from update to update lies in tensors: minibatches are copied to where the graph
  reads them, the learning rate is a tensor, a registered generator draws on at every repetition;
- tensors that an update changes must stay where they are: addresses are compared every time;
- a graph is trusted only after it changed everything as eager updates from the same state do.

Whatever fails, updates stay eager, which is slower and right. Where there is no GPU the tests
repeat recorded operations on the CPU.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dqn_zoo.learning.learner import Learner
from dqn_zoo.replay.memory import Batch

WARM_UPS = 3  # eager updates before the first recording, as PyTorch asks; they count as any other
CHECKED_REPETITIONS = 2  # the second would show what the first left behind
TOLERANCE = 0.1  # of a change; the same work recorded and eager differs by rounding alone
ROUNDING = 1e-5  # of a value; changes that are smaller count as if they were as large
MOST_RECORDINGS = 4  # each takes memory; a run has two or three different numbers of updates due

Tensors = Mapping[str, Sequence[Tensor]]  # by what they are


class Recorder(Protocol):
    """Anything that records work on tensors, so that one call repeats it."""

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        """Do work now, where it will be recorded, and return its result."""
        ...

    def record(self, work: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
        """Return what repeats the work on the same tensors.

        Args:
            work: called once; it may or may not take effect then.
            generator: what the work draws from; every repetition draws on.
        """
        ...


class CudaRecorder:
    """Records CUDA graphs on a stream of its own; the current device is the learner's."""

    def __init__(self) -> None:
        self._stream: torch.cuda.Stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def warm_up(self, work: Callable[[], Tensor]) -> Tensor:
        """Do work on the stream, where libraries set themselves up for it."""
        with self._on_stream():
            return work()

    def record(self, work: Callable[[], None], generator: torch.Generator) -> Callable[[], None]:
        """Return what replays the graph of the work; nothing is computed yet."""
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(generator)
        # The outer context leaves the stream even where the end of a recording fails.
        with self._on_stream(), torch.cuda.graph(graph, stream=self._stream):
            work()
        return graph.replay

    @contextlib.contextmanager
    def _on_stream(self) -> Iterator[None]:
        """Work on the stream, after all that was asked for before and before all that follows."""
        before = torch.cuda.current_stream()
        self._stream.wait_stream(before)
        with torch.cuda.stream(self._stream):
            yield
        before.wait_stream(self._stream)


class RecordedUpdates:
    """Makes the updates of a learner: eager ones first, then those that were recorded from them.

    The first `WARM_UPS` are eager. The next are eager, too, and a recording of them is tried out
    on the same minibatches, after which everything is put back to where the eager ones had left it.
    So neither warming up nor recording leaves a trace. From then on the recording is repeated.
    """

    def __init__(self, learner: Learner, recorder: Recorder) -> None:
        self._learner = learner
        self._recorder = recorder
        # A recorded update reads it here; a number would be that of its recording.
        self._learning_rate = torch.zeros((), device=learner.online.device)
        self._num_to_warm_up = WARM_UPS
        self._recordings: dict[tuple[int, int], _Recording] = {}
        self._addresses: list[int] = []
        self._trouble: str | None = None
        self._news: str | None = None

    @property
    def status(self) -> str:
        """How updates are made now: `CUDA graph`, `eager`, or `eager` and why."""
        if self._trouble is not None:
            return f"eager: {self._trouble}"
        return "CUDA graph" if self._recordings else "eager"

    def take_news(self) -> str | None:
        """Return one line for the user after something was recorded or failed, once."""
        news, self._news = self._news, None
        return news

    def update(self, batch: Batch, learning_rate: float | Tensor, num_updates: int = 1) -> Tensor:
        """Do what `Learner.update` does."""
        self._learning_rate.fill_(learning_rate)
        if self._trouble is not None:
            return self._eagerly(batch, num_updates)
        if self._recordings and self._addresses != _addresses(self._learner.tensors()):
            self._recordings.clear()  # a checkpoint was loaded
            self._num_to_warm_up = WARM_UPS
        if self._num_to_warm_up > 0:
            self._num_to_warm_up -= num_updates
            return self._warm_up(batch, num_updates)
        kind = (len(batch.action), num_updates)
        if kind in self._recordings:
            return self._recordings[kind].repeat_on(batch)
        if len(self._recordings) == MOST_RECORDINGS:
            return self._eagerly(batch, num_updates)
        return self._record(kind, batch)

    def _eagerly(self, batch: Batch, num_updates: int) -> Tensor:
        return self._learner.update(batch, self._learning_rate, num_updates)

    def _warm_up(self, batch: Batch, num_updates: int) -> Tensor:
        return self._recorder.warm_up(lambda: self._eagerly(batch, num_updates))

    def _record(self, kind: tuple[int, int], batch: Batch) -> Tensor:
        """Make updates eagerly, record them, and keep the recording if it does the same."""
        _, num_updates = kind
        before = self._save()
        priorities = self._warm_up(batch, num_updates)
        after = self._save()
        for _ in range(CHECKED_REPETITIONS - 1):
            repeated = self._warm_up(batch, num_updates)
        expected = {**self._save().tensors, "priorities": [repeated]}
        try:
            recording = self._new_recording(batch, num_updates, before)
            found = {**self._learner.tensors(), "priorities": [recording.output]}
            start = {**before.tensors, "priorities": [torch.zeros_like(repeated)]}
            difference, changed = _largest_difference(start, expected, found)
        except Exception as error:  # whatever went wrong, eager updates are right
            self._give_up(" ".join(f"{type(error).__name__}: {error}".split())[:200])
        else:
            if difference <= TOLERANCE:
                self._keep(kind, recording, difference)
            else:
                self._give_up(
                    f"{changed} changed otherwise than in eager updates ({difference:.2g})"
                )
        after.put_back(self._learner)
        return priorities

    def _keep(self, kind: tuple[int, int], recording: "_Recording", difference: float) -> None:
        self._recordings[kind] = recording
        self._addresses = _addresses(self._learner.tensors())
        _, num_updates = kind
        self._news = (
            f"{num_updates} update{'s' if num_updates > 1 else ''} at a time from a CUDA graph; "
            f"checked, within {difference:.2g} of eager ones"
        )

    def _give_up(self, trouble: str) -> None:
        """Make every update eagerly from now on."""
        self._trouble = trouble
        self._recordings.clear()
        self._learner.online.renew_generator()  # the old one may take itself to be recorded still
        self._news = f"no CUDA graph, updates stay eager: {trouble}"

    def _new_recording(self, batch: Batch, num_updates: int, before: "_Saved") -> "_Recording":
        """Record updates and repeat them from where the eager ones had begun."""
        inputs = Batch(*(column.clone() for column in batch))
        outputs: list[Tensor] = []

        def work() -> None:
            outputs[:] = [self._eagerly(inputs, num_updates)]

        before.put_back(self._learner)
        repeat = self._recorder.record(work, self._learner.online.generator)
        recording = _Recording(inputs, outputs[0], repeat)
        before.put_back(self._learner)
        for _ in range(CHECKED_REPETITIONS):
            recording.repeat_on(batch)
        return recording

    def _save(self) -> "_Saved":
        return _Saved(self._learner.tensors(), self._learner.online.generator)


class _Recording(NamedTuple):
    """Recorded updates.

    Attributes:
        inputs: the minibatches that they read, one behind the other.
        output: the priorities that they write.
        repeat: makes the updates again.
    """

    inputs: Batch
    output: Tensor
    repeat: Callable[[], None]

    def repeat_on(self, batch: Batch) -> Tensor:
        for own, column in zip(self.inputs, batch, strict=True):
            own.copy_(column)
        self.repeat()
        return self.output.clone()  # the next repetition writes to the same place


class _Saved:
    """What tensors and a generator were at some moment."""

    def __init__(self, tensors: Tensors, generator: torch.Generator) -> None:
        self.tensors = {
            kind: [tensor.detach().clone() for tensor in group] for kind, group in tensors.items()
        }
        self._generator_state = generator.get_state()

    def put_back(self, learner: Learner) -> None:
        """Give a learner these values again, in place."""
        with torch.no_grad():
            for kind, group in learner.tensors().items():
                for tensor, kept in zip(group, self.tensors[kind], strict=True):
                    tensor.copy_(kept)
        learner.online.generator.set_state(self._generator_state)


def _largest_difference(start: Tensors, expected: Tensors, found: Tensors) -> tuple[float, str]:
    """Return how far a recording is from eager updates, and in which kind of tensor."""
    return max((_difference(start[kind], expected[kind], found[kind]), kind) for kind in found)


def _difference(
    before: Sequence[Tensor], expected: Sequence[Tensor], found: Sequence[Tensor]
) -> float:
    """Return how far a change is from the expected one, as a share of it, in Euclidean norms."""
    change = _distance(expected, before)
    size = _distance(expected, [torch.zeros_like(tensor) for tensor in expected])
    wrong = _distance(found, expected)
    if wrong == 0.0:
        return 0.0
    share = wrong / (change + ROUNDING * size) if change + size > 0.0 else math.inf
    return math.inf if math.isnan(share) else share


def _distance(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    pairs = zip(first, second, strict=True)
    squares = [(one.detach().double() - other.double()).square().sum() for one, other in pairs]
    return math.sqrt(sum(square.item() for square in squares))


def _addresses(tensors: Tensors) -> list[int]:
    return [tensor.data_ptr() for group in tensors.values() for tensor in group]
