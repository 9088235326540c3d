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

from dqn_zoo.replay.memory import Batch

WARM_UPS = 3  # eager updates before the first recording, as PyTorch asks; they count as any other
CHECKED_REPETITIONS = 2  # the second would show what the first left behind
TOLERANCE = 0.1  # of a change; the same work recorded and eager differs by rounding alone
ROUNDING = 1e-5  # of a value; changes that are smaller count as if they were as large
MOST_RECORDINGS = 4  # each takes memory; a run has two or three different numbers of updates due

Tensors = Mapping[str, Sequence[Tensor]]  # by what they are


class Recorder(Protocol):
    """Anything that records work on tensors, so that one call repeats it."""

    def warm_up(self, work: Callable[[], list[Tensor]]) -> list[Tensor]:
        """Do work now, where it will be recorded, and return its results."""
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

    def warm_up(self, work: Callable[[], list[Tensor]]) -> list[Tensor]:
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
    """Makes updates: eager ones first, then those that were recorded from them.

    The first `WARM_UPS` are eager. The next are eager, too, and a recording of them is tried out
    on the same minibatches, after which everything is put back to where the eager ones had left it.
    So neither warming up nor recording leaves a trace. From then on the recording is repeated.

    Args:
        updates: takes a gradient step per minibatch on tensors alone, whatever Python it runs
            counts for nothing; returns the priorities of each, float32 [batch].
        recorder: records it.
        tensors: returns all that an update changes and all it reads but for minibatches and the
            learning rate, in the same order every time.
        generator: returns what an update draws from.
        renew_generator: lets an update draw from a new one; called where a recording failed, since
            the old one may take itself to be recorded still, and then refuses to draw.
    """

    def __init__(
        self,
        updates: Callable[[Sequence[Batch]], list[Tensor]],
        recorder: Recorder,
        *,
        tensors: Callable[[], Tensors],
        generator: Callable[[], torch.Generator],
        renew_generator: Callable[[], None],
    ) -> None:
        self._eagerly = updates
        self._recorder = recorder
        self._tensors = tensors
        self._generator = generator
        self._renew_generator = renew_generator
        self._num_to_warm_up = WARM_UPS
        self._recordings: dict[tuple[int, ...], _Recording] = {}
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

    def __call__(self, batches: Sequence[Batch]) -> list[Tensor]:
        """Make one update per minibatch and return the priorities of each: float32 [batch]."""
        if self._trouble is not None:
            return self._eagerly(batches)
        if self._recordings and self._addresses != _addresses(self._tensors()):
            self._recordings.clear()  # a checkpoint was loaded
            self._num_to_warm_up = WARM_UPS
        if self._num_to_warm_up > 0:
            self._num_to_warm_up -= len(batches)
            return self._warm_up(batches)
        sizes = tuple(len(batch.action) for batch in batches)
        if sizes in self._recordings:
            return self._recordings[sizes].repeat_on(batches)
        if len(self._recordings) == MOST_RECORDINGS:
            return self._eagerly(batches)
        return self._record(sizes, batches)

    def _warm_up(self, batches: Sequence[Batch]) -> list[Tensor]:
        return self._recorder.warm_up(lambda: self._eagerly(batches))

    def _record(self, sizes: tuple[int, ...], batches: Sequence[Batch]) -> list[Tensor]:
        """Make updates eagerly, record them, and keep the recording if it does the same."""
        before = _Saved(self._tensors(), self._generator())
        priorities = self._warm_up(batches)
        after = _Saved(self._tensors(), self._generator())
        for _ in range(CHECKED_REPETITIONS - 1):
            repeated = self._warm_up(batches)
        expected = {**_Saved(self._tensors(), self._generator()).tensors, "priorities": repeated}
        try:
            recording = self._new_recording(batches, before)
            found = {"priorities": recording.outputs, **self._tensors()}
            start = {"priorities": [torch.zeros_like(each) for each in repeated], **before.tensors}
            difference, kind = max(
                (_difference(start[kind], expected[kind], found[kind]), kind) for kind in found
            )
        except Exception as error:  # whatever went wrong, eager updates are right
            self._trouble = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        else:
            if difference <= TOLERANCE:
                self._recordings[sizes] = recording
                self._addresses = _addresses(self._tensors())
                self._news = (
                    f"{len(batches)} update{'s' if len(batches) > 1 else ''} at a time from a CUDA "
                    f"graph; checked, within {difference:.2g} of eager ones"
                )
            else:
                self._trouble = f"{kind} changed otherwise than in eager updates ({difference:.2g})"
        if self._trouble is not None:
            self._recordings.clear()
            self._renew_generator()
            self._news = f"no CUDA graph, updates stay eager: {self._trouble}"
        after.put_back(self._tensors(), self._generator())
        return priorities

    def _new_recording(self, batches: Sequence[Batch], before: "_Saved") -> "_Recording":
        """Record updates and repeat them from where the eager ones had begun."""
        inputs = Batch(*map(torch.cat, zip(*batches, strict=True)))
        own = inputs.split([len(batch.action) for batch in batches])
        outputs: list[Tensor] = []

        def work() -> None:
            outputs[:] = self._eagerly(own)

        before.put_back(self._tensors(), self._generator())
        repeat = self._recorder.record(work, self._generator())
        recording = _Recording(inputs, outputs, repeat)
        before.put_back(self._tensors(), self._generator())
        for _ in range(CHECKED_REPETITIONS):
            recording.repeat_on(batches)
        return recording


class _Recording(NamedTuple):
    """Recorded updates.

    Attributes:
        inputs: the minibatches that they read, one behind the other.
        outputs: the priorities that they write, of each minibatch.
        repeat: makes the updates again.
    """

    inputs: Batch
    outputs: list[Tensor]
    repeat: Callable[[], None]

    def repeat_on(self, batches: Sequence[Batch]) -> list[Tensor]:
        for own, *columns in zip(self.inputs, *batches, strict=True):
            torch.cat(columns, out=own)
        self.repeat()
        # The next repetition writes to the same place; one copy of all takes no longer than of one.
        return list(torch.split(torch.cat(self.outputs), [len(output) for output in self.outputs]))


class _Saved:
    """What tensors and a generator were at some moment."""

    def __init__(self, tensors: Tensors, generator: torch.Generator) -> None:
        self.tensors = {
            kind: [tensor.detach().clone() for tensor in group] for kind, group in tensors.items()
        }
        self._generator_state = generator.get_state()

    def put_back(self, tensors: Tensors, generator: torch.Generator) -> None:
        """Give them their values again, in place."""
        with torch.no_grad():
            for kind, group in tensors.items():
                for tensor, kept in zip(group, self.tensors[kind], strict=True):
                    tensor.copy_(kept)
        generator.set_state(self._generator_state)


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
