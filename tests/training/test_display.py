"""The display, rendered into real streams and read as a user would."""

import io
import math
import os
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from rich.console import Console

from dqn_zoo.training.display import (
    Curve,
    Heading,
    PlainDisplay,
    RichDisplay,
    Status,
    make_display,
)
from dqn_zoo.training.rates import RateMeter, Slowdown, about, format_duration

HEADING = Heading(name="SpaceInvaders_3", n_timesteps=1_000_000, random_score=148.0)
STATUS = Status(
    steps=432_100,
    frames=1_728_400,
    elapsed_s=3_723.0,
    learning=True,
    episodes=987,
    return_mean=312.25,
    epsilon=0.0625,
    loss=0.01234,
    q_mean=2.345,
    memory_bytes=1_230_000_000,
    last_evaluation=456.5,
    best_evaluation=567.5,
)
SHOWN = (
    *("SpaceInvaders_3", "432,100 of 1,000,000", "43.2%", "1,728,400", "1:02:03", "987"),
    *("312.2, random 148", "456.5, best 567.5", "0.0625", "2.345", "0.01234", "1.23 GB"),
)


class Clock:
    """A clock that a test moves."""

    seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def terminal(width: int, encoding: str = "utf-8") -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    return Console(file=file, force_terminal=True, width=width, height=40, record=True)


def drawn(console: Console) -> list[str]:
    """Lines written since the last call, without colours and cursor movements."""
    return [line for line in console.export_text().splitlines() if line.strip()]


@pytest.mark.parametrize(("width", "lines"), [(60, 15), (79, 15), (80, 9), (120, 9)])
def test_the_panel_shows_every_field_in_a_narrow_and_a_wide_terminal(
    width: int, lines: int
) -> None:
    console, clock = terminal(width), Clock()
    display = RichDisplay(HEADING, console, clock=clock)
    display.update(replace(STATUS, steps=STATUS.steps - 4_000, return_mean=100.0))
    clock.seconds += 10
    display.update(replace(STATUS, steps=STATUS.steps - 2_500, return_mean=200.0))
    drawn(console)
    clock.seconds += 10
    display.update(STATUS)
    panel = drawn(console)
    display.close()
    assert len(panel) == lines
    assert {len(line) for line in panel} == {min(width, 100)}
    for text in (*SHOWN, "250 /s, avg 200", "left 47:20", "\u2584\u2584", "learning"):
        assert sum(text in line for line in panel) == 1, text


@pytest.mark.parametrize("width", [60, 80])
def test_the_largest_numbers_are_not_cut_off(width: int) -> None:
    console, clock = terminal(width), Clock()
    display = RichDisplay(replace(HEADING, n_timesteps=50_000_000), console, clock=clock)
    large = replace(
        STATUS, frames=199_999_996, elapsed_s=9e5, return_mean=123_456.7, episodes=99_999
    )
    large = replace(large, last_evaluation=123_456.7, best_evaluation=234_567.8)
    display.update(replace(large, steps=49_000_000))
    clock.seconds += 9
    display.update(replace(large, steps=49_900_000))
    display.update(replace(large, steps=49_999_999, phase="evaluating 10 of 10"))
    text = "".join(drawn(console))
    display.close()
    for whole in ("49,999,999 of 50,000,000 ", "10d 10:00:00, left ", ", best 234,567.8 "):
        assert whole in text
    assert "\u2026" not in text


def test_what_is_not_known_is_a_dash() -> None:
    unknown = Status(
        steps=0,
        frames=0,
        elapsed_s=0.0,
        learning=False,
        episodes=0,
        return_mean=math.nan,
        epsilon=1,
    )
    console, stream = terminal(80), io.StringIO()
    for display in (
        RichDisplay(Heading(name="Pong_1", n_timesteps=10), console),
        PlainDisplay(Heading(name="Pong_1", n_timesteps=10), stream),
    ):
        display.update(unknown)
    text = " ".join(drawn(console)) + stream.getvalue()
    assert "nan" not in text.lower()
    assert "none" not in text.lower()
    assert ", random" not in text
    assert "random play before learning" in text


def test_a_terminal_without_unicode_gets_ascii() -> None:
    console, clock = terminal(60, encoding="ascii"), Clock()
    display = RichDisplay(replace(HEADING, n_timesteps=10**60), console, clock=clock)
    for count in range(5):
        clock.seconds += 1
        display.update(replace(STATUS, steps=count * 100, return_mean=float(count)))
    drawn(console)
    display.close()
    text = "".join(drawn(console))
    assert text.isascii()
    assert "______,,,,,,======+++++#" in text


@pytest.mark.parametrize("progress", [True, False])
def test_a_message_that_the_terminal_cannot_write_is_written_in_part(progress: bool) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    display = make_display(progress, HEADING, stream=stream)
    display.message("run \u00fcber")
    display.message("still here")
    display.close()
    stream.seek(0)
    text = stream.read()
    assert "run ?ber" in text
    assert "still here" in text


def test_the_panel_is_drawn_at_most_four_times_a_second_and_at_once_in_a_new_phase() -> None:
    console, clock = terminal(80), Clock()
    display = RichDisplay(HEADING, console, clock=clock)
    draws = 0
    for count in range(1000):  # two seconds
        clock.seconds = 100.0 + count / 500
        due = display.due()
        display.update(replace(STATUS, steps=count))
        assert bool(drawn(console)) == due
        draws += due
    assert draws == 8
    display.update(replace(STATUS, phase="evaluating 3 of 5"))
    assert "evaluating 3 of 5" in drawn(console)[-1]


def test_a_terminal_made_narrower_is_cleared_before_the_panel_is_drawn_anew() -> None:
    console, clock = terminal(100), Clock()
    display = RichDisplay(HEADING, console, clock=clock)
    cleared = []
    for width in (100, 120, 90, 90, 60, 200, 110):  # a panel is at most 100 wide
        console.width = width
        console.file.seek(0)
        console.file.truncate()
        clock.seconds += 1
        display.update(STATUS)
        console.file.flush()
        cleared.append(b"\x1b[2J\x1b[H" in console.file.buffer.getvalue())
    display.close()
    assert cleared == [False, False, True, False, True, False, False]


def test_the_last_status_is_shown_at_the_end() -> None:
    console, clock, stream = terminal(80), Clock(), io.StringIO()
    displays = (
        RichDisplay(HEADING, console, clock=clock),
        PlainDisplay(HEADING, stream, clock=clock),
    )
    for display in displays:
        display.update(STATUS)
        display.update(replace(STATUS, steps=1_000_000))
    assert "1,000,000 of 1,000,000" not in "".join(drawn(console))
    assert "1000000/1000000" not in stream.getvalue()
    for display in displays:
        display.close()
        display.close()
    assert "1,000,000 of 1,000,000" in "".join(drawn(console))
    assert stream.getvalue().count("\n") == 2
    assert "steps 1000000/1000000 " in stream.getvalue()


def test_a_message_stays_above_the_panel_as_it_was_written() -> None:
    console = terminal(60)
    display = RichDisplay(HEADING, console)
    display.update(STATUS)
    drawn(console)
    display.message("resume with --resume [run]/" + "x" * 60)
    lines = drawn(console)
    display.close()
    assert lines[0] == "resume with --resume [run]/" + "x" * 60
    assert "SpaceInvaders_3" in lines[1]


def test_plain_lines_come_every_five_seconds_with_the_same_keys() -> None:
    stream, clock = io.StringIO(), Clock()
    display = PlainDisplay(HEADING, stream, clock=clock)
    for count in range(101):
        clock.seconds = 100.0 + count / 10
        display.update(replace(STATUS, steps=count * 20, learning=count > 45))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    pairs = [dict(zip(line.split()[::2], line.split()[1::2], strict=True)) for line in lines]
    assert [list(pair) for pair in pairs] == [list(pairs[0])] * 3
    assert pairs[2] | {"left": ""} == {
        "steps": "2000/1000000",
        "frames": "1728400",
        "steps_per_second": "200",
        "average": "200",
        "elapsed": "1:02:03",
        "left": "",
        "episodes": "987",
        "return_mean": "312.2",
        "evaluation": "456.5",
        "best": "567.5",
        "epsilon": "0.0625",
        "loss": "0.01234",
        "q_mean": "2.345",
        "memory": "1.23GB",
        "phase": "learning",
    }


def test_the_time_left_is_reckoned_from_the_learning_phase() -> None:
    meter = RateMeter()
    for second in range(61):
        meter.add(float(second), second * 1000, learning=False)
    assert meter.now == meter.average == 1000.0
    assert math.isnan(meter.seconds_left(100_000))
    for second in range(61, 66):
        meter.add(float(second), 60_000 + (second - 60) * 100, learning=True)
    assert math.isnan(meter.seconds_left(100_000))  # four seconds of learning are too few
    for second in range(66, 81):
        meter.add(float(second), 60_000 + (second - 60) * 100, learning=True)
    assert meter.now == 100.0
    assert meter.average == 62_000 / 80
    assert meter.seconds_left(100_000) == 380.0


def test_a_resumed_run_counts_only_its_own_steps_into_the_speed() -> None:
    meter = RateMeter()
    assert math.isnan(meter.now)
    meter.add(50.0, 700_000, learning=True)
    meter.add(60.0, 700_500, learning=True)
    assert meter.average == 50.0
    assert meter.seconds_left(701_000) == 10.0


def test_durations_read_like_a_clock() -> None:
    seconds = (0.4, 59.6, 3599, 3600, 90_061, math.nan, -1.0)
    assert [format_duration(number) for number in seconds] == [
        "0:00", "1:00", "59:59", "1:00:00", "1d 1:01:01", "-", "0:00",
    ]  # fmt: skip


def test_a_rough_time_reads_as_one_would_say_it() -> None:
    seconds = (0.2, 59.4, 2_232, 3_599, 7_800, 10_800, 98_000, 86_400 * 3.21, math.nan)
    assert [about(number) for number in seconds] == [
        "1 s", "59 s", "37 min", "1 h", "2 h 10 min", "3 h", "27 h", "3.2 days", "-",
    ]  # fmt: skip


def test_the_curve_goes_from_the_lowest_to_the_highest_value_over_the_steps() -> None:
    curve = Curve()
    assert curve.draw(8) == ""
    curve.add(0, math.nan)
    for steps, value in ((100, 10.0), (200, 17.0), (800, 3.0), (900, 3.0)):
        curve.add(steps, value)
    assert curve.draw(8, ascii_only=True) == "=######_"
    flat = Curve()
    for steps in range(50):
        flat.add(steps, 7.0)
    assert flat.draw(4, ascii_only=True) == "____"


def test_a_long_curve_stays_small_and_keeps_its_shape() -> None:
    curve = Curve()
    for steps in range(100_000):
        curve.add(steps, float(steps))
    assert curve.draw(8, ascii_only=True) == ".,--=+*#"
    assert len(curve._points) <= Curve.MAX_POINTS


def test_the_output_decides_unless_the_user_does() -> None:
    assert isinstance(make_display(None, HEADING, stream=io.StringIO()), PlainDisplay)
    assert isinstance(make_display(True, HEADING, stream=io.StringIO()), RichDisplay)


@pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")
def test_a_terminal_gets_the_panel_unless_it_is_dumb(monkeypatch: pytest.MonkeyPatch) -> None:
    controller, descriptor = os.openpty()
    with os.fdopen(controller, "rb"), os.fdopen(descriptor, "w") as stream:
        monkeypatch.setenv("TERM", "xterm-256color")
        assert isinstance(make_display(None, HEADING, stream=stream), RichDisplay)
        assert isinstance(make_display(False, HEADING, stream=stream), PlainDisplay)
        monkeypatch.setenv("TERM", "dumb")
        assert isinstance(make_display(None, HEADING, stream=stream), PlainDisplay)


@pytest.mark.parametrize("progress", [True, False])
def test_a_closed_pipe_ends_the_display_and_not_the_run(progress: bool) -> None:
    code = f"""
import sys, time
from dataclasses import replace
from dqn_zoo.training.display import Heading, Status, make_display
display = make_display({progress}, Heading(name="Pong_1", n_timesteps=100))
status = Status(steps=0, frames=0, elapsed_s=0.0, learning=True, episodes=0,
                return_mean=1.0, epsilon=1.0)
sys.stdin.readline()
for count in range(10):
    display.update(replace(status, steps=count, phase=str(count)))
    display.message("still here")
display.close()
print("the run went on", file=sys.stderr, flush=True)
import os; os._exit(0)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stdin.write(b"go\n")
    process.stdin.close()
    assert process.stderr.read() == b"the run went on\n"
    assert process.wait(timeout=30) == 0
    process.stderr.close()


def test_an_update_costs_less_than_a_millisecond_on_average() -> None:
    clock = Clock()
    display = RichDisplay(HEADING, terminal(120), clock=clock)
    start_s = time.thread_time()  # of this thread alone, however busy the machine is
    for count in range(1000):
        clock.seconds += 0.01  # one hundred training steps a second
        display.update(replace(STATUS, steps=count))
    assert time.thread_time() - start_s < 1000 * 0.001
    display.close()


def test_updates_that_take_three_times_as_long_are_noticed_once():
    slowdown = Slowdown()
    told, updates, update_s = [], 0, 0.0
    for span, each_s in enumerate([0.02, 0.01, 0.011, 0.05, 0.012, 0.029, 0.031, 0.04, 0.05]):
        told.append(slowdown.add(20.0 * span, updates, update_s))
        assert slowdown.add(20.0 * span + 19, updates + 1, update_s + 9) is None  # within the span
        updates, update_s = updates + 10, update_s + 10 * each_s
    told.append(slowdown.add(180.0, updates, update_s))
    # One slow span is none; 2.9 times is not three; then 3 and 4 times, and it was said.
    assert told == [None] * 8 + [pytest.approx(4.0), None]


def test_a_span_without_updates_says_nothing():
    slowdown = Slowdown()
    samples = [(0.0, 0, 0.0), (20.0, 10, 0.1), (40.0, 10, 0.1), (60.0, 11, 0.2), (80.0, 12, 0.3)]
    told = [slowdown.add(*sample) for sample in samples]
    assert told == [None, None, None, None, pytest.approx(10.0)]
