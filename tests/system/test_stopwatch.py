"""Where the time goes: every second counts once, for the innermost section."""

import contextlib

import pytest

from dqn_zoo.system.stopwatch import OUTSIDE, Stopwatch, profile_lines


class Clock:
    """A clock that a test moves."""

    seconds = 1_000.0

    def __call__(self) -> float:
        return self.seconds

    def move(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def stopwatch(clock):
    return Stopwatch(clock)


def test_a_second_counts_for_the_innermost_section_alone(clock, stopwatch):
    clock.move(1)
    with stopwatch.section("evaluation"):
        clock.move(2)
        with stopwatch.section("saving"):
            clock.move(4)
            with stopwatch.section("saving"):
                clock.move(8)
            clock.move(16)
        clock.move(32)
    clock.move(64)
    assert stopwatch.seconds() == {OUTSIDE: 1 + 64, "evaluation": 2 + 32, "saving": 4 + 8 + 16}


def test_sections_of_one_name_add_up_and_the_longest_comes_first(clock, stopwatch):
    for name, seconds in [("acting", 1), ("update", 5), ("acting", 2), ("logging", 4)]:
        with stopwatch.section(name):
            clock.move(seconds)
    assert list(stopwatch.seconds().items()) == [
        ("update", 5), ("logging", 4), ("acting", 3), (OUTSIDE, 0),
    ]  # fmt: skip


def test_seconds_read_in_the_midst_of_a_section_add_up_to_the_time_so_far(clock, stopwatch):
    clock.move(1)
    with stopwatch.section("update"):
        clock.move(2)
        assert stopwatch.seconds() == {OUTSIDE: 1, "update": 2}
        clock.move(4)
        assert stopwatch.seconds() == {OUTSIDE: 1, "update": 6}
    clock.move(8)
    assert stopwatch.seconds() == {OUTSIDE: 9, "update": 6}


def test_an_exception_ends_the_sections_it_leaves(clock, stopwatch):
    with stopwatch.section("evaluation"):
        with (
            contextlib.suppress(KeyError),
            stopwatch.section("saving"),
            stopwatch.section("display"),
        ):
            clock.move(1)
            raise KeyError
        clock.move(2)
    clock.move(4)
    assert stopwatch.seconds() == {OUTSIDE: 4, "evaluation": 2, "saving": 0, "display": 1}


def test_the_table_shows_seconds_shares_and_their_sum():
    assert list(profile_lines({"update": 3_000.0, "waiting": 999.5, "acting": 0.5})) == [
        "where the time went:",
        "  update    3,000.00 s  75.0%",
        "  waiting     999.50 s  25.0%",
        "  acting        0.50 s   0.0%",
        "  total     4,000.00 s 100.0%",
    ]
