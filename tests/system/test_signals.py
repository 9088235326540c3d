"""What ends a program: every signal that a terminal, a system or a batch queue sends."""

import os
import pty
import signal

import pytest

from dqn_zoo.cli.arguments import command
from dqn_zoo.system import signals
from dqn_zoo.system.signals import (
    ENDING,
    Ended,
    ended_by_signals,
    leave_closed_terminal,
    stop_requests,
    uninterrupted,
)

EVERY = pytest.mark.parametrize("name", list(ENDING))


@pytest.fixture(autouse=True)
def by_default():
    """Let signals do what they do by default, whoever started the tests."""
    numbers = [number for number in ENDING.values() if number != signal.SIGINT]
    before = {number: signal.signal(number, signal.SIG_DFL) for number in numbers}
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_closed_terminal_batch_systems_and_limits_are_among_them():
    assert {"SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"} == set(ENDING)


@EVERY
def test_a_run_stops_for_the_first_and_no_other_cuts_its_save(name):
    before = signal.getsignal(ENDING[name])
    with stop_requests(None) as stop:
        assert stop.reason() is None
        for following in (name, *ENDING, name):
            signal.raise_signal(ENDING[following])
            assert stop.reason() == name
    assert signal.getsignal(ENDING[name]) is before


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_wait_at_the_end_of_a_stopped_run_ends_with_the_next_ctrl_c(name, monkeypatch):
    with stop_requests(None) as stop:
        signal.raise_signal(ENDING[name])
        with stop.waiting() as goes_on:
            signal.raise_signal(signal.SIGTERM)  # batch systems repeat themselves
            if name == "SIGINT":
                signal.raise_signal(signal.SIGINT)  # the same press
            assert goes_on()
            monkeypatch.setattr(signals, "ONE_PRESS_S", 0.0)
            signal.raise_signal(signal.SIGINT)
            assert not goes_on()


@EVERY
def test_a_wait_at_the_end_of_a_finished_run_ends_with_the_first_signal(name):
    with stop_requests(None) as stop, stop.waiting() as goes_on:
        signal.raise_signal(ENDING[name])
        assert not goes_on()


@EVERY
def test_other_commands_take_every_signal_as_ctrl_c_and_say_which_it_was(name):
    tidied = []

    @command
    def main(arguments):
        try:
            signal.raise_signal(ENDING[name])
        except KeyboardInterrupt:
            for following in set(ENDING) - {"SIGINT"}:
                signal.raise_signal(ENDING[following])
            tidied.append(True)
            raise

    assert main() == 128 + ENDING[name]
    assert tidied == [True]


def test_a_second_ctrl_c_ends_what_waits():
    with ended_by_signals():
        for _ in range(2):
            with pytest.raises(Ended, match="SIGINT"):
                signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_signal_that_was_ignored_stays_ignored_as_nohup_wants(name):
    signal.signal(ENDING[name], signal.SIG_IGN)
    with ended_by_signals(), stop_requests(None) as stop:
        signal.raise_signal(ENDING[name])
        assert stop.reason() is None
        signal.raise_signal(signal.SIGTERM)
        assert stop.reason() == "SIGTERM"
    assert signal.getsignal(ENDING[name]) == signal.SIG_IGN


def test_nothing_interrupts_what_must_be_completed():
    with ended_by_signals():
        with uninterrupted():
            for number in ENDING.values():
                signal.raise_signal(number)
        with pytest.raises(Ended, match="SIGTERM"):
            signal.raise_signal(signal.SIGTERM)


def test_what_is_printed_after_the_terminal_was_closed_goes_nowhere():
    terminal, program = pty.openpty()
    leave_closed_terminal([program])
    assert os.isatty(program)
    os.close(terminal)
    with pytest.raises(OSError, match="Input/output error"):
        os.write(program, b"last words")
    leave_closed_terminal([program])
    assert os.write(program, b"last words") == 10
    os.close(program)
