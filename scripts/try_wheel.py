"""Try a wheel as who installs it has it: in an environment of its own, outside the checkout.

Its files are compared with the checkout's; then it trains for a moment and plays the agent that it
brings. All arguments after the wheel go to `pip install`.
"""

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
TRAINING = (
    "dqn-train --env Pong --algo laptop -n 2_000 --set learning_starts=500 --set buffer_size=2_000"
    " --seed 1 --num-threads 1 --no-progress"
)
PLAYING = (
    "dqn-enjoy --env SpaceInvaders --pretrained --episodes 1 --no-render"
    " --seed 1 --num-threads 1 --no-progress"
)


def wrong_files(wheel: Path) -> list[str]:
    """Return what a wheel lacks of the checkout's package, and what it has beside it."""
    expected = {
        path.relative_to(ROOT / folder.parent).as_posix()
        if folder.name == "dqn_zoo"
        else f"dqn_zoo/{path.relative_to(ROOT).as_posix()}"
        for folder in (Path("dqn_zoo"), Path("hyperparams"))
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    with zipfile.ZipFile(wheel) as archive:
        found = {name for name in archive.namelist() if ".dist-info/" not in name}
    missing = [f"missing: {name}" for name in sorted(expected - found)]
    return missing + [f"not of the package: {name}" for name in sorted(found - expected)]


def try_out(wheel: Path, pip_arguments: Sequence[str]) -> None:
    """Install a wheel into a new environment; train and play with it."""
    with tempfile.TemporaryDirectory(prefix="dqn-zoo-") as name:
        folder = Path(name)
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        scripts = folder / "venv" / ("Scripts" if sys.platform == "win32" else "bin")
        install = [scripts / "python", "-m", "pip", "install", "--quiet", *pip_arguments, wheel]
        subprocess.run(install, check=True)
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        for command in (TRAINING, PLAYING):
            print(f"$ {command}", flush=True)
            program, *arguments = command.split()
            subprocess.run([scripts / program, *arguments], cwd=folder, env=environment, check=True)


def main(arguments: Sequence[str]) -> None:
    """Exit with what is wrong, or print that nothing is."""
    if not arguments:
        sys.exit(
            "which wheel? python scripts/try_wheel.py dist/NAME.whl [arguments of pip install]"
        )
    wheel = Path(arguments[0])
    if wrong := wrong_files(wheel):
        sys.exit(f"{wheel}: " + "; ".join(wrong))
    try_out(wheel.resolve(), arguments[1:])
    print(f"{wheel} installs, trains and plays")


if __name__ == "__main__":
    main(sys.argv[1:])
