"""Runs are found again: by folder, by name, or as the latest one of a game and a recipe."""

import difflib
from pathlib import Path
from typing import Any, NotRequired

from pydantic import with_config
from typing_extensions import TypedDict

from dqn_zoo.errors import UserError
from dqn_zoo.runs.elsewhere import takes_foreign, where_instead
from dqn_zoo.runs.run import RUN_FORMAT, Run, check_exp_id, is_complete, split_name
from dqn_zoo.settings.games import GAMES
from dqn_zoo.settings.recipe_files import available_recipes
from dqn_zoo.system import shell
from dqn_zoo.system.documents import AS_WRITTEN, DocumentError, read_document


@with_config(AS_WRITTEN)
class _Head(TypedDict):
    """The part of a manifest that every version has."""

    format: int
    origin: NotRequired[dict[str, Any]]


class NoRunError(UserError):
    """There is no such run."""


def find_run(
    log_folder: str | Path,
    *,
    run: str | Path | None = None,
    algo: str | None = None,
    game: str | None = None,
    exp_id: int | None = None,
) -> Run:
    """Find an existing run.

    Args:
        log_folder: Folder of all runs.
        run: A folder, or the name of a run (`SpaceInvaders_3` or `dqn/SpaceInvaders_3`). Of several
            with one name it is the one that was trained here.
        algo: Look only at runs of this recipe.
        game: Look only at runs of this game.
        exp_id: Look only at runs of this number; None or 0 takes the latest, which is the one whose
            manifest, progress, weights or checkpoints changed last. (Watching a run is no change.)
            Runs that were trained elsewhere come behind all that were trained here.

    Raises:
        NoRunError: There is no such run.
        UserError: There are several, or the folder is no run this version reads.
    """
    check_exp_id(exp_id)
    takes_it = None if run is None else takes_foreign(Path(run))
    if takes_it is not None:
        raise UserError(f"{run} is no run, but an agent of Stable-Baselines3: {takes_it} takes it")
    if run is not None and Path(run).is_dir():
        found = _checked(Path(run))
        if not _is_of(found, algo, game, exp_id):
            raise UserError(f"{run} is another run than the flags beside it say: drop them")
        return found
    runs = _runs(Path(log_folder))
    if run is not None and not runs:
        runs = _runs(Path(run).parent.parent)  # a folder elsewhere: its neighbours are near, too
    matches = [found for found in runs if _is_of(found, algo, game, exp_id)]
    if run is not None:
        wanted = f"run {str(run)!r}"
        matches = [found for found in matches if str(run) in (found.path.name, _label(found))]
    else:
        wanted = f"run {game or 'GAME'}_{exp_id}" if exp_id else f"run of {game or 'any game'}"
    if not matches:
        target = Path(run).name if run is not None else wanted.split()[-1]
        message = f"no {wanted}" + (f" by {algo}" if algo else "") + f" in {log_folder}"
        instead = where_instead(Path(log_folder), game, is_empty=not runs) if run is None else None
        advice = instead or _advice(runs, target, algo=algo, game=game)
        raise NoRunError(f"{message}; {advice}")
    if run is None and not exp_id:
        matches = [found for found in matches if is_complete(found)] or matches
        return _checked(max(matches, key=_last_change).path)
    if len(matches) > 1:
        matches = [found for found in matches if _was_trained_here(found)] or matches
    if len(matches) > 1:
        labels = ", ".join(sorted(_label(found) for found in matches))
        raise UserError(f"{wanted} is ambiguous: {labels}; name one of them")
    return _checked(matches[0].path)


def list_runs(log_folder: Path) -> list[Run]:
    """Return the runs in a folder, the latest first, as `find_run` orders them.

    A folder that a run is just starting in is left out.
    """
    found = [run for run in _runs(log_folder) if is_complete(run)]
    return sorted(found, key=_last_change, reverse=True)


def check_log_folder(log_folder: Path) -> None:
    """Refuse a folder without any run, where a user has named it.

    Raises:
        NoRunError: there is none; with where they are.
    """
    if not _runs(log_folder):
        advice = where_instead(log_folder, None, is_empty=True)
        start = shell.command("dqn-train", "--env", "SpaceInvaders")
        begin = f"start one with `{start}`, or name another -f FOLDER"
        raise NoRunError(f"{log_folder} holds no run; {advice or begin}")


def _runs(log_folder: Path) -> list[Run]:
    """Every folder named like a run, complete or not; RL-Zoo's have longer names."""
    named = ((path, split_name(path.name)) for path in log_folder.glob("*/*_*") if path.is_dir())
    return [Run(path) for path, name in named if name and name[0] in GAMES]


def _label(run: Run) -> str:
    return f"{run.path.parent.name}/{run.path.name}"


def _is_of(run: Run, algo: str | None, game: str | None, exp_id: int | None) -> bool:
    """Return whether a run is what was asked for; a link counts by its own name."""
    path = run.path.absolute()
    name = split_name(path.name)
    return (
        (algo is None or path.parent.name == algo)
        and (game is None or (name is not None and name[0] == game))
        and (not exp_id or (name is not None and name[1] == exp_id))
    )


def _last_change(run: Run) -> tuple[bool, float, int]:
    """What makes the latest run the largest: trained here, time of the last change, number.

    An agent that was only fetched, to be watched, does not come between a user and the own run. A
    folder that a run is just starting in holds none of these files: it comes behind all others.
    """
    files = (run.manifest_file, run.progress_file, run.model_file, run.checkpoints)
    name = split_name(run.path.name)
    try:
        times = [file.stat().st_mtime for file in files if file.exists()]
    except OSError:  # somebody else's: it does not come between a user and the own runs
        return False, 0.0, 0
    return _was_trained_here(run), max(times, default=0.0), name[1] if name else 0


def _was_trained_here(run: Run) -> bool:
    try:
        return "origin" not in read_document(run.manifest_file, _Head)
    except DocumentError:  # whoever reads the run says what is wrong with it
        return True


def _advice(runs: list[Run], target: str, *, algo: str | None, game: str | None) -> str:
    """What to do about a run that does not exist: similar names, the latest runs, or a start."""
    of_game = [found for found in runs if game is None or _is_of(found, None, game, None)]
    if not of_game:
        recipe = ["--algo", algo] if algo in available_recipes() else []
        start = shell.command("dqn-train", "--env", game or "SpaceInvaders", *recipe)
        there = "" if runs else "there is no run at all: "
        return f"{there}start one with `{start}`, or name another -f FOLDER"
    latest_first = sorted(of_game, key=_last_change, reverse=True)
    names = dict.fromkeys(found.name for found in latest_first)
    near = difflib.get_close_matches(target, names, n=3) or list(names)
    nearest = [_label(found) for name in near for found in latest_first if found.name == name]
    return f"the nearest are {', '.join(nearest[:3])}"


def _checked(path: Path) -> Run:
    """The run in this folder, if it is one that this version reads."""
    run = Run(path)
    if not any(path.iterdir()):
        raise UserError(f"{path} is empty, not a run folder: name another, or remove it")
    missing = [file.name for file in (run.config_file, run.manifest_file) if not file.is_file()]
    if missing:
        raise UserError(f"{path} is not a run folder: {' and '.join(missing)} missing")
    try:
        version = read_document(run.manifest_file, _Head)["format"]
    except DocumentError as error:
        raise DocumentError(f"{error}; restore it from a backup, or start a new run") from error
    if version > RUN_FORMAT:
        raise UserError(
            f"{path} has run format {version} and this version reads up to {RUN_FORMAT}: "
            "update dqn_zoo"
        )
    return run
