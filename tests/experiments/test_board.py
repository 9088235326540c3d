"""What a sweep shows: plain lines in a file, a table in a terminal."""

import io

import pytest
from rich.console import Console

from dqn_zoo.experiments.board import Board
from dqn_zoo.experiments.plan import Job
from dqn_zoo.experiments.sweep import JobStatus, Statuses


def statuses_of(*states: JobStatus) -> Statuses:
    return {Job("dqn", "Pong", seed): status for seed, status in enumerate(states, 1)}


class Shown:
    """A board whose clock the test moves, and what it printed."""

    def __init__(self, *, is_terminal: bool) -> None:
        self.text = io.StringIO()
        self.now_s = 0.0
        console = Console(file=self.text, force_terminal=is_terminal, width=100, color_system=None)
        self.board = Board(console, clock=lambda: self.now_s)

    def show(self, now_s: float, *states: JobStatus) -> str:
        """Return what one more look at the jobs prints."""
        self.now_s = now_s
        before = len(self.text.getvalue())
        self.board.show(statuses_of(*states))
        return self.text.getvalue()[before:]


def test_lines_say_counts_rate_and_time_left_twice_a_minute():
    shown = Shown(is_terminal=False)
    first = shown.show(0.0, JobStatus("running", 0, 1_000), JobStatus("waiting", 0, 1_000))
    assert first == "2 jobs: 1 running, 1 waiting; - steps/s, - left\n"
    assert shown.show(20.0, JobStatus("running", 200, 1_000), JobStatus("waiting", 0, 1_000)) == ""
    later = shown.show(30.0, JobStatus("running", 300, 1_000), JobStatus("waiting", 0, 1_000))
    assert later == "2 jobs: 1 running, 1 waiting; 10 steps/s, 2:50 left\n"


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (JobStatus("running", 1_000, 1_000), "2 jobs: 2 running, playing their games\n"),
        (JobStatus("done", 1_000, 1_000), "2 jobs: 1 running, 1 done, playing their games\n"),
        (JobStatus("running", 900, 1_000), "2 jobs: 2 running; - steps/s, - left\n"),
    ],
)
def test_no_rate_is_shown_where_all_play_the_games_at_their_end(second, said):
    shown = Shown(is_terminal=False)
    assert shown.show(0.0, JobStatus("running", 1_000, 1_000), second) == said


def test_a_failure_stays_and_is_told_once():
    shown = Shown(is_terminal=False)
    failed = JobStatus("failed", 10, 1_000, reason="error: no such game")
    assert "dqn/Pong_1 failed: error: no such game\n" in shown.show(0.0, failed)
    assert shown.show(60.0, failed) == "1 job: 1 failed; 0 steps/s, - left\n"


def test_a_terminal_shows_the_jobs_that_run():
    shown = Shown(is_terminal=True)
    running = JobStatus("running", 500, 1_000, return_mean=-20.5, steps_per_second=250.0)
    playing = JobStatus("running", 1_000, 1_000)
    with shown.board:
        shown.show(0.0, running, playing, JobStatus("waiting", 0, 1_000))
        shown.board._live.refresh()
    text = shown.text.getvalue()
    assert "dqn/Pong_1 " in text
    assert "50%" in text
    assert "0:02" in text
    assert "-20.5" in text
    assert "playing its games" in text
    assert "dqn/Pong_3" not in text  # waits
