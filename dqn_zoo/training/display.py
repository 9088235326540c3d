"""What a run shows while it runs: a live panel in a terminal, plain lines elsewhere.

The training loop hands over a `Status` as often as it likes; a display draws at most a few times a
second and never stops a run: a terminal that went away ends the display, not the training.
"""

import contextlib
import io
import math
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TextIO

from rich.console import Console, ConsoleOptions, Group, OverflowMethod, RenderResult
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from dqn_zoo.training.rates import RateMeter, format_duration

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heading:
    """What does not change during a run.

    Attributes:
        name: name of the run.
        n_timesteps: steps at which it ends.
        random_score: mean raw score of random play in this game, where known.
    """

    name: str
    n_timesteps: int
    random_score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Where a run is; NaN or None where there is nothing to show yet.

    Attributes:
        steps: decisions of the agent so far, summed over environments.
        frames: emulator frames so far.
        elapsed_s: wall-clock seconds of the run so far, summed over resumes.
        learning: whether updates are made (False before the first one).
        episodes: games finished so far.
        return_mean: mean raw score of the last 100 games.
        epsilon: chance of a random action now.
        loss: mean loss of the last updates.
        q_mean: mean Q-value of the last updates.
        memory_bytes: resident memory of the process.
        last_evaluation: mean raw score of the last evaluation.
        best_evaluation: mean raw score of the best evaluation.
        phase: what goes on, where it is not plain training: "evaluating 3 of 5", "saving".
    """

    steps: int
    frames: int
    elapsed_s: float
    learning: bool
    episodes: int
    return_mean: float
    epsilon: float
    loss: float = math.nan
    q_mean: float = math.nan
    memory_bytes: int | None = None
    last_evaluation: float | None = None
    best_evaluation: float | None = None
    phase: str = ""


class Display(Protocol):
    """Shows a run to the user."""

    def due(self) -> bool:
        """Whether an update would be drawn now; if not, the status need not be collected."""

    def update(self, status: Status) -> None:
        """Show this status, or drop it where the last one was drawn just before."""

    def message(self, text: str) -> None:
        """Show one line that stays."""

    def close(self) -> None:
        """Show the last status for good and give the terminal back; may be called twice."""


def make_display(
    progress: bool | None, heading: Heading, *, stream: TextIO | None = None
) -> Display:
    """Build the display: live, plain lines, or (None) what the output can do."""
    stream = stream or sys.stdout
    if progress is None:
        progress = stream.isatty() and os.environ.get("TERM") not in ("dumb", "unknown")
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")  # a letter the terminal lacks is no reason to stop
    if not progress:
        return PlainDisplay(heading, stream)
    return RichDisplay(heading, _PatientConsole(file=stream, force_terminal=True))


class Curve:
    """A value over the steps of the run, thinned out so that it stays small."""

    MAX_POINTS = 400
    BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
    ASCII_BLOCKS = "_.,-=+*#"

    def __init__(self) -> None:
        self._points: list[tuple[int, float]] = []
        self._stride_steps = 0
        self._next_steps = 0

    def add(self, steps: int, value: float) -> None:
        """Append a point; NaN, and what lies too close to the last point, is left out."""
        if math.isnan(value) or steps < self._next_steps:
            return
        self._points.append((steps, value))
        if len(self._points) > self.MAX_POINTS:
            self._points = self._points[::2]
            self._stride_steps = 2 * (steps - self._points[0][0]) // self.MAX_POINTS
        self._next_steps = steps + self._stride_steps

    def draw(self, width: int, *, ascii_only: bool = False) -> str:
        """Return one character per equal share of the steps; empty below two points."""
        if len(self._points) < 2:
            return ""
        first, last = self._points[0][0], self._points[-1][0]
        cells: list[float | None] = [None] * width
        for steps, value in self._points:
            cells[min((steps - first) * width // max(last - first, 1), width - 1)] = value
        low = min(value for _, value in self._points)
        span = max(value for _, value in self._points) - low
        blocks = self.ASCII_BLOCKS if ascii_only else self.BLOCKS
        text, value = "", low
        for cell in cells:
            value = value if cell is None else cell
            text += blocks[round((value - low) / span * (len(blocks) - 1)) if span else 0]
        return text


class RichDisplay:
    """A live panel, drawn at most four times a second by the training thread itself."""

    MIN_INTERVAL_S = 0.25

    def __init__(
        self, heading: Heading, console: Console, *, clock: Clock = time.monotonic
    ) -> None:
        self._clock = clock
        self._panel = _Panel(heading)
        # No refresh thread: it would take the processor from the emulators and draw nothing new.
        self._live = Live(self._panel, console=console, auto_refresh=False)
        self._drawn_at = -math.inf
        self._drawn_width = 0
        self._gone = False

    def due(self) -> bool:
        """Whether an update would be drawn now."""
        return not self._gone and self._clock() - self._drawn_at >= self.MIN_INTERVAL_S

    def update(self, status: Status) -> None:
        """Draw the panel, at once where a new phase begins."""
        new_phase = self._panel.status is None or self._panel.status.phase != status.phase
        self._panel.status = status  # close draws the last one, drawn before or not
        if self.due() or new_phase:
            self._drawn_at = self._clock()
            self._panel.sample(self._drawn_at)
            self._write(self._draw)

    def message(self, text: str) -> None:
        """Print a line above the panel."""
        self._write(lambda: self._live.console.print(Text(text), soft_wrap=True))

    def close(self) -> None:
        """Draw the last status and show the cursor again."""
        self._write(self._live.stop)

    def _draw(self) -> None:
        self._live.start()
        console, before = self._live.console, self._drawn_width
        self._drawn_width = console.width
        if self._drawn_width < min(before, _Panel.MAX_WIDTH):
            console.clear()  # the terminal has broken the lines up; where they are now, it knows
        self._live.refresh()

    def _write(self, action: Callable[[], None]) -> None:
        if self._gone:
            return
        try:
            action()
        except (OSError, ValueError):  # the pipe or the terminal went away, or was closed
            self._gone = True
            with contextlib.suppress(OSError, ValueError):
                self._live.stop()  # gives back sys.stdout, which it has redirected


class PlainDisplay:
    """One line of `key value` pairs every few seconds, always the same keys in the same order."""

    MIN_INTERVAL_S = 5.0

    def __init__(self, heading: Heading, stream: TextIO, *, clock: Clock = time.monotonic) -> None:
        self._heading = heading
        self._stream = stream
        self._clock = clock
        self._meter = RateMeter()
        self._status: Status | None = None
        self._printed: Status | None = None
        self._printed_at = -math.inf

    def due(self) -> bool:
        """Whether an update would be printed now."""
        return self._clock() - self._printed_at >= self.MIN_INTERVAL_S

    def update(self, status: Status) -> None:
        """Print a line, or keep the status for later."""
        self._status = status
        if self.due():
            self._print_status(status)

    def message(self, text: str) -> None:
        """Print one line."""
        with contextlib.suppress(OSError, ValueError):  # the pipe was closed; training goes on
            print(text, file=self._stream, flush=True)

    def close(self) -> None:
        """Print the last status, if it was not printed."""
        if self._status is not None and self._status is not self._printed:
            self._print_status(self._status)

    def _print_status(self, status: Status) -> None:
        self._printed, self._printed_at = status, self._clock()
        self._meter.add(self._printed_at, status.steps, learning=status.learning)
        left = self._meter.seconds_left(self._heading.n_timesteps)
        pairs = {
            "steps": f"{status.steps}/{self._heading.n_timesteps}",
            "frames": status.frames,
            "steps_per_second": _number(self._meter.now, ".0f"),
            "average": _number(self._meter.average, ".0f"),
            "elapsed": format_duration(status.elapsed_s),
            "left": format_duration(left),
            "episodes": status.episodes,
            "return_mean": _number(status.return_mean, ".1f"),
            "evaluation": _number(status.last_evaluation, ".1f"),
            "best": _number(status.best_evaluation, ".1f"),
            "epsilon": _number(status.epsilon, ".4f"),
            "loss": _number(status.loss, ".4g"),
            "q_mean": _number(status.q_mean, ".4g"),
            "memory": _bytes(status.memory_bytes).replace(" ", ""),
            "phase": _phase(status).replace(" ", "_"),
        }
        self.message(" ".join(f"{key} {value}" for key, value in pairs.items()))


class _Panel:
    """The live panel: a bar over label-value rows, two rows side by side where there is room."""

    WIDE = 80
    MAX_WIDTH = 100

    def __init__(self, heading: Heading) -> None:
        self.status: Status | None = None
        self._heading = heading
        self._meter = RateMeter()
        self._returns = Curve()

    def sample(self, seconds: float) -> None:
        """Take the current status into the rates and the curve."""
        if self.status is not None:
            self._meter.add(seconds, self.status.steps, learning=self.status.learning)
            self._returns.add(self.status.steps, self.status.return_mean)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        if self.status is None:
            return
        width = min(options.max_width, self.MAX_WIDTH)
        pairs_per_line = 2 if width >= self.WIDE else 1
        # A number that is cut off must show it, where the terminal has the sign for that.
        overflow: OverflowMethod = "crop" if options.ascii_only else "ellipsis"
        grid = Table.grid(padding=(0, 2), expand=True)
        for _ in range(pairs_per_line):
            grid.add_column(style="dim", no_wrap=True)
            grid.add_column(ratio=1, no_wrap=True, overflow=overflow)
        rows = self._rows(self.status, ascii_only=options.ascii_only)
        for start in range(0, len(rows), pairs_per_line):
            grid.add_row(*(cell for row in rows[start : start + pairs_per_line] for cell in row))
        bar = Table.grid(expand=True)
        bar.add_column(ratio=1)
        bar.add_column(justify="right", width=7)
        total, steps = self._heading.n_timesteps, self.status.steps
        bar.add_row(ProgressBar(total=total, completed=steps), f"{steps / total:.1%}")
        yield Panel(
            Group(bar, grid),
            title=Text(self._heading.name, style="bold"),
            title_align="left",
            subtitle=Text(_phase(self.status)),
            subtitle_align="right",
            border_style="blue",
            width=width,
        )

    def _rows(self, status: Status, *, ascii_only: bool) -> list[tuple[str, str | Text]]:
        total = self._heading.n_timesteps
        meter = self._meter
        left = format_duration(meter.seconds_left(total))
        random_score = self._heading.random_score
        random_play = "" if random_score is None else f", random {random_score:,.0f}"
        returns = Text.assemble((_number(status.return_mean, ",.1f"), "bold"), random_play)
        last, best = (
            _number(score, ",.1f") for score in (status.last_evaluation, status.best_evaluation)
        )
        curve = self._returns.draw(24, ascii_only=ascii_only)
        return [
            ("steps", f"{status.steps:,} of {total:,}"),
            ("frames", f"{status.frames:,}"),
            ("speed", f"{_number(meter.now, ',.0f')} /s, avg {_number(meter.average, ',.0f')}"),
            ("time", f"{format_duration(status.elapsed_s)}, left {left}"),
            ("return", returns),
            ("curve", Text(curve or "-", style="green")),
            ("evaluation", f"{last}, best {best}"),
            ("games", f"{status.episodes:,}"),
            ("epsilon", _number(status.epsilon, ".4f")),
            ("mean Q", _number(status.q_mean, ".4g")),
            ("loss", _number(status.loss, ".4g")),
            ("memory", _bytes(status.memory_bytes)),
        ]


class _PatientConsole(Console):
    """A console that reports a closed pipe; rich's own ends the program."""

    def on_broken_pipe(self) -> None:
        raise  # the BrokenPipeError that rich is handling


def _phase(status: Status) -> str:
    if status.phase or status.learning:
        return status.phase or "learning"
    return "random play before learning" if status.epsilon == 1.0 else "before the first update"


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or math.isnan(value) else format(value, form)


def _bytes(number: int | None) -> str:
    return "-" if number is None else f"{number / 1e9:.2f} GB"
