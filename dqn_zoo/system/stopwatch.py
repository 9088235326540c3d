"""Where the wall-clock of a run goes."""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping

Clock = Callable[[], float]

OUTSIDE = "starting, ending"
"""What counts for no section: in a run, all that lies before and after the training loop."""


class Stopwatch:
    """Adds up seconds by section, from its creation on.

    Sections nest, and a second counts for the innermost one alone: they add up to the wall-clock.
    """

    def __init__(self, clock: Clock = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = defaultdict(float)
        self._running = OUTSIDE
        self._since = clock()

    def section(self, name: str) -> "Section":
        """Return a context manager that counts the time inside for `name`."""
        return Section(self, name)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of every section so far, the longest first."""
        self._switch(self._running)
        return dict(sorted(self._seconds.items(), key=lambda item: -item[1]))

    def _switch(self, name: str) -> str:
        """Count for `name` from here on; return what was counted for."""
        now, before = self._clock(), self._running
        self._seconds[before] += now - self._since
        self._running, self._since = name, now
        return before


class Section:
    """What `Stopwatch.section` returns; `contextlib.contextmanager` would cost twice as much."""

    __slots__ = ("_before", "_name", "_stopwatch")

    def __init__(self, stopwatch: Stopwatch, name: str) -> None:
        self._stopwatch = stopwatch
        self._name = name

    def __enter__(self) -> None:
        self._before = self._stopwatch._switch(self._name)

    def __exit__(self, *raised: object) -> None:
        self._stopwatch._switch(self._before)


def profile_lines(seconds: Mapping[str, float]) -> Iterator[str]:
    """Yield a table of where the time went: seconds by section, in this order, and their sum."""
    total = sum(seconds.values())
    width = max(map(len, seconds))
    yield "where the time went:"
    for name, spent in [*seconds.items(), ("total", total)]:
        yield f"  {name:<{width}} {spent:10,.2f} s {spent / total:6.1%}"
