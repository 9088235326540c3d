"""The agents that a page may open: those of its list, and none by a path."""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from dqn_zoo.errors import UserError
from dqn_zoo.play.agent import Agent, build_agent
from dqn_zoo.play.following import Follower
from dqn_zoo.play.session import choose_weights
from dqn_zoo.play.weights import find_weights
from dqn_zoo.runs.finding import find_run, list_runs
from dqn_zoo.runs.manifest import may_be_training
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.games import parse_game
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.sharing.agent_files import CONFIG, AgentFiles, read_agent
from dqn_zoo.sharing.pretrained import GROUP, find_pretrained, list_pretrained, load_pretrained
from dqn_zoo.sharing.pull import fetch

NEWEST = ", newest weights"
"""Behind the key of a run that trains: its weights as they come."""

MOST_RUNS = 50
"""On the list, the latest."""


class Opened(NamedTuple):
    """An agent that is about to play.

    Attributes:
        agent: on the CPU, which is quick with one observation at a time.
        weights: what they are in words.
        steps: of their training, where known.
        newer: looks for newer ones, where a run that trains is followed.
    """

    agent: Agent
    weights: str
    steps: int | None
    newer: "Callable[[], Opened | None]" = lambda: None


class Choice(NamedTuple):
    """An agent of the list.

    Attributes:
        key: what it is asked for by; a page shows it.
        game: that it plays.
        open: loads it.
    """

    key: str
    game: str
    open: Callable[[], Opened]


class Gallery:
    """The list of agents, which grows with the runs of a folder.

    Args:
        log_folder: its runs, and the agents that come with this package, are on the list; None:
            neither.
        named: agents beside them, at the head of the list.
    """

    def __init__(self, log_folder: Path | None, named: Sequence[Choice]) -> None:
        self._log_folder = log_folder
        self._named = tuple(named)
        self._listed: dict[str, Run] = {}

    def choices(self) -> list[Choice]:
        """Return the agents as they are now, each once."""
        found = list(self._named)
        if self._log_folder is not None:
            for run in self.runs().values():
                found += [of_newest(run), of_run(run)] if _is_training(run) else [of_run(run)]
            found += [of_package(agent.game) for agent in list_pretrained()]
        choices: dict[str, Choice] = {}
        for choice in found:
            choices.setdefault(choice.key, choice)
        return list(choices.values())

    def runs(self) -> dict[str, Run]:
        """Return the runs of the folder by their keys, the latest first."""
        if self._log_folder is None:
            return {}
        runs = list_runs(self._log_folder)[:MOST_RUNS]
        self._listed = {_key(run): run for run in runs if run.path.parent.name != GROUP}
        return self._listed

    def find(self, keys: Collection[str]) -> dict[str, Run]:
        """Return the runs that are there, by their keys; of listed ones no others are looked at."""
        found = _present(self._listed, keys)
        return found if len(found) == len(set(keys)) else _present(self.runs(), keys)

    def open(self, key: str) -> Opened:
        """Load an agent of the list.

        Raises:
            UserError: it is not on the list, or cannot be loaded.
        """
        for choice in self.choices():
            if choice.key == key:
                return choice.open()
        for run in self.runs().values():  # ended since: its last weights are the newest
            choice = of_newest(run)
            if choice.key == key:
                return choice.open()
        raise UserError(f"{key!r} is not on the list of agents: choose one that is")


def _present(runs: Mapping[str, Run], keys: Collection[str]) -> dict[str, Run]:
    return {key: runs[key] for key in keys if key in runs and runs[key].manifest_file.exists()}


def named_agent(name: str, log_folder: Path) -> Choice:
    """Return an agent by name: a run, `pretrained/GAME`, `hf://USER/REPO`, or a folder of files.

    Raises:
        UserError: there is none.
    """
    packaged = re.fullmatch(rf"{GROUP}/([^/]+)", name)
    if packaged and not Path(name).is_dir():
        return of_package(parse_game(packaged[1]).game)
    if (Path(name) / CONFIG).exists():
        return of_files(Path(name))
    if name.startswith("hf:/"):
        return of_hub(name.removeprefix("hf:").lstrip("/"))
    return of_run(find_run(log_folder, run=name))


def of_run(run: Run, *, beside: Path | None = None) -> Choice:
    """Return the agent of a run: its best model, or the last where no evaluation chose one.

    One that does not lie among the runs of the folder `beside` is called by its whole path.
    """

    def load() -> Opened:
        config = load_config(run.config_file)
        weights = choose_weights(run, "default")
        return Opened(build_agent(weights.file, config, device="cpu"), weights.name, weights.steps)

    is_elsewhere = beside is not None and not _lies_in(run, beside)
    return Choice(str(run.path) if is_elsewhere else _key(run), _game(run), load)


def _lies_in(run: Run, log_folder: Path) -> bool:
    """Return whether a run has its place among those of a folder, also as a link to elsewhere."""
    return run.path.absolute().parent.parent.resolve() == log_folder.resolve()


def of_newest(run: Run) -> Choice:
    """Return the agent of a run that trains, as it is now, and newer as soon as it is."""

    def load() -> Opened:
        find_weights(run, "last")  # says whether to wait; nobody waits here
        config = load_config(run.config_file)
        follower = Follower(run, config, device="cpu", on_wait=lambda: None)

        def newer() -> Opened | None:
            with suppress(FileNotFoundError):  # the run was removed: what was loaded plays on
                return opened() if follower.look() else None
            return None

        def opened() -> Opened:
            return Opened(follower.agent, follower.weights.name, follower.weights.steps, newer)

        return opened()

    return Choice(f"{_key(run)}{NEWEST}", _game(run), load)


def of_package(game: str) -> Choice:
    """Return the agent that comes with this package for a game.

    Raises:
        UserError: none does.
    """
    if find_pretrained(game) is None:
        load_pretrained(game)  # says which there are
    return Choice(f"{GROUP}/{game}", game, lambda: _opened(load_pretrained(game)))


def of_hub(repo: str) -> Choice:
    """Return an agent of the Hub, which is downloaded now, checked, into the cache.

    Raises:
        UserError: there is none, or it is not what it should be.
    """
    fetched = fetch(repo, say=print)
    return Choice(
        fetched.repo_id, fetched.agent.description.config.env, lambda: _opened(fetched.agent)
    )


def of_files(folder: Path) -> Choice:
    """Return the agent of a folder with config.json and weights, as `dqn-push --space` makes it.

    Raises:
        UserError: they are not what they should be.
    """
    description, weights = read_agent(folder)

    def load() -> Opened:
        agent = build_agent(weights, description.config, device="cpu")
        return Opened(agent, "published weights", description.training.get("steps"))

    return Choice(folder.absolute().name, description.config.env, load)


def _key(run: Run) -> str:
    path = run.path.absolute()
    return f"{path.parent.name}/{path.name}"


def _game(run: Run) -> str:
    return run.path.absolute().name.rpartition("_")[0]


def _is_training(run: Run) -> bool:
    try:
        return may_be_training(run)
    except UserError:  # whoever opens it says what is wrong with it
        return False


def _opened(files: AgentFiles) -> Opened:
    agent = build_agent(files.weights, files.description.config, device="cpu")
    return Opened(agent, "published weights", files.description.training.get("steps"))
