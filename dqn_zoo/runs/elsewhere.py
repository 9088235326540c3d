"""What lies in a folder where a run was looked for: so that a slip is told from an empty place."""

import difflib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from dqn_zoo.settings.games import game_in_path
from dqn_zoo.system import shell

_RUN = "*_[1-9]*/manifest.json"


def is_log_folder(folder: Path) -> bool:
    """Return whether there are runs in a folder, one level below its recipes."""
    return any(folder.glob(f"*/{_RUN}"))


def may_take_runs(folder: Path) -> bool:
    """Return whether a run may be put into a folder unasked: it has some, or is new or empty."""
    if not folder.exists() or is_log_folder(folder):
        return True
    return folder.is_dir() and not names_in(folder)


def names_in(folder: Path) -> list[str]:
    """Return what lies in a folder, hidden files left out."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def foreign_agents(folder: Path, game: str | None) -> Iterator[Path]:
    """Yield the zips of Stable-Baselines3 in a folder whose names say that they play a game."""
    for pattern in ("*.zip", "*/*.zip", "*/*/*.zip"):
        for file in sorted(folder.glob(pattern)):
            found = game_in_path(file)
            if found is not None and game in (None, found.game):
                yield file


def takes_foreign(path: Path) -> str | None:
    """Return the command that makes a run of another library's zip or folder; None: it is none."""
    if os.path.isdir(path):
        is_ours = (path / "manifest.json").exists() or is_log_folder(path)
        is_foreign = not is_ours and any(foreign_agents(path, None))
    else:
        is_foreign = path.suffix == ".zip" and os.path.isfile(path)
    return shell.command("dqn-import", path) if is_foreign else None


def instead_of_missing(path: Path) -> str | None:
    """Say which folder a path that does not exist may mean; None: it exists, or none is near."""
    if path.exists():
        return None
    missing = path  # its first part that is missing
    while not missing.absolute().parent.exists():
        missing = missing.parent
    return _no_such_folder(missing, Path.is_dir)


def _no_such_folder(folder: Path, fits: Callable[[Path], bool]) -> str | None:
    siblings = folder.absolute().parent.glob("*/")  # none, where the parent is missing, too
    others = [path.name for path in siblings if fits(path)]
    near = difflib.get_close_matches(folder.name, others, n=1)
    return f"there is no such folder, did you mean {folder.with_name(near[0])}?" if near else None


def where_instead(folder: Path, game: str | None, *, is_empty: bool) -> str | None:
    """Say where an agent is that was looked for in vain; None: nothing is known.

    `is_empty` says that the folder holds no run at all.
    """
    foreign = next(foreign_agents(folder, game), None)
    if foreign is not None:
        takes_it = shell.command("dqn-import", foreign)
        return f"an agent of Stable-Baselines3 is there: {takes_it} takes it"
    if not is_empty:
        return None
    if not folder.exists():
        return _no_such_folder(folder, is_log_folder)
    if (folder / "manifest.json").exists():
        return f"that is a run itself: give it with --run {shell.quoted(folder)}"
    if any(folder.glob(_RUN)):
        above = folder.parent if folder.name not in ("", "..") else folder / ".."
        flag = f"-f {shell.quoted(above)}"
        return f"that holds the runs of one recipe, the folder above it is meant: {flag}"
    below = next(folder.glob(f"*/*/{_RUN}"), None)
    if below is not None:
        return f"the runs are below it: -f {shell.quoted(below.parents[2])}"
    return None
