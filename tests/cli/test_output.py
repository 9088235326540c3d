"""Standard output and error on a disk that is full: /dev/full is one."""

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from dqn_zoo.cli import enjoy, leaderboard, train
from dqn_zoo.cli.output import guard_streams
from dqn_zoo.runs.finding import find_run

FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
LOST = "error: standard output: No space left on device: some is lost"


@contextmanager
def full(name: str):
    """Let stdout or stderr of this process be on a full disk."""
    before = getattr(sys, name), getattr(sys, f"__{name}__")
    stream = FULL.open("w")
    setattr(sys, name, stream)
    setattr(sys, f"__{name}__", stream)
    try:
        yield
    finally:
        getattr(sys, name).flush()
        setattr(sys, name, before[0])
        setattr(sys, f"__{name}__", before[1])
        stream.close()


@pytest.mark.parametrize(
    ("main", "arguments"),
    [
        (train.main, ["--list-algos"]),
        (train.main, ["--print-config"]),
        (enjoy.main, ["--list"]),
        (leaderboard.main, ["--offline"]),
    ],
)
def test_what_could_not_be_printed_is_an_error_of_one_line(
    main, arguments, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)  # without runs
    with full("stdout"):
        assert main(arguments) == 2
    assert capsys.readouterr().err.splitlines() == [LOST]


def test_a_mistake_is_said_although_the_output_is_full(capsys):
    with full("stdout"):
        assert train.main(["--env", "NoSuchGame"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: unknown game 'NoSuchGame'")


def test_a_run_finishes_whatever_becomes_of_its_output(capsys, tmp_path):
    settings = {
        "learning_starts": 40, "buffer_size": 100, "eval_freq": 0, "network": "small",
        "batch_size": 4, "num_threads": 1, "target_update_interval": 10,
    }  # fmt: skip
    sets = [word for pair in settings.items() for word in ("--set", "{}={}".format(*pair))]
    with full("stdout"):
        assert (
            train.main(["--env", "Pong", "--algo", "dqn", "-n", "60", *sets, "-f", str(tmp_path)])
            == 0
        )
    assert capsys.readouterr().err.splitlines()[-1] == LOST
    assert find_run(tmp_path).model_file.exists()


def test_a_full_stderr_changes_no_exit_code():
    with full("stderr"):
        assert train.main(["--env", "NoSuchGame"]) == 2


def test_other_streams_are_left_alone(capsys):
    before = sys.stdout
    guard_streams()
    assert sys.stdout is before


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_lines_come_in_the_order_in_which_they_were_printed(unbuffered):
    code = (
        "import sys; from dqn_zoo.cli.output import guard_streams; guard_streams()\n"
        "print(1, flush=True); print(2, file=sys.stderr); print(3, flush=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["1", "2", "3"]
