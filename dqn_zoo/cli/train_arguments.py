"""The flags of dqn-train: RL-Zoo's spellings, and the settings they stand for.

A flag for a setting takes its name, choices, range, default and help from the field of `Config`;
`_SETTING_FLAGS` holds what it adds.
"""

import argparse
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

from dqn_zoo.cli.arguments import (
    Parser,
    add_env_kwargs,
    add_set,
    add_settings,
    device,
    flag_of,
    flag_value,
    parse_duration,
    parse_whole_number,
)
from dqn_zoo.cli.refused_flags import REFUSED_TRAIN, add_refused_flags
from dqn_zoo.errors import UserError
from dqn_zoo.settings.config import Config, accepted_values

DEFAULT_LOG_FOLDER = Path("logs")
LATEST = ""  # --resume without a name

_EPILOG = """\
Where a default is the recipe's, --print-config shows the value that a run would use, and where it
comes from; without --algo the recipe is laptop, with a GPU gpu, with -c dqn. Steps are decisions of
the agent (4 frames), summed over environments.
"""


class Overrides(NamedTuple):
    """Settings given by flags: the values by key, and the flag that gave each."""

    values: dict[str, Any]
    flags: dict[str, str]


def build_parser() -> Parser:
    """Return the parser of dqn-train."""
    parser = Parser(
        "dqn-train", "Train a deep Q-learning agent on an Atari game, or resume a run.", _EPILOG
    )
    groups = {title: parser.add_argument_group(title) for title in _GROUPS}
    _add_what_to_train(groups[_WHAT])
    for key, flag in _SETTING_FLAGS.items():
        _add_setting(groups[flag.group], key, flag)
    _add_files_and_keys(groups[_SETTINGS])
    _add_length(groups[_LENGTH])
    _add_runs(groups[_RUNS])
    _add_backup(groups[_RUNS])
    _add_tracking(groups[_RUNS])
    _add_display(groups[_MACHINE])
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
            _add(overrides, key, getattr(arguments, key), flag_of(key))
    for dest in ("hyperparams", "set"):
        for key, value in getattr(arguments, dest):
            _add(overrides, key, value, f"{flag_of(dest)} {key}")
    if arguments.env_kwargs:
        _add(overrides, "env_kwargs", dict(arguments.env_kwargs), "--env-kwargs")
    return overrides


def _add_what_to_train(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--env",
        metavar="GAME",
        help="SpaceInvaders, space_invaders, SpaceInvadersNoFrameskip-v4, ALE/SpaceInvaders-v5 and "
        "the like (default: SpaceInvaders)",
    )
    group.add_argument(
        "--algo",
        metavar="NAME",
        help="recipe: a name that --list-algos shows, or hyperparams/NAME.yml in this folder "
        "(default: laptop, with a GPU gpu; with -c: dqn)",
    )
    group.add_argument(
        "--list-algos",
        action="store_true",
        help="print the recipes with a line each, and stop",
    )
    group.add_argument(
        "-i",
        "--trained-agent",
        type=Path,
        metavar="RUN",
        help="start a new run from these weights: a run, by folder or name, or a file; without "
        "--algo and --env its settings and its game (default: random weights)",
    )


def _add_files_and_keys(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-c",
        "-conf",
        "--conf-file",
        type=Path,
        metavar="FILE",
        help="YAML whose settings lie over the recipe's; RL-Zoo's files work (default: none)",
    )
    spellings = ("-params", "--hyperparams", "--hyperparameters")
    help = "single settings, the value in YAML (default: none)"
    add_settings(group, *spellings, metavar="KEY:VALUE", help=help)
    add_env_kwargs(group)
    add_set(group, "single settings, the value in YAML; may be repeated (default: none)")
    group.add_argument(
        "--print-config",
        action="store_true",
        help="print the merged settings as a file for -c, and stop",
    )


def _add_length(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--for",
        type=flag_value(parse_duration),
        metavar="TIME",
        help="measure the speed here for some seconds and choose n_timesteps so that the run, its "
        "schedules and evaluations end within 45m, 2h or the like (default: off)",
    )
    group.add_argument(
        "--time-limit",
        type=flag_value(parse_duration),
        metavar="TIME",
        help="save and stop after 90m, 1h30m, 45s or 3600 (seconds) (default: none)",
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
        help="continue a run, given by folder or name; without RUN the latest, of --env and --algo "
        "where they are given; RUN/checkpoints/step_... goes back to it; hf://USER/REPO fetches "
        "what --hub-backup put there (default: a new run)",
    )
    group.add_argument(
        "--exp-id",
        type=flag_value(parse_whole_number),
        metavar="N",
        help="with --resume: number of the run; 0: latest (default: 0)",
    )
    group.add_argument(
        "-tb",
        "--tensorboard-log",
        type=Path,
        metavar="FOLDER",
        help="where TensorBoard's files go (default: the run folder)",
    )


def _add_backup(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--hub-backup",
        metavar="USER/REPO",
        help="back checkpoints up to this repository of the Hub, private where it is new; resumes "
        "go on with it until one is told --hub-backup none (default: no backup)",
    )
    group.add_argument(
        "--hub-backup-every",
        type=flag_value(parse_duration),
        metavar="TIME",
        help="time between two backups; if no checkpoint is due by then, one is saved for it "
        "(default: 10m)",
    )


def _add_tracking(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--track",
        nargs="?",
        choices=("wandb", "trackio"),
        const="wandb",
        help="log to Weights & Biases as well, offline where there is no key for it, or to Trackio "
        "on this machine; a resumed run goes on in the same tracked run (default: off)",
    )
    group.add_argument(
        "--wandb-project-name",
        metavar="NAME",
        help="project of --track, of either tracker (default: dqn-zoo)",
    )
    group.add_argument(
        "--wandb-entity",
        metavar="NAME",
        help="user or team that the project belongs to (default: that of the key)",
    )
    group.add_argument(
        "--wandb-group", metavar="NAME", help="group of runs in the project (default: none)"
    )
    group.add_argument(
        "-tags",
        "--wandb-tags",
        nargs="+",
        metavar="TAG",
        help="tags of the tracked run (default: none)",
    )


def _add_display(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--watch",
        action="store_true",
        help="serve a page beside the run, on which its curves grow and its newest weights play; "
        "docs/watch.md (default: off)",
    )
    group.add_argument(
        "--no-browser",
        action="store_true",
        help="with --watch: only print the address (default: open it, where there is a display)",
    )
    group.add_argument(
        "--profile", action="store_true", help="show at the end where the time went (default: off)"
    )
    group.add_argument(
        "-P",
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="live display, or plain lines (default: live in a terminal)",
    )


def _add_setting(group: argparse._ArgumentGroup, key: str, flag: "_SettingFlag") -> None:
    """Add the flag of a setting that is one of some words, or a whole number."""
    field = Config.model_fields[key]
    names = [*flag.short, flag_of(key)]
    meaning, _, without = (field.description or "").replace("%", "%%").partition("; null: ")
    default = flag.default or without or "the recipe's"
    if get_origin(field.annotation) is Literal:
        help = f"{meaning} (default: {default})"
        choices = get_args(field.annotation)
        read = device if key == "device" else str
        group.add_argument(*names, type=flag_value(read), choices=choices, help=help)
        return
    accepted = accepted_values(key).removesuffix(", or null")
    group.add_argument(
        *names,
        type=flag_value(parse_whole_number),
        action=_CountAction,
        const=flag.minus_one,
        metavar="N",
        help=f"{meaning}; {accepted} (default: {default})",
    )


class _CountAction(argparse.Action):
    """Stores a number; RL-Zoo's -1 is stored as what it means, or leaves the default."""

    def __call__(self, parser: object, namespace: object, values: Any, flag: object = None) -> None:
        if values == -2 and self.dest == "log_interval":
            raise UserError(f"{flag}: rows are always written; a larger N writes fewer of them")
        has_meaning = self.const != -1 and values < 0
        setattr(namespace, self.dest, self.const if has_meaning else values)


def _add(overrides: Overrides, key: str, value: object, flag: str) -> None:
    if key in overrides.values:
        raise UserError(f"{key} is given twice, by {overrides.flags[key]} and {flag}; keep one")
    overrides.values[key] = value
    overrides.flags[key] = flag


class _SettingFlag(NamedTuple):
    """What a flag adds to the setting whose name it has.

    Attributes:
        group: of the help.
        short: RL-Zoo's short spellings.
        default: in the help, where the field does not say it.
        minus_one: what -1 and less mean in RL-Zoo; None is "not given": the recipe's number, a
            drawn seed, chosen threads.
    """

    group: str
    short: tuple[str, ...] = ()
    default: str | None = None
    minus_one: int | None = -1


_GROUPS = _WHAT, _SETTINGS, _LENGTH, _RUNS, _MACHINE = (
    "what to train",
    "settings",
    "how long, how often",
    "runs",
    "machine and display",
)

_SETTING_FLAGS = {
    "protocol": _SettingFlag(
        _WHAT,
        default="what the name of the game implies, NoFrameskip-v4: zoo, ALE/...-v5: machado; "
        "else the recipe's, zoo",
    ),
    "n_timesteps": _SettingFlag(_LENGTH, ("-n",), minus_one=None),
    "eval_freq": _SettingFlag(_LENGTH, minus_one=0),
    "eval_episodes": _SettingFlag(_LENGTH),
    "save_freq": _SettingFlag(_LENGTH, minus_one=0),
    "log_interval": _SettingFlag(_LENGTH, minus_one=None),
    "seed": _SettingFlag(_MACHINE, minus_one=None),
    "device": _SettingFlag(_MACHINE),
    "num_threads": _SettingFlag(_MACHINE, minus_one=None),
    "n_envs": _SettingFlag(_MACHINE),
    "backend": _SettingFlag(_MACHINE),
    "precision": _SettingFlag(_MACHINE),
    "cuda_graph": _SettingFlag(_MACHINE),
}
