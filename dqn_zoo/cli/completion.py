"""dqn-completion: print what lets a shell complete the commands, games and recipes."""

import argparse
import sys
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal, get_args, get_origin

from dqn_zoo.cli.arguments import Parser, command
from dqn_zoo.system.extras import need

Shell = Literal["bash", "zsh"]

_EPILOG = """\
bash: dqn-completion bash > ~/.dqn-completion, and in ~/.bashrc
      source ~/.dqn-completion
zsh:  dqn-completion zsh > ~/.dqn-completion, and in ~/.zshrc
      autoload -U compinit && compinit && eval "$(<~/.dqn-completion)"

The recipes are those that this command finds. It needs shtab:
pip install '.[completion]' in a clone, or pip install shtab
"""

_FOLDERS = {"folder", "log_folder", "tensorboard_log", "run", "resume", "trained_agent", "agent"}
_FILES = {"conf_file", "record", "output", "search", "model", "runs"}


@command
def main(arguments: Sequence[str] | None = None) -> None:
    """Run dqn-completion and return its exit code: 0, or 2 for a user's mistake."""
    shell: Shell = build_parser().parse_args(arguments).shell
    need("completion", "dqn-completion")
    import shtab

    from dqn_zoo.cli.commands import COMMANDS

    for module in COMMANDS.values():
        parser: Parser = import_module(f"dqn_zoo.cli.{module}").build_parser()
        for action in parser._actions:
            _say_what_follows(action)
        print(shtab.complete(parser, shell))


def build_parser() -> Parser:
    """Return the parser of dqn-completion."""
    parser = Parser(
        "dqn-completion",
        "Print what lets a shell complete the commands, games and recipes.",
        _EPILOG,
    )
    parser.add_argument("shell", choices=get_args(Shell), help="the shell to complete in")
    return parser


def _say_what_follows(action: argparse.Action) -> None:
    """Tell shtab what may stand behind a flag, where its choices do not."""
    import shtab

    from dqn_zoo.settings.games import GAMES
    from dqn_zoo.settings.recipe_files import available_recipes

    if action.dest in ("env", "games"):
        action.choices = list(GAMES)
    elif action.dest in ("algo", "algos"):
        action.choices = sorted(available_recipes())
    elif action.dest in ("set", "hyperparams"):
        action.choices = list(_settings())
    elif action.dest in _FOLDERS:
        action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
    elif action.dest in _FILES or action.type is Path:
        action.complete = shtab.FILE  # type: ignore[attr-defined]


def _settings() -> Iterator[str]:
    """Yield every setting with its values where they are words, else with its default."""
    from dqn_zoo.settings.config import Config
    from dqn_zoo.settings.yaml_reader import as_yaml

    for key, field in Config.model_fields.items():
        if key in ("env", "algo"):  # flags of their own
            continue
        if get_origin(field.annotation) is Literal:
            yield from (f"{key}={value}" for value in get_args(field.annotation))
        elif field.annotation is bool:
            yield from (f"{key}=true", f"{key}=false")
        else:
            yield f"{key}={as_yaml(field.default)}"


if __name__ == "__main__":
    sys.exit(main())
