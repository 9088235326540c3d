"""What the commands share: one-line errors, values of flags, flags that several have."""

import argparse
import functools
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, Protocol

from dqn_zoo import __version__
from dqn_zoo.cli.output import NO_ROOM, guard_streams, lost_output
from dqn_zoo.errors import EXIT_USER_ERROR, UserError, plain
from dqn_zoo.system import shell
from dqn_zoo.system.signals import ended_by_signals, exit_code

EXIT_BROKEN_PIPE = 141
"""What a shell reports of a program that wrote to a pipe nobody reads any more (SIGPIPE)."""

_KIN = {"--env": "--games"}
"""Flags that most commands have, and what one has instead that is not spelled like it."""


class Main(Protocol):
    """The function behind a command; without arguments it reads those of the process."""

    def __call__(self, arguments: Sequence[str] | None = None) -> int:
        """Run and return the exit code."""
        ...


def command(run: Callable[[Sequence[str] | None], int | None]) -> Main:
    """Make a function a command: a user's mistake becomes one line on stderr and an exit code.

    Codes: 2 for a UserError and for a file that cannot be used, standard output included, 130 for
    Ctrl-C and 128 plus its number for another signal that ends a program, 141 if the reader of a
    pipe left before the end, otherwise what the function returns (None is 0). Every other exception
    is a bug of ours and keeps its traceback.
    """

    @functools.wraps(run)
    def main(arguments: Sequence[str] | None = None) -> int:
        guard_streams()
        try:
            with ended_by_signals():
                code = run(arguments) or 0
            error, tells_of_work = lost_output()
            if error is None:
                return code
            print(f"error: standard output: {error.strerror}: some is lost", file=sys.stderr)
            return code if tells_of_work else code or EXIT_USER_ERROR
        except UserError as error:
            print(f"error: {plain(error)}", file=sys.stderr)
            return EXIT_USER_ERROR
        except KeyboardInterrupt as error:
            return exit_code(error)
        except BrokenPipeError:
            # The reader left (`dqn-verify ... | head`); Python must not flush to it again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return EXIT_BROKEN_PIPE
        except OSError as error:
            if error.filename is None and error.errno not in NO_ROOM:
                raise
            where = "" if error.filename is None else f"{plain(error.filename)}: "
            print(f"error: {where}{error.strerror}", file=sys.stderr)
            return EXIT_USER_ERROR

    return main


def parsed_by(
    build_parser: "Callable[[], Parser]",
) -> Callable[[Callable[[argparse.Namespace], int | None]], Callable[..., int | None]]:
    """Let a function have its arguments read; `@command` goes above it."""

    def decorate(run: Callable[[argparse.Namespace], int | None]) -> Callable[..., int | None]:
        @functools.wraps(run)
        def read_and_run(arguments: Sequence[str] | None) -> int | None:
            return run(build_parser().parse_args(arguments))

        return read_and_run

    return decorate


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are UserErrors and that knows which flags were given.

    The result has an attribute `given`: the names of the attributes that the user set.
    """

    def __init__(self, prog: str, description: str, epilog: str) -> None:
        super().__init__(
            prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        version = f"%(prog)s of dqn_zoo {__version__}"
        self.add_argument("--version", action="version", version=version, help="print it, and stop")

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        """Parse; an unknown flag is refused with the nearest one.

        Raises:
            UserError: the arguments are not accepted.
        """
        defaults = {
            action.dest: action.default
            for action in self._actions
            if action.default is not argparse.SUPPRESS
        }
        # argparse fills in no default where an attribute exists: None marks what was not given.
        unset = argparse.Namespace(**dict.fromkeys(defaults))
        parsed, unknown = self.parse_known_args(
            None if args is None else list(args), namespace or unset
        )
        if unknown:
            raise UserError(self._unknown(unknown))
        parsed.given = frozenset(name for name in defaults if getattr(parsed, name) is not None)
        for name, default in defaults.items():
            if name not in parsed.given:
                setattr(parsed, name, default)
        return parsed

    def error(self, message: str) -> NoReturn:
        """Raise what argparse would print after the usage."""
        raise UserError(message.removeprefix("argument "))

    def _unknown(self, unknown: Sequence[str]) -> str:
        argument, *others = unknown
        flag, _, value = argument.partition("=")
        visible = [
            flag
            for action in self._actions
            if action.help != argparse.SUPPRESS
            for flag in action.option_strings
        ]
        if not flag.startswith("-"):
            from dqn_zoo.runs.elsewhere import takes_foreign

            takes_it = takes_foreign(Path(argument))
            if takes_it is not None:
                what = f"unexpected argument {argument!r}, an agent of Stable-Baselines3"
                return f"{what}: {takes_it} takes it"
            takes_run = next((each for each in ("--run", "--resume") if each in visible), None)
            if takes_run and os.path.isdir(argument):
                meant = f"{takes_run} {shell.quoted(argument)}"
                return f"unexpected argument {argument!r}: did you mean {meant}?"
            return f"unexpected argument {argument!r}: expected flags, see --help"
        key = flag.lstrip("-").replace("-", "_")
        if "--set" in visible and _is_setting(key):
            value = value or next((each for each in others if not each.startswith("-")), "VALUE")
            return f"unknown flag {flag}; did you mean --set {shell.quoted(f'{key}={value}')}?"
        near = [_KIN[flag]] if _KIN.get(flag) in visible else get_close_matches(flag, visible, n=1)
        return f"unknown flag {flag}; " + (f"did you mean {near[0]}?" if near else "see --help")


def _is_setting(key: str) -> bool:
    """Return whether --set takes a key: not where a run's name is meant, or one of its seeds."""
    from dqn_zoo.settings.config import Config

    return key in Config.model_fields and key not in ("env", "algo", "seed")


def flag_of(dest: str) -> str:
    """Return the long spelling of a flag by the name of its attribute."""
    return "--" + dest.replace("_", "-")


def flag_value(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """Make a function that raises UserError fit argparse's `type`, message kept."""

    def convert(text: str) -> Any:
        try:
            return read(text)
        except UserError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def parse_whole_number(text: str) -> int:
    """Read 1000000, 1_000_000 or 1e6.

    Raises:
        UserError: not a whole number.
    """
    match = re.fullmatch(r"([-+]?\d[\d_]*)(?:\.(\d*))?(?:[eE]\+?(\d{1,2}))?", text.strip())
    if match:
        whole, decimals, exponent = match[1], (match[2] or "").rstrip("0"), int(match[3] or 0)
        if len(decimals) <= exponent:
            zeros = "0" * (exponent - len(decimals))
            return int(whole.replace("_", "") + decimals + zeros)
    raise UserError(f"expected a whole number such as 1000000, 1_000_000 or 1e6, got {text!r}")


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


def parse_duration(text: str) -> float:
    """Read 90m, 1h30m, 45s, 2d or 3600 (seconds); return seconds.

    Raises:
        UserError: not a duration above 0.
    """
    number = r"(\d+(?:\.\d+)?)"
    asked = text.strip().lower()
    if re.fullmatch(number, asked):
        asked += "s"
    parts = re.fullmatch(rf"(?:{number}d)?(?:{number}h)?(?:{number}m(?:in)?)?(?:{number}s)?", asked)
    units_seconds = (86_400, 3_600, 60, 1)
    seconds = (
        sum(
            float(part or 0) * unit
            for part, unit in zip(parts.groups(), units_seconds, strict=True)
        )
        if parts
        else 0.0
    )
    if seconds <= 0:
        raise UserError(f"expected a time above 0 such as 90m, 1h30m, 45s or 3600, got {text!r}")
    return float(seconds)


def device(text: str) -> str:
    """Return a device by PyTorch's name of it; of several GPUs a program sees the first.

    Raises:
        UserError: it is another GPU.
    """
    number = re.fullmatch(r"cuda:(\d+)", text)
    if number is not None and int(number[1]) > 0:
        raise UserError(
            f"one GPU is used, the first that is visible: to use {text}, set "
            f"CUDA_VISIBLE_DEVICES={int(number[1])} before the command and say --device cuda"
        )
    return text if number is None else "cuda"


def parse_setting(text: str) -> tuple[str, Any]:
    """Read key=value or key:value; the value is YAML, so that 1e-4 is a number and true is true.

    Raises:
        UserError: no key, no value, or a value that is no YAML.
    """
    from dqn_zoo.settings.yaml_reader import parse_value

    match = re.fullmatch(r"\s*(\w+)\s*[=:](.*)", text, re.DOTALL)
    if match is None or not match[2].strip():
        raise UserError(f"expected key=value or key:value, got {text!r}")
    return match[1], parse_value(match[2].strip())


def add_number(
    group: argparse._ActionsContainer,
    *flags: str,
    least: int,
    most: int = 1_000_000,
    default: int | None = None,
    help: str,
) -> None:
    """Add a flag that takes a whole number: by default of what nobody has more than a million."""
    read = whole_number(least, most)
    group.add_argument(*flags, type=read, default=default, metavar="N", help=help)


def add_seed(group: argparse._ActionsContainer, *, default: int | None = None, help: str) -> None:
    """Add --seed, which takes what the seed of a run may be."""

    def read(text: str) -> int:
        from dqn_zoo.settings.config import LARGEST_SEED  # with pydantic, which --help does without

        return whole_number(0, LARGEST_SEED)(text)

    group.add_argument("--seed", type=read, default=default, metavar="N", help=help)


def add_settings(group: argparse._ArgumentGroup, *flags: str, metavar: str, help: str) -> None:
    """Add a flag that takes several settings and may be repeated."""
    read = flag_value(parse_setting)
    group.add_argument(
        *flags, type=read, nargs="+", action="extend", default=(), metavar=metavar, help=help
    )


def add_set(group: argparse._ArgumentGroup, what: str) -> None:
    """Add --set; `what` is its help."""
    add_settings(group, "--set", metavar="KEY=VALUE", help=what)


def add_env_kwargs(group: argparse._ArgumentGroup) -> None:
    """Add --env-kwargs, RL-Zoo's other way of saying what some settings say."""
    help = "what Gymnasium's emulator takes, such as mode:3 difficulty:1 (default: none)"
    add_settings(group, "--env-kwargs", metavar="KEY:VALUE", help=help)


def settings_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that `add_set` read.

    Raises:
        UserError: a key is given twice.
    """
    settings = dict(arguments.set)
    if len(settings) < len(arguments.set):
        raise UserError("--set names a key twice; keep one")
    return settings
