"""The flags of dqn-train: RL-Zoo's spellings, and the settings they stand for."""

import argparse
from pathlib import Path
from typing import Any, NamedTuple

from dqn_zoo.cli.arguments import (
    REFUSED_TRAIN,
    Parser,
    add_refused_flags,
    add_set,
    flag_value,
    parse_duration,
    parse_setting,
    parse_whole_number,
)
from dqn_zoo.errors import UserError

DEFAULT_LOG_FOLDER = Path("logs")
LATEST = ""  # --resume without a name

_EPILOG = """\
Defaults marked (recipe) are those of hyperparams/dqn.yml; another --algo may have others, and
--print-config shows what a run would use and where each value comes from. Steps are decisions of
the agent (4 frames), summed over environments.
"""


class Overrides(NamedTuple):
    """Settings given by flags: the values by key, and the flag that gave each."""

    values: dict[str, Any]
    flags: dict[str, str]


def build_parser() -> Parser:
    """Return the parser of dqn-train.

    The defaults in the help are text, so that --help needs no recipe; a test compares them.
    """
    parser = Parser(
        prog="dqn-train",
        description="Train a deep Q-learning agent on an Atari game, or resume a run.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_what_to_train(parser.add_argument_group("what to train"))
    _add_settings(parser.add_argument_group("settings"))
    _add_length(parser.add_argument_group("how long, how often"))
    _add_runs(parser.add_argument_group("runs"))
    _add_machine(parser.add_argument_group("machine and display"))
    add_refused_flags(parser, REFUSED_TRAIN)
    return parser


def overrides_from(arguments: argparse.Namespace) -> Overrides:
    """Collect the settings that flags, -params and --set give.

    Raises:
        UserError: a key is given twice.
    """
    overrides = Overrides({}, {})
    for key in _SETTING_FLAGS:
        if key in arguments.given:
            _add(overrides, key, getattr(arguments, key), _flag(key))
    for dest in ("hyperparams", "set"):
        for key, value in getattr(arguments, dest):
            _add(overrides, key, value, f"{_flag(dest)} {key}")
    return overrides


def explicit_flags(arguments: argparse.Namespace) -> frozenset[str]:
    """Return the flags that the user gave, by their long spelling."""
    return frozenset(_flag(dest) for dest in arguments.given)


def check_resume_flags(arguments: argparse.Namespace) -> None:
    """Refuse what cannot go with --resume: the run keeps its settings.

    Raises:
        UserError: such a flag was given, or --exp-id without --resume.
    """
    given = explicit_flags(arguments)
    if "--resume" not in given:
        if "--exp-id" in given:
            raise UserError("--exp-id chooses the run of --resume; a new run takes the next number")
        return
    refused = sorted(given - {"--resume"} - _WITH_RESUME)
    if refused:
        raise UserError(
            f"{refused[0]} cannot go with --resume, which keeps the settings of the run; "
            f"only {', '.join(sorted(_WITH_RESUME))} can; -i starts a new run from given weights"
        )


def _add_what_to_train(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--env",
        metavar="GAME",
        help="SpaceInvaders, space_invaders, SpaceInvadersNoFrameskip-v4, ALE/SpaceInvaders-v5 and "
        "the like (default: SpaceInvaders)",
    )
    group.add_argument(
        "--algo", metavar="NAME", help="recipe: a file in hyperparams/ (default: dqn)"
    )
    group.add_argument(
        "--list-algos",
        action="store_true",
        help="print the recipes with a line each, and stop (default: off)",
    )
    group.add_argument(
        "--protocol",
        choices=("zoo", "machado", "sb3"),
        help="rules of play (default: what the name of the game implies, NoFrameskip-v4: zoo, "
        "ALE/...-v5: machado; else the recipe's, zoo)",
    )
    group.add_argument(
        "-i",
        "--trained-agent",
        type=Path,
        metavar="PATH",
        help="start a new run from these weights (default: random weights)",
    )


def _add_settings(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-c",
        "-conf",
        "--conf-file",
        type=Path,
        metavar="FILE",
        help="YAML whose settings lie over the recipe's; RL-Zoo's files work (default: none)",
    )
    group.add_argument(
        "-params",
        "--hyperparams",
        "--hyperparameters",
        type=flag_value(parse_setting),
        nargs="+",
        action="extend",
        default=(),
        metavar="KEY:VALUE",
        help="single settings, the value in YAML (default: none)",
    )
    add_set(group, "one setting, the value in YAML; may be repeated (default: none)")
    group.add_argument(
        "--print-config",
        action="store_true",
        help="print the merged settings as a file for -c, and stop (default: off)",
    )


def _add_length(group: argparse._ArgumentGroup) -> None:
    _add_count(group, "-n", "--n-timesteps", help="steps of the run (default: recipe, 10,000,000)")
    group.add_argument(
        "--time-limit",
        type=flag_value(parse_duration),
        metavar="TIME",
        help="save and stop after 90m, 1h30m, 45s or 3600 (seconds) (default: none)",
    )
    _add_count(
        group,
        "--eval-freq",
        help="steps between evaluations; 0: never (default: recipe, 25,000)",
    )
    _add_count(group, "--eval-episodes", help="full games in one evaluation (default: recipe, 5)")
    _add_count(
        group,
        "--save-freq",
        help="steps between checkpoints; 0: only at the end "
        "(default: 100,000; on a GPU a tenth of the run, at most 1,000,000)",
    )
    _add_count(
        group,
        "--log-interval",
        help="steps between rows of progress.csv (default: recipe, 1,000)",
    )


def _add_runs(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-f",
        "--log-folder",
        type=Path,
        default=DEFAULT_LOG_FOLDER,
        metavar="FOLDER",
        help="where run folders are made and looked for (default: logs)",
    )
    group.add_argument(
        "--resume",
        nargs="?",
        const=LATEST,
        metavar="RUN",
        help="continue a run, given by folder or name; without RUN the latest (default: a new run)",
    )
    _add_count(group, "--exp-id", help="with --resume: number of the run; 0: latest (default: 0)")
    group.add_argument(
        "-tb",
        "--tensorboard-log",
        type=Path,
        metavar="FOLDER",
        help="where TensorBoard's files go (default: the run folder)",
    )


def _add_machine(group: argparse._ArgumentGroup) -> None:
    _add_count(group, "--seed", help="seed of the run (default: drawn and printed)")
    group.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        help="where the networks live (default: auto, a GPU where there is one)",
    )
    _add_count(
        group, "--num-threads", help="threads of PyTorch (default: 0, chosen from the cores)"
    )
    _add_count(group, "--n-envs", help="environments stepped together (default: recipe, 1)")
    group.add_argument(
        "--backend",
        choices=("auto", "vector", "gymnasium"),
        help="who runs the emulator (default: auto, vector wherever it can serve)",
    )
    group.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "auto"),
        help="arithmetic of the networks; auto: bfloat16 on a GPU, and where the CPU does it fast "
        "(default: recipe, float32)",
    )
    group.add_argument(
        "--cuda-graph",
        choices=("auto", "never"),
        help="record the updates on a GPU and repeat them; auto: unless that fails "
        "(default: recipe, auto)",
    )
    group.add_argument(
        "--profile",
        action="store_true",
        help="show at the end where the time went (default: off)",
    )
    group.add_argument(
        "-P",
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="live display, or plain lines (default: live in a terminal)",
    )


def _add_count(group: argparse._ArgumentGroup, *flags: str, help: str) -> None:
    """Add a flag that takes a whole number; RL-Zoo's -1 means what it means there."""
    group.add_argument(
        *flags,
        type=flag_value(parse_whole_number),
        action=_CountAction,
        metavar="N",
        help=help,
    )


class _CountAction(argparse.Action):
    """Stores a number; RL-Zoo's -1 is stored as what it means, or leaves the default."""

    def __call__(self, parser: object, namespace: object, values: Any, flag: object = None) -> None:
        setattr(namespace, self.dest, _MINUS_ONE.get(self.dest, -1) if values == -1 else values)


def _add(overrides: Overrides, key: str, value: object, flag: str) -> None:
    if key in overrides.values:
        raise UserError(f"{key} is given twice, by {overrides.flags[key]} and {flag}; keep one")
    overrides.values[key] = value
    overrides.flags[key] = flag


def _flag(dest: str) -> str:
    return "--" + dest.replace("_", "-")


# What -1 means in RL-Zoo; None is "not given": the recipe's number, a drawn seed, chosen threads.
_MINUS_ONE: dict[str, int | None] = {
    "n_timesteps": None,
    "log_interval": None,
    "seed": None,
    "num_threads": None,
    "eval_freq": 0,
    "save_freq": 0,
}

# Flags whose value is a setting of the same name.
_SETTING_FLAGS = (
    "protocol",
    "n_timesteps",
    "eval_freq",
    "eval_episodes",
    "save_freq",
    "log_interval",
    "seed",
    "device",
    "num_threads",
    "n_envs",
    "backend",
    "precision",
    "cuda_graph",
)

_WITH_RESUME = frozenset(
    {
        "--n-timesteps",
        "--time-limit",
        "--progress",
        "--profile",
        "--device",
        "--num-threads",
        "--cuda-graph",
        "--log-folder",
        "--exp-id",
    }
)
