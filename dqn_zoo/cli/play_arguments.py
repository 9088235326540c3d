"""Flags of every command that lets a trained agent play: whose, by which rules, on what."""

import argparse
from collections.abc import Callable
from pathlib import Path

from dqn_zoo.cli.arguments import flag_value, parse_whole_number
from dqn_zoo.errors import UserError

DEFAULT_EPISODES = 10


def add_whom(group: argparse._ArgumentGroup) -> None:
    """Add the flags that choose a run."""
    group.add_argument("--env", metavar="GAME", help="the latest run of this game (default: any)")
    group.add_argument(
        "--algo", metavar="NAME", help="the latest run of this recipe (default: any)"
    )
    group.add_argument(
        "--run", metavar="RUN", help="a run, by folder or name (default: the latest)"
    )
    group.add_argument(
        "--exp-id",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="number of the run; 0: the latest (default: 0)",
    )
    add_log_folder(group)


def add_log_folder(group: argparse._ArgumentGroup) -> None:
    """Add the flag that says where the runs are."""
    group.add_argument(
        "-f",
        "--folder",
        "--log-folder",
        type=Path,
        default=Path("logs"),
        metavar="FOLDER",
        help="where the runs are (default: logs)",
    )


def add_weights(group: argparse._MutuallyExclusiveGroup) -> None:
    """Add the flags that choose among the weights of a run."""
    for flag, weights, text in (
        ("--load-best", "best", "the model of the best evaluation (default, if there was one)"),
        ("--load-last", "last", "the last model"),
        ("--load-last-checkpoint", "last_checkpoint", "the newest checkpoint"),
    ):
        group.add_argument(flag, dest="weights", action="store_const", const=weights, help=text)
    group.add_argument(
        "--load-checkpoint",
        dest="weights",
        type=whole_number(0),
        metavar="N",
        help="the checkpoint of step N",
    )


def add_rules(group: argparse._ArgumentGroup) -> None:
    """Add the flags that depart from the rules of the run, and the seed."""
    group.add_argument(
        "--protocol",
        choices=("zoo", "machado", "sb3"),
        help="rules of play (default: those of the run)",
    )
    epsilon = group.add_mutually_exclusive_group()
    epsilon.add_argument(
        "--epsilon",
        type=flag_value(_fraction),
        metavar="E",
        help="chance of a random action (default: the run's, else the protocol's)",
    )
    epsilon.add_argument(
        "--deterministic",
        dest="epsilon",
        action="store_const",
        const=0.0,
        help="always the best action: epsilon 0",
    )
    epsilon.add_argument("--stochastic", action="store_true", help="the default epsilon")
    group.add_argument(
        "--seed",
        type=whole_number(0),
        default=0,
        metavar="N",
        help="seed of the games, which are never those of training (default: 0)",
    )


def add_machine(group: argparse._ArgumentGroup) -> None:
    """Add the flags that decide the speed."""
    group.add_argument(
        "--n-envs",
        type=whole_number(1),
        metavar="N",
        help="games played at once (default: up to 8 for each core; 1 with a window, a film or -n)",
    )
    group.add_argument(
        "--num-threads",
        type=whole_number(-1),
        default=0,
        metavar="N",
        help="threads that play, each with its share of the games (with a window, a film or -n: "
        "threads of PyTorch); 0, and RL-Zoo's -1: chosen from the cores (default: 0)",
    )
    group.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="where the network lives (default: auto, a GPU where there is one)",
    )


def add_progress(group: argparse._ArgumentGroup) -> None:
    """Add the flag of the progress bar."""
    group.add_argument(
        "-P",
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="a progress bar (default: none)",
    )


def whole_number(least: int, most: int | None = None) -> Callable[[str], int]:
    """Return an argparse type: a whole number of at least `least`, at most `most`."""

    def read(text: str) -> int:
        number = parse_whole_number(text)
        if number < least:
            raise UserError(f"expected a whole number of at least {least}, got {text}")
        if most is not None and number > most:
            raise UserError(f"expected a whole number of at most {most:,}, got {text}")
        return number

    return flag_value(read)


def _fraction(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 <= value <= 1.0:
        raise UserError(f"expected a number from 0 to 1, got {text!r}")
    return value
