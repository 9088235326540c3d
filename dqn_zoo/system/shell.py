"""Commands as messages offer them: quoted for a shell, and named so that they run from here."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path


def command(program: str, *words: object) -> str:
    """Return a command of this project that the user can paste.

    Every command in a message is made here: a test parses all of them, and those that the test
    suite meets are looked up in the state in which they are offered.

    Args:
        program: its entry point, such as `dqn-train`.
        words: its arguments; a path that begins with a hyphen is not taken for a flag.
    """
    return _joined([*_reachable(program), *map(_word, words)])


def quoted(word: object) -> str:
    """Return one argument as a shell takes it."""
    return _joined([_word(word)])


def _joined(words: list[str], system: str = os.name) -> str:
    """Return words as the shell of a system reads them; Windows knows no single quotes."""
    return " ".join(map(_for_windows, words)) if system == "nt" else shlex.join(words)


def _for_windows(word: str) -> str:
    """Return a word as a program reads it, and so that the shell reads none of its signs."""
    text = subprocess.list2cmdline([word])
    return f'"{text}"' if text == word and re.search(r"[&|<>^()%!;]", word) else text


def _word(word: object) -> str:
    return f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)


def _reachable(program: str) -> list[str]:
    """Return the name of a program, or what starts it where the shell finds another or none."""
    python = Path(sys.executable)
    suffix = ".exe" if os.name == "nt" else ""
    own, found = python.with_name(program + suffix), shutil.which(program)
    if not own.exists():  # it was installed elsewhere, or not at all
        module = [_from_here(python), "-m", "dqn_zoo", program.removeprefix("dqn-")]
        return module if found is None else [program]
    if found is not None and os.path.samefile(found, own):
        return [program]
    return [_from_here(own)]


def _from_here(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except (OSError, ValueError):  # it lies elsewhere, or the working folder was removed
        return str(path)
