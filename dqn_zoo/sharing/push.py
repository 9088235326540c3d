"""From a run to the Hub: a staging folder with exactly what is published, then one commit."""

import contextlib
import csv
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dqn_zoo.errors import UserError, short
from dqn_zoo.play.evaluation import Game
from dqn_zoo.play.film import check_film
from dqn_zoo.play.measurements import Measured, largest, read_measured
from dqn_zoo.play.results import results
from dqn_zoo.play.session import Session
from dqn_zoo.play.statistics import summarize
from dqn_zoo.runs.learning_curve import draw_learning_curve
from dqn_zoo.runs.manifest import Origin, read_manifest
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.protocols import protocol_from_config, published_scores
from dqn_zoo.settings.recipes import dump_config, load_config
from dqn_zoo.sharing import hub
from dqn_zoo.sharing.agent_files import (
    CARD,
    CONFIG,
    CURVE,
    FILM,
    LIBRARY,
    RESULTS,
    SETTINGS,
    WEIGHTS,
    check_listing,
    is_recipe_name,
    write_description,
)
from dqn_zoo.sharing.card import write_card
from dqn_zoo.system import shell
from dqn_zoo.system.files import digest, replace_file, writing
from dqn_zoo.system.locks import hold

TENSORBOARD = "tensorboard"
EVENTS = "events.out.tfevents."
STAGED_EVENTS = "curves."  # TensorBoard would take the copies for another run
LOGS = ("progress.csv", "evaluations.csv")
ALLOWED = (CARD, CONFIG, SETTINGS, WEIGHTS, RESULTS, FILM, CURVE, *LOGS)
"""Names that are published, and nothing else but the TensorBoard events: no environment files, no
manifest with its command lines, nothing that merely lies in the folder."""

_TRAINING_KEYS = (
    "seed", "device", "num_threads", "precision", "python", "platform", "machine", "cpu", "cores",
    "memory_bytes", "versions", "git", "begins_with",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Staging:
    """The folder that is published.

    Attributes:
        path: `RUN/hub/REPO-NAME`; kept, so that an interrupted push plays no game twice.
        repo_id: `owner/name`; `USER` stands for an owner that is not known yet.
    """

    path: Path
    repo_id: str

    @property
    def film(self) -> Path:
        """The film of the agent."""
        return self.path / FILM

    @property
    def results_file(self) -> Path:
        """The games it was judged by."""
        return self.path / RESULTS

    def held(self) -> contextlib.AbstractContextManager[None]:
        """Be the only push of the run; another one ends with one line.

        The lock lies beside the folder: in it is what is published, and nothing else.
        """
        return hold(self.path.parent, what=f"a push in {self.path.parent}", otherwise="push later")

    def files(self) -> dict[str, Path]:
        """Return what is published, by its path in the repository."""
        events = (self.path / TENSORBOARD).glob(f"{STAGED_EVENTS}*")
        published = {name: self.path / name for name in ALLOWED} | {
            f"{TENSORBOARD}/{EVENTS}{path.name.removeprefix(STAGED_EVENTS)}": path
            for path in sorted(events)
        }
        return {
            name: path
            for name, path in published.items()
            if path.is_file() and not path.is_symlink()
        }


def check_publishable(run: Run, config: Config) -> None:
    """Refuse what is not to be published, before any game is played.

    Raises:
        UserError: an agent that comes with dqn_zoo (whoever watched it before training has no
            other), or a recipe with a name that nobody could pull.
    """
    if not is_recipe_name(config.algo):
        raise UserError(
            f"the recipe is called {short(config.algo)}, and dqn-pull takes letters, digits, '.', "
            f"'_' and '-': change algo in {run.config_file}"
        )
    if "pretrained" in (read_manifest(run).get("origin") or {}):
        raise UserError(
            f"{run.path} came with dqn_zoo, it is not yours to publish: train an agent of your "
            "own, " + shell.command("dqn-train", "--env", config.env)
        )


def doubts(run: Run, config: Config, mean: float, *, is_named: bool) -> Iterator[str]:
    """Yield a line where another agent was perhaps meant than the one of this mean score."""
    scores = published_scores(config.env, protocol_from_config(config))
    if scores is not None and mean <= scores.random:
        yield f"this agent scores {mean:,.1f}, and random play {scores.random:,.1f}"
    others = [] if is_named else list(_scored_siblings(run, config))
    if not others:
        return
    score, how, best = max(others, key=lambda other: other[0])
    if score > mean:
        command = shell.command("dqn-push", "--run", best.path)
        yield (
            f"this is the latest run, with {mean:,.1f}; {best.path} has {score:,.1f} {how}: "
            f"{command} publishes that one"
        )


def _scored_siblings(run: Run, config: Config) -> Iterator[tuple[float, str, Run]]:
    """Yield what is known of other runs of the game, recipe and rules that trained here."""
    rules = protocol_from_config(config)
    for path in run.path.absolute().parent.glob(f"{config.env}_*"):
        other = Run(run.path.parent / path.name)
        if other.name == run.name:
            continue
        try:
            if "origin" in read_manifest(other):
                continue
            if protocol_from_config(load_config(other.config_file)) != rules:
                continue
            if other.results_file.exists():
                sample = read_measured(other.results_file)
                yield sample.mean, f"in {sample.num_games} games", other
                continue
            with other.evaluations_file.open(encoding="utf-8") as file:
                means = [float(row["mean"]) for row in csv.DictReader(file)]
        except (UserError, OSError, ValueError, KeyError, TypeError):
            continue  # somebody else's, or damaged: no reason to hold up a push
        if means:
            yield max(means), "in its best evaluation", other


def repo_name(config: Config) -> str:
    """Return the default name of a repository: `dqn-SpaceInvaders`."""
    return f"{config.algo}-{config.env}"


def open_staging(run: Run, repo_id: str) -> Staging:
    """Return the staging folder of a repository, made where missing.

    Raises:
        UserError: it cannot be written.
    """
    path = run.path / "hub" / repo_id.split("/")[1]
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    return Staging(path=path, repo_id=repo_id)


def measured_results(
    session: Session, samples: list[Measured], *, seed: int | None
) -> Measured | None:
    """Return the largest sample of the agent that a session would play, if it is large enough.

    `seed` None: games of any seed will do.
    """
    needed = results(session, [], summarize([0.0])).keys()
    whole = [
        sample
        for sample in samples
        if needed <= sample.content.keys()
        and len(sample.content["games"]) == sample.num_games
        and not sample.is_by_steps
    ]
    found = largest(whole, sha256=session.weights.sha256, rules=session.protocol, seed=seed)
    return None if found is None or found.num_games < (session.num_games or 0) else found


def played_results(session: Session, games: Sequence[Game]) -> dict[str, Any]:
    """Return results.json of games that were played now."""
    games = sorted(games, key=lambda game: game.index)
    content: dict[str, Any] = _plain(
        results(session, games, summarize([game.score for game in games]))
    )
    return content


def stage_results(staging: Staging, content: Mapping[str, Any]) -> None:
    """Write results.json; a film of other weights or rules is removed.

    Raises:
        UserError: the disk is full.
    """
    try:
        before = read_measured(staging.results_file).subject
    except ValueError:
        before = None
    with writing(staging.path, "make room"):
        replace_file(staging.results_file, json.dumps(content, indent=2).encode())
        if before != read_measured(staging.results_file).subject:
            staging.film.unlink(missing_ok=True)


def complete(
    staging: Staging,
    session: Session,
    content: Mapping[str, Any],
    *,
    config: Config,
    num_actions: int,
) -> dict[str, Path]:
    """Write everything that needs no game, check it all, and return what is published.

    Raises:
        UserError: the disk is full, the film is none that browsers play, or the file of the
            weights is another than the one that was played.
    """
    run, path = session.run, staging.path
    training = training_record(run, session.weights.steps)
    with writing(path, "make room"):
        shutil.copyfile(session.weights.file, path / WEIGHTS)
        if digest(path / WEIGHTS) != content["weights"]["sha256"]:
            raise UserError(
                f"{session.weights.file} is another file than when its games began: the run still "
                "trains; run the same command again, or push a checkpoint (--load-checkpoint STEP)"
            )
        (path / SETTINGS).write_text(dump_config(config), encoding="utf-8")
        _copy_logs(run, path)
        (path / CURVE).unlink(missing_ok=True)  # of a push when the run still had its logs
        has_curve = draw_learning_curve(run, config, path / CURVE)
        has_film = staging.film.exists()
        if has_film:
            check_film(staging.film)
        write_description(
            path,
            config,
            files={
                name: file for name, file in staging.files().items() if name not in (CARD, CONFIG)
            },
            num_actions=num_actions,
            training=training,
        )
        card = write_card(
            staging.repo_id, config, content, training, has_film=has_film, has_curve=has_curve
        )
        (path / CARD).write_text(card, encoding="utf-8")
    files = staging.files()
    check_listing({name: file.stat().st_size for name, file in files.items()}, where=str(path))
    return files


def training_record(run: Run, steps: int | None) -> dict[str, Any]:
    """Return how a run was trained, as config.json says it: no path, no command line.

    A run that came from elsewhere keeps the record it came with, and says whose agent it is.
    """
    manifest = read_manifest(run)
    origin = manifest.get("origin")
    if origin is not None:
        came = origin.get("training") or {"steps": steps}
        return {**came, "came_from": _came_from(origin)}
    record = {key: manifest.get(key) for key in _TRAINING_KEYS}
    changes = [change[:200] for each in manifest["invocations"] for change in each["changes"]]
    later = {"later": list(dict.fromkeys(changes))} if changes else {}
    return {"steps": steps, "seconds": _seconds(run, steps), **record, **later}


def is_of_an_agent(name: str) -> bool:
    """Return whether a push writes a file of this path."""
    return name in ALLOWED or name.startswith(f"{TENSORBOARD}/")


def check_remote(
    remote: hub.Remote | None, repo_id: str, is_ours: Callable[[str], bool], *, is_main: bool
) -> list[str]:
    """Return what a repository holds that a push would replace, and refuse what is not ours.

    Names alone do not tell: other libraries have a config.json and weights, too. A card by itself
    is what a repository that was made on the Hub's page begins with. Of another branch than `main`
    the Hub may not know the card.

    Raises:
        UserError: it holds files that dqn-push does not write, or did not by the card.
    """
    if remote is None:
        return []
    ours = [name for name in remote.files if is_ours(name)]
    others, reason = sorted(set(remote.files) - set(ours) - {".gitattributes"}), ""
    tags = remote.card.get("tags")
    if not others and is_main and not (isinstance(tags, list) and LIBRARY in tags):
        others = sorted(set(ours) - {CARD})
        reason = f", whose card lacks the tag {LIBRARY} (if they are yours, put it back)"
    if others:
        raise UserError(
            f"{hub.page(repo_id)} holds files of something else ({', '.join(others[:3])}){reason}: "
            "push under another --repo-name, or remove them there"
        )
    return ours


def _copy_logs(run: Run, path: Path) -> None:
    """Copy the logs, but for links, which may lead to what is nobody else's business.

    The names of TensorBoard's files are changed: they contain the computer's.
    """
    shutil.rmtree(path / TENSORBOARD, ignore_errors=True)
    for name in LOGS:
        (path / name).unlink(missing_ok=True)
        if (run.path / name).is_file() and not (run.path / name).is_symlink():
            shutil.copyfile(run.path / name, path / name)
    tensorboard = Path(read_manifest(run).get("tensorboard") or run.tensorboard)
    kept = (file for file in sorted(tensorboard.glob(f"{EVENTS}*")) if not file.is_symlink())
    for number, events in enumerate(kept):
        (path / TENSORBOARD).mkdir(exist_ok=True)
        time = events.name.split(".")[3]
        name = f"{STAGED_EVENTS}{time if time.isdecimal() else 0}.{number}.dqn-zoo"
        shutil.copyfile(events, path / TENSORBOARD / name)


def _came_from(origin: Origin) -> str:
    """Return where an agent came from, in words without a path: the nearest place first."""
    places = []
    if repo := origin.get("repo"):
        commit = origin.get("commit")
        places.append(f"{repo} at {commit[:7] if commit else 'an unknown commit'}")
    if library := origin.get("library"):
        places.append(f"{library} {origin.get('version') or 'of an unknown version'}")
    if before := (origin.get("training") or {}).get("came_from"):
        places.append(before)
    return ", before that ".join(places or ["an unknown place"])[:200]


def _seconds(run: Run, steps: int | None) -> float | None:
    """Return the wall-clock of the training up to `steps`, from its log."""
    try:
        with run.progress_file.open(encoding="utf-8") as file:
            rows = [(int(row["steps"]), float(row["time_s"])) for row in csv.DictReader(file)]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    reached = [seconds for step, seconds in rows if steps is None or step <= steps]
    return reached[-1] if reached else None


def _plain(value: Any) -> Any:
    """Return a value as it is after a trip through JSON: tuples are lists."""
    return json.loads(json.dumps(value))
