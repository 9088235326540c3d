"""docs/reading.md counts right: the files of a transition's way, their lines, and the calls."""

import inspect
import re
from pathlib import Path

import pytest

import dqn_zoo
from dqn_zoo.cli.train import main
from dqn_zoo.learning import value_learning

PACKAGE = Path(dqn_zoo.__file__).parent
TEXT = (PACKAGE.parent / "docs" / "reading.md").read_text(encoding="utf-8")
MOST_FILES, MOST_CALLS = 12, 7


def test_the_way_of_a_transition_has_the_files_and_lines_that_the_page_says():
    stops = re.findall(r"^\| \d+ \| `([\w/]+\.py)` \|", TEXT, re.MULTILINE)
    lines = sum(len((PACKAGE / stop).read_text().splitlines()) for stop in stops)
    stated = re.search(r"These are (\d+) files of some ([\d,]+) lines\.", TEXT)
    assert stated is not None
    assert int(stated[1]) == len(stops) <= MOST_FILES
    assert int(stated[2].replace(",", "")) == pytest.approx(lines, rel=0.03)


def test_from_the_command_to_the_target_are_the_calls_that_the_page_says(tmp_path, monkeypatch):
    calls: list[str] = []
    real = value_learning.td_target

    def spy(reward, discount, next_value):
        frames = inspect.stack()[1:]
        ours = [f.function for f in frames if Path(f.filename).is_relative_to(PACKAGE)]
        if not calls and "training_loop" in ours:  # not in the estimate of the preview
            calls[:] = ours
        return real(reward, discount, next_value)

    monkeypatch.setattr(value_learning, "td_target", spy)
    settings = {"learning_starts": 60, "buffer_size": 100, "batch_size": 4, "eval_freq": 0}
    settings["targets_ahead"] = "never"  # else the last calls happen in a thread of their own
    flags = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    flags += ["--num-threads", "1", "--no-progress", "-f", str(tmp_path)]
    assert main(["--env", "Pong", "--algo", "dqn", "-n", "80", *flags]) == 0
    chain = [*reversed(calls), "td_target"]
    assert f"\n{' > '.join(chain)}\n" in TEXT
    assert f"there are {len(chain) - 1} calls" in TEXT
    assert len(chain) - 1 <= MOST_CALLS
