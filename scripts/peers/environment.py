"""The virtual environment of the peers, and how their programs are run."""

import argparse
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
REQUIREMENTS = HERE / "requirements.txt"

_VERSIONS = """
import json, sys
from importlib.metadata import PackageNotFoundError, version

def find(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None

print(json.dumps({name: find(name) for name in sys.argv[1:]}))
"""


class PeerError(Exception):
    """A peer could not be installed or run; the message is the end of what it wrote."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add --peers-python and --no-peers."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        "--peers-python",
        type=Path,
        metavar="PATH",
        help="Python that has the peers (default: one in ~/.cache/dqn_zoo, built the first time "
        "from scripts/peers/requirements.txt, 2.4 GB)",
    )
    group.add_argument("--no-peers", action="store_true", help="measure only dqn_zoo")


def find_python(arguments: argparse.Namespace) -> Path | None:
    """Return the peers' Python, built if need be; None where they are not wanted or not to be had.

    Without peers dqn_zoo can still be measured, so a failing installation is only a warning.
    """
    if arguments.no_peers:
        return None
    try:
        python = arguments.peers_python or build(cache_folder())
        versions(python)
    except PeerError as error:
        print(f"warning: without peers, which could not be installed or found: {error}")
        return None
    return Path(python)


def cache_folder() -> Path:
    """Return where the environment belongs: one for each list of versions and Python."""
    names = REQUIREMENTS.read_bytes() + sys.version.encode()
    digest = hashlib.sha256(names).hexdigest()[:12]
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "dqn_zoo" / f"peers-{digest}"


def build(folder: Path) -> Path:
    """Install the peers into a virtual environment, unless it is complete; return its Python.

    Raises:
        PeerError: they could not be installed.
    """
    python = folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    complete = folder / "complete"
    if not complete.exists():
        print(f"installing the peers into {folder}, once")
        _output([sys.executable, "-m", "venv", "--clear", str(folder)])
        _output([str(python), "-m", "pip", "install", "--quiet", "-r", str(REQUIREMENTS)])
        complete.touch()
    return python


def versions(python: Path) -> dict[str, str | None]:
    """Return the versions of the required distributions in this Python, None for a missing one.

    Raises:
        PeerError: there is no such Python.
    """
    names = [line.split("==")[0] for line in required()]
    return dict(json.loads(_output([str(python), "-c", _VERSIONS, *names])))


def required() -> list[str]:
    """Return the requirements, each `name==version`."""
    return [line for line in REQUIREMENTS.read_text().splitlines() if "==" in line]


def run_peer(
    python: Path, program: Path, arguments: Sequence[str], *, timeout_s: float
) -> dict[str, Any]:
    """Run a peer's program to its end and return the JSON of its last line.

    Raises:
        PeerError: it failed, took too long, or printed something else.
    """
    output = _output([str(python), str(program), *arguments], timeout_s=timeout_s)
    lines = output.splitlines()
    try:
        return dict(json.loads(lines[-1]))
    except (IndexError, ValueError) as error:
        raise PeerError(f"{program.name} printed no line of JSON: {output[-200:]!r}") from error


def _output(command: list[str], timeout_s: float | None = None) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerError(str(error)) from error
    if done.returncode != 0:
        last_lines = " | ".join(done.stderr.strip().splitlines()[-3:])
        raise PeerError(f"exit code {done.returncode}: {last_lines}")
    return done.stdout
