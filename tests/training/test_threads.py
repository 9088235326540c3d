"""How many threads a run gets where nobody asked for a number."""

import pytest
import torch

from dqn_zoo.algorithms.replay_q import ReplayQ
from dqn_zoo.cli.train import main
from dqn_zoo.settings.recipes import resolve
from dqn_zoo.training.preparation import complete
from dqn_zoo.training.threads import SPAN_S, chosen, try_threads

SMALL = {"batch_size": 4, "network": "small", "device": "cpu", "num_threads": 0}


def config_that_asks_for_no_number():
    return complete(resolve(env="Breakout", algo="dqn", overrides=SMALL).config)


@pytest.mark.parametrize(
    ("seconds", "number"),
    [
        ({1: 10.0}, 1),
        ({1: 10.0, 2: 12.0}, 1),
        ({1: 10.0, 2: 8.4}, 1),  # 1.19 times as fast
        ({1: 10.0, 2: 8.3}, 2),  # 1.20
        ({1: 10.0, 2: 9.0, 4: 8.0, 8: 7.9}, 4),
        ({1: 10.0, 2: 5.0, 4: 4.5, 8: 4.4}, 2),
        ({1: 10.0, 2: 30.0, 4: 60.0, 8: 5.0}, 8),
    ],
)
def test_more_threads_are_taken_where_they_are_worth_it(seconds, number):
    assert chosen(seconds) == number


@pytest.fixture
def two_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr("dqn_zoo.system.machine.usable_cores", lambda: 2)


def work_that_takes(monkeypatch, seconds):
    """Let learning take so long with so many threads."""
    monkeypatch.setattr(
        ReplayQ, "estimate_seconds", lambda config, timer: seconds[torch.get_num_threads()]
    )


def test_beside_a_busy_program_one_thread_learns_and_alone_two_do(two_cores, monkeypatch):
    work_that_takes(monkeypatch, {1: 10.0, 2: 30.0})
    trial = try_threads(config_that_asks_for_no_number())
    assert trial == (1, {1: 10.0, 2: 30.0})
    assert trial.note == "1 thread, as tried just now: 2 would take 3.00 times as long"
    work_that_takes(monkeypatch, {1: 10.0, 2: 7.0})
    trial = try_threads(config_that_asks_for_no_number())
    assert trial.num_threads == 2
    assert trial.note == "2 threads, as tried just now: 1 would take 1.43 times as long"
    assert torch.get_num_threads() == 1  # as before


def test_the_command_takes_what_was_tried_and_says_so(two_cores, monkeypatch, tmp_path, capsys):
    work_that_takes(monkeypatch, {1: 10.0, 2: 30.0})
    flags = ["--env", "Pong", "-n", "8", "-f", str(tmp_path), "--device", "cpu"]
    small = ["--set=buffer_size=100", "--set=n_envs=1", "--eval-freq=0"]
    assert main([*flags, *small]) == 0
    said = capsys.readouterr().out
    assert "note         1 thread, as tried just now: 2 would take 3.00 times as long" in said
    assert "machine      cpu, 1 thread," in said
    assert "num_threads: 1" in (tmp_path / "laptop" / "Pong_1" / "config.yml").read_text()


def test_a_number_that_was_asked_for_is_taken_untried(monkeypatch):
    def refuse(config, timer):
        raise AssertionError("it was tried")

    monkeypatch.setattr(ReplayQ, "estimate_seconds", refuse)
    monkeypatch.setattr("dqn_zoo.system.machine.usable_cores", lambda: 2)
    # In the tests OMP_NUM_THREADS asks for one.
    assert try_threads(config_that_asks_for_no_number()) == (1, {})


def test_the_real_work_is_timed_with_each_number_in_turn(two_cores, monkeypatch):
    spans = []
    real = ReplayQ.estimate_seconds

    def watched(config, timer):
        seconds = real(config, timer)
        spans.append((torch.get_num_threads(), seconds))
        return seconds

    monkeypatch.setattr(ReplayQ, "estimate_seconds", watched)
    monkeypatch.setattr("dqn_zoo.training.threads.SPAN_S", SPAN_S / 25)
    trial = try_threads(config_that_asks_for_no_number())
    assert [number for number, _ in spans] == [1, 2, 1, 2]
    assert trial.seconds[1] == pytest.approx((spans[0][1] + spans[2][1]) / 2)
