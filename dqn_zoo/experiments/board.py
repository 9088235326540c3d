"""What a sweep shows while it runs: a live table in a terminal, plain lines elsewhere."""

import math
import time
from collections import Counter
from collections.abc import Callable

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from dqn_zoo.experiments.sweep import JobStatus, Statuses
from dqn_zoo.training.rates import RateMeter, format_duration

PLAIN_INTERVAL_S = 30.0


class Board:
    """Shows where the jobs are."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._meter = RateMeter()
        self._live = Live(console=console, transient=True) if console.is_terminal else None
        self._last_line_at = -math.inf
        self._told: set[str] = set()

    def __enter__(self) -> "Board":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, statuses: Statuses) -> None:
        """Show where the jobs are now."""
        steps = sum(status.steps for status in statuses.values())
        self._meter.add(self._clock(), steps, learning=True)
        self._tell_ends(statuses)
        if self._live is not None:
            self._live.update(Group(_running_table(statuses), Text(self._line(statuses))))
        elif self._clock() - self._last_line_at >= PLAIN_INTERVAL_S:
            self._last_line_at = self._clock()
            self._console.print(self._line(statuses), highlight=False)

    def _tell_ends(self, statuses: Statuses) -> None:
        """Print one line that stays for every job that failed."""
        for job, status in statuses.items():
            if status.state == "failed" and job.name not in self._told:
                self._told.add(job.name)
                self._console.print(f"{job.name} failed: {status.reason}", highlight=False)

    def _line(self, statuses: Statuses) -> str:
        states = Counter(status.state for status in statuses.values())
        counts = ", ".join(f"{states[state]} {state}" for state in states)
        jobs = f"{len(statuses)} job{'s' if len(statuses) > 1 else ''}: {counts}"
        if states["running"] and all(map(_is_playing, _running(statuses).values())):
            return f"{jobs}, playing their games"
        total = sum(status.n_timesteps for status in statuses.values())
        now, left = self._meter.now, format_duration(self._meter.seconds_left(total))
        rate = "-" if math.isnan(now) else f"{now:,.0f}"
        return f"{jobs}; {rate} steps/s, {left} left"


def _running_table(statuses: Statuses) -> Table:
    table = Table("job", box=None, pad_edge=False)
    for name in ("steps", "", "steps/s", "left", "return"):
        table.add_column(name, justify="right")
    for job, status in _running(statuses).items():
        table.add_row(job.name, *_cells(status))
    return table


def _running(statuses: Statuses) -> Statuses:
    return {job: status for job, status in statuses.items() if status.state == "running"}


def _is_playing(status: JobStatus) -> bool:
    """Return whether a job has trained and plays the games at its end."""
    return 0 < status.n_timesteps <= status.steps


def _cells(status: JobStatus) -> tuple[str, ...]:
    rate, left = status.steps_per_second, status.n_timesteps - status.steps
    return (
        f"{status.steps:,}",
        "playing its games" if _is_playing(status) else f"{status.steps / status.n_timesteps:.0%}",
        "-" if rate is None else f"{rate:,.0f}",
        format_duration(left / rate if rate else math.nan),
        "-" if status.return_mean is None else f"{status.return_mean:,.1f}",
    )
