"""All commands by one name, for `python -m dqn_zoo`: it lists them, or runs one."""

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module

from dqn_zoo import __version__
from dqn_zoo.cli.arguments import command
from dqn_zoo.errors import UserError

COMMANDS = {
    "dqn-train": "train",
    "dqn-enjoy": "enjoy",
    "dqn-push": "push",
    "dqn-pull": "pull",
    "dqn-verify": "verify",
    "dqn-leaderboard": "leaderboard",
    "dqn-bench": "bench",
    "dqn-tune": "tune",
    "dqn-plot": "plot",
    "dqn-report": "report",
    "dqn-watch": "watch",
    "dqn-import": "import_sb3",
    "dqn-export-sb3": "export_sb3",
    "dqn-export-onnx": "export_onnx",
    "dqn-completion": "completion",
}
"""The module here of every entry point."""


@command
def main(arguments: Sequence[str] | None = None) -> int:
    """List the commands, or run the one that is named first, with or without `dqn-`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        _list()
        return 0
    if words[0] == "--version":
        print(f"dqn_zoo {__version__}")
        return 0
    name = f"dqn-{words[0].removeprefix('dqn-')}"
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(COMMANDS)}"
        raise UserError(f"no command is called {words[0]!r}: {hint}")
    sys.argv = [name, *words[1:]]  # what a run notes as its command
    code: int = import_module(f"dqn_zoo.cli.{COMMANDS[name]}").main(words[1:])
    return code


def _list() -> None:
    """Print every command with what its module says of it."""
    print(f"dqn_zoo {__version__}: deep Q-learning agents on Atari\n")
    for name, module in COMMANDS.items():
        described = (import_module(f"dqn_zoo.cli.{module}").__doc__ or "").splitlines()[0]
        print(f"  {name:<16} {described.partition(': ')[2]}")
    print(
        "\nEach has --help and --version. Where the shell does not find dqn-train, "
        "`python -m dqn_zoo train` is the same."
    )
