"""How fast a run goes, and when it will end."""

import math
from collections import deque


class RateMeter:
    """Steps per second of this process: now, on average, and since it learns.

    Random play before `learning_starts` is many times faster than learning, so the time left is
    reckoned from the learning phase alone, evaluations and checkpoints included.
    """

    WINDOW_S = 10.0
    MIN_LEARNING_S = 5.0

    def __init__(self) -> None:
        self._samples: deque[tuple[float, int]] = deque()
        self._start: tuple[float, int] | None = None
        self._learning_start: tuple[float, int] | None = None

    def add(self, seconds: float, steps: int, *, learning: bool) -> None:
        """Take a sample: monotonic seconds and the steps at that time."""
        sample = (seconds, steps)
        self._start = self._start or sample
        if learning and self._learning_start is None:
            self._learning_start = sample
        self._samples.append(sample)
        while len(self._samples) > 2 and self._samples[1][0] <= seconds - self.WINDOW_S:
            self._samples.popleft()

    @property
    def now(self) -> float:
        """Steps per second over the last 10 seconds (NaN before the second sample)."""
        return self._rate_since(self._samples[0] if self._samples else None)

    @property
    def average(self) -> float:
        """Steps per second since the first sample."""
        return self._rate_since(self._start)

    def seconds_left(self, n_timesteps: int) -> float:
        """Seconds until `n_timesteps`; NaN until 5 seconds of learning were seen."""
        rate = self._rate_since(self._learning_start, self.MIN_LEARNING_S)
        return (n_timesteps - self._samples[-1][1]) / rate if rate > 0 else math.nan

    def _rate_since(self, start: tuple[float, int] | None, at_least_s: float = 0.0) -> float:
        if start is None:
            return math.nan
        seconds, steps = self._samples[-1]
        passed = seconds - start[0]
        return (steps - start[1]) / passed if passed > at_least_s else math.nan


class Slowdown:
    """Notices that updates take far longer than they did, once.

    What else a run does between them, such as evaluations, plays no part.
    """

    SPAN_S = 20.0
    FACTOR = 3.0
    SPANS = 2  # so many must be slow, one behind the other

    def __init__(self) -> None:
        self._last: tuple[float, int, float] | None = None
        self._fastest = math.inf
        self._slow = 0

    def add(self, now: float, updates: int, update_s: float) -> float | None:
        """Take a sample: monotonic seconds, updates so far, and the seconds that they took.

        Returns:
            How many times as long updates take now, when that is to be told.
        """
        before = self._last
        if before is not None and now < before[0] + self.SPAN_S:
            return None
        self._last = (now, updates, update_s)
        if before is None or updates <= before[1]:
            return None
        each_s = (update_s - before[2]) / (updates - before[1])
        self._fastest = min(self._fastest, each_s)
        factor = each_s / self._fastest
        self._slow = self._slow + 1 if factor >= self.FACTOR else 0
        return factor if self._slow == self.SPANS else None


def about(seconds: float) -> str:
    """Write a time that is only roughly known: `37 min`, `2 h 10 min`, `3.2 days`; NaN is `-`."""
    if math.isnan(seconds):
        return "-"
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{max(round(seconds), 1)} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 10 * 60:
        return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
    if minutes < 48 * 60:
        return f"{round(minutes / 60)} h"
    return f"{seconds / 86_400:,.1f} days"


def format_duration(seconds: float) -> str:
    """Write seconds as `m:ss`, `h:mm:ss` or `1d 2:03:04`; NaN is `-`."""
    if math.isnan(seconds):
        return "-"
    minutes, second = divmod(max(round(seconds), 0), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if hours == 0:
        return f"{minute}:{second:02}"
    return (f"{days}d " if days else "") + f"{hour}:{minute:02}:{second:02}"
