"""How many threads a run gets: tried out on this machine, as busy as it is.

Threads that share an operator wait for each other several hundred times an update. Where one of
them has to wait for another program, all do: beside one busy program two threads on two cores make
a third of what one makes, and less. Alone they make up to 1.4 times as much.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from dqn_zoo.algorithms.choice import algorithm_of
from dqn_zoo.settings.config import Config
from dqn_zoo.system import machine

WORTH = 1.2  # so much faster must twice the threads be; what they leave free serves the emulators
ROUNDS = 2  # each number is tried so often, in turn
SPAN_S = 0.25  # of each kind of work in a round


class Trial(NamedTuple):
    """What was tried, and what came of it.

    Attributes:
        num_threads: the number to take.
        seconds: of the learning of the run, by number of threads; empty where none was tried.
    """

    num_threads: int
    seconds: dict[int, float]

    @property
    def note(self) -> str | None:
        """One line on the others, if there were any."""
        others = [
            f"{number} would take {seconds / self.seconds[self.num_threads]:.2f} times as long"
            for number, seconds in self.seconds.items()
            if number != self.num_threads
        ]
        if not others:
            return None
        plural = "s" if self.num_threads > 1 else ""
        return f"{self.num_threads} thread{plural}, as tried just now: {', '.join(others)}"


def try_threads(config: Config) -> Trial:
    """Choose the threads of a run for which no number was asked.

    Its settings are complete, with the number that is taken where nothing can be tried.
    """
    most = config.num_threads
    if config.device != "cpu" or most < 2 or machine.threads_of_environment() is not None:
        return Trial(most, {})
    numbers = [number for number in (1, 2, 4, 8) if number <= most]
    seconds = dict.fromkeys(numbers, 0.0)
    before = torch.get_num_threads()
    try:
        for number in numbers * ROUNDS:
            torch.set_num_threads(number)
            tried = config.model_copy(update={"num_threads": number})
            seconds[number] += algorithm_of(config).estimate_seconds(tried, _mean_s) / ROUNDS
    finally:
        torch.set_num_threads(before)
    return Trial(chosen(seconds), seconds)


def chosen(seconds: dict[int, float]) -> int:
    """Return the number of threads whose time is worth it, in the order from few to many."""
    best = min(seconds)
    for number in sorted(seconds):
        if seconds[number] * WORTH < seconds[best]:
            best = number
    return best


def _mean_s(work: Callable[[], object], *, num_first: int = 1) -> float:
    """Return the mean seconds of a run of the work, whatever got in its way."""
    for _ in range(num_first):
        work()
    began, runs = time.perf_counter(), 0
    while (passed_s := time.perf_counter() - began) < SPAN_S or runs == 0:
        work()
        runs += 1
    return passed_s / runs
