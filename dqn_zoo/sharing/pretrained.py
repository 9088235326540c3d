"""The trained agents that come with this package, each as it would be published."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dqn_zoo.errors import UserError
from dqn_zoo.play.results_file import read_results, rules_of, sample_of
from dqn_zoo.runs.run import Run
from dqn_zoo.sharing.agent_files import (
    CONFIG,
    RESULTS,
    WEIGHTS,
    AgentFiles,
    check_agent,
    read_description,
)
from dqn_zoo.sharing.pull import unpack, unpacked_before

PRETRAINED = Path(__file__).parent.parent / "pretrained"
"""A folder for each game, with config.json, model.safetensors and results.json."""

GROUP = "pretrained"
"""Folder of their runs in the log folder."""


class Pretrained(NamedTuple):
    """An agent of this package, as people want to know of it.

    Attributes:
        folder: of its files.
        game: that it plays.
        recipe: that it was trained with.
        steps: of its training.
        score: as "622.50 +/- 201.56".
        num_games: that the score is of.
        rules: protocol and epsilon of these games.
    """

    folder: Path
    game: str
    recipe: str
    steps: int
    score: str
    num_games: int
    rules: str


def list_pretrained() -> list[Pretrained]:
    """Return the agents of this package, by the names of their games."""
    return [_read(path.parent) for path in sorted(PRETRAINED.glob(f"*/{CONFIG}"))]


def find_pretrained(game: str) -> Pretrained | None:
    """Return the agent of this package that plays a game."""
    return next((agent for agent in list_pretrained() if agent.game == game), None)


def load_pretrained(game: str) -> AgentFiles:
    """Return the files of the agent of this package that plays a game, checked.

    Raises:
        UserError: there is none, or a file of the installation was changed.
    """
    agent = find_pretrained(game)
    if agent is None:
        known = ", ".join(each.game for each in list_pretrained()) or "none"
        raise UserError(f"no agent for {game} comes with dqn_zoo; there are: {known}")
    return _files(agent.folder)


def unpack_pretrained(agent: Pretrained, *, log_folder: Path, command: Sequence[str]) -> Run:
    """Make a run folder of it, or return the one that was made before.

    It lies apart, in `pretrained/`: the first run of a user's own is number 1.

    Raises:
        UserError: a file of the installation or of the run was changed, or nothing can be written.
    """
    files = _files(agent.folder)
    weights = files.description.files[WEIGHTS]["sha256"]
    origin: dict[str, Any] = {"pretrained": agent.game, "weights": weights}
    run = unpacked_before(files, origin, log_folder, GROUP)
    return run or unpack(
        files, origin, score=agent.score, log_folder=log_folder, command=command, group=GROUP
    )


def _files(folder: Path) -> AgentFiles:
    description = read_description(folder / CONFIG)
    return check_agent(description, weights=folder / WEIGHTS, results=folder / RESULTS)


def _read(folder: Path) -> Pretrained:
    description, results = read_description(folder / CONFIG), read_results(folder / RESULTS)
    sample, config = sample_of(results, where=str(folder)), description.config
    steps, epsilon = description.training.get("steps"), results.get("epsilon")
    if steps is None or epsilon is None:
        raise UserError(f"{folder} is damaged: install dqn_zoo again")
    rules = f"{rules_of(results, where=str(folder)).name}, epsilon {epsilon:g}"
    return Pretrained(
        folder=folder,
        game=config.env,
        recipe=config.algo,
        steps=steps,
        score=f"{sample.mean:.2f} +/- {sample.std:.2f}",
        num_games=sample.num_games,
        rules=rules,
    )
