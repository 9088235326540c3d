"""What messages offer is held to its word: commands parse, their runs exist, flags are known.

`watch` looks at every offer that a test meets, in the state in which it is made.
"""

import importlib
import re
import shlex
import tomllib
from argparse import SUPPRESS
from collections.abc import Sequence
from pathlib import Path

import pytest

from dqn_zoo.cli import arguments
from dqn_zoo.cli.arguments import Parser
from dqn_zoo.errors import UserError
from dqn_zoo.system import shell

ROOT = Path(__file__).parents[2]
COMMANDS: dict[str, str] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "scripts"
]


def parser_of(command: str) -> Parser:
    """Return the parser of a command, named as its entry point is."""
    assert command in COMMANDS, f"{command} is no entry point of pyproject.toml"
    module = importlib.import_module(COMMANDS[command].split(":")[0])
    parser: Parser = module.build_parser()
    return parser


def flags_of(parser: Parser) -> set[str]:
    """Return the flags of a command that its help shows."""
    shown = [action for action in parser._actions if action.help != SUPPRESS]
    return {flag for action in shown for flag in action.option_strings}


def check_command(program: str, words: Sequence[str], *, is_here: bool) -> None:
    """Fail unless a command is understood and, in this state, finds the run that it names."""
    from dqn_zoo.cli.train_checks import check_flags
    from dqn_zoo.runs.finding import find_run
    from dqn_zoo.settings.recipes import resolve

    line = shlex.join([program, *words])
    try:
        parsed = parser_of(program).parse_args(words)
        if program == "dqn-train":
            check_flags(parsed)
            if is_here and parsed.resume is None:
                resolve(env=parsed.env, algo=parsed.algo, conf_file=parsed.conf_file)
        named = parsed.resume if program == "dqn-train" else getattr(parsed, "run", None)
        if is_here and named and not named.startswith("hf://"):
            find_run(parsed.log_folder if program == "dqn-train" else parsed.folder, run=named)
    except UserError as error:
        pytest.fail(f"a message offers `{line}`, which is refused: {error}")
    except SystemExit:  # --help
        return


def watch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check whatever messages of this process offer from now on."""
    make, parse, plain = shell.command, Parser.parse_args, arguments.plain
    offered: list[str] = []
    parsing: list[tuple[Parser, list[str]]] = []

    def checked_command(program: str, *words: object) -> str:
        line = make(program, *words)
        check_command(program, shlex.split(line)[1:], is_here=True)
        offered.append(line)
        return line

    def noted_parse(self: Parser, args=None, namespace=None):
        given = None if args is None else list(args)
        parsing.append((self, given or []))
        return parse(self, given, namespace)

    def checked_plain(message: object) -> str:
        line = plain(message)
        if parsing:
            _check_flags(line, offered, *parsing[-1])
        return line

    monkeypatch.setattr(shell, "command", checked_command)
    monkeypatch.setattr(Parser, "parse_args", noted_parse)
    monkeypatch.setattr(arguments, "plain", checked_plain)


def _check_flags(
    message: str, offered: Sequence[str], parser: Parser, given: Sequence[str]
) -> None:
    """Fail if an error of a command names a flag that it does not have, and the user did not."""
    for line in offered:
        message = message.replace(line, "")
    asked = {word.split("=")[0] for word in given}
    named = set(re.findall(r"(?<![\w/.'-])--?[a-zA-Z][\w-]*", message))
    foreign = named - asked - flags_of(parser)
    assert not foreign, f"{parser.prog} has no {', '.join(sorted(foreign))}, offered in: {message}"
