"""Games that a person played for a score: what is kept of them, and which count.

    FOLDER/human/GAME/TIME-seed-N.json    one game, beside that of the agent that it was played with

A file is written when a game begins and again when it ends, so a game that was given up is known.
It holds seed, rules and actions, and nothing else decides a game: whoever plays it again gets its
score, or the score was made up; nothing here needs PyTorch.
"""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, with_config
from typing_extensions import TypedDict

from dqn_zoo.errors import UserError
from dqn_zoo.play.results_file import Score
from dqn_zoo.settings.config import build_config
from dqn_zoo.settings.game_modes import check_mode
from dqn_zoo.settings.games import GAMES
from dqn_zoo.settings.protocols import RULES_OF_THE_CONFIG, Protocol, protocol_from_config
from dqn_zoo.system.documents import AS_WRITTEN, Count, DocumentError, Word, checked, read_document
from dqn_zoo.system.files import replace_file, writing

if TYPE_CHECKING:
    from dqn_zoo.play.evaluation import Game

FOLDER = "human"
"""In the log folder, beside those of the recipes."""

Seed = Annotated[int, Field(ge=0, lt=2**31)]
Order = Literal["side by side", "you first"]
Seconds = Annotated[float, Field(ge=0.0, le=1e9)]

_FIRST = ord("a")


@with_config(AS_WRITTEN)
class Played(TypedDict):
    """A full game; `actions` has a letter for each step, `a` for the game's first action."""

    score: Score
    length_steps: Count
    truncated: bool
    actions: Annotated[str, Field(max_length=1_000_000, pattern=r"^[a-r]*$")]


@with_config(AS_WRITTEN)
class Opponent(TypedDict):
    """The agent that played the same seed; `played` once it has."""

    name: Word
    weights: Word
    steps: Count | None
    epsilon: Annotated[float, Field(ge=0.0, le=1.0)]
    played: Played | None


@with_config(AS_WRITTEN)
class HumanGame(TypedDict):
    """The document; `played` is None until the game has come to its end.

    The seed is that of `dqn-enjoy --seed`, whose first game this is. `seconds` are those from the
    first step to the last by the clock, pauses included.
    """

    env: Word
    seed: Seed
    protocol: dict[str, Any]
    begun: Word
    order: Order
    played: Played | None
    pauses: Count
    seconds: Seconds
    agent: Opponent


@dataclass(frozen=True, slots=True, kw_only=True)
class HumanScores:
    """All that a person played of a game by the same rules.

    Attributes:
        folder: that the games lie in.
        rules: with an epsilon of 0: nothing acts in a person's place.
        scores: of the games that count.
        given_up: games of new seeds that were begun and not played to their end.
        known: full games of seeds that were begun before; they do not count.
        pauses: in the games that count.
        latest: date of the last game that counts, as 2026-11-30.
    """

    folder: Path
    rules: Protocol
    scores: tuple[float, ...]
    given_up: int
    known: int
    pauses: int
    latest: str


def folder_of(log_folder: Path, env: str) -> Path:
    """Return where the games of a person lie."""
    return log_folder / FOLDER / env


def played(game: "Game", actions: Iterable[int]) -> Played:
    """Return a game that has ended, as a file holds it."""
    return {
        "score": game.score,
        "length_steps": game.length_steps,
        "truncated": game.truncated,
        "actions": "".join(chr(_FIRST + action) for action in actions),
    }


def actions_of(whose: Played) -> list[int]:
    """Return the actions of a game that has ended."""
    return [ord(letter) - _FIRST for letter in whose["actions"]]


def write_game(file: Path, game: HumanGame) -> None:
    """Keep a game.

    Raises:
        UserError: the file cannot be written.
    """
    with writing(f"the score cannot be kept: {file}"):
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, json.dumps(game, indent=1).encode())


def read_game(file: Path) -> HumanGame:
    """Read a game.

    Raises:
        DocumentError: the file holds none.
    """
    game = read_document(file, HumanGame)
    if game["env"] not in GAMES:
        raise DocumentError(f"{file} is of a game that does not exist here: {game['env']}")
    folder = file.absolute().parent
    if folder.parent.name == FOLDER and folder.name != game["env"]:
        raise DocumentError(f"{file} is of another game than its folder: {game['env']}")
    rules_of(game, where=str(file))
    return game


def rules_of(game: HumanGame, *, where: str) -> Protocol:
    """Return the rules that a game was played by.

    Raises:
        DocumentError: they are damaged, or none that the settings of a run can ask for.
    """
    rules = checked(game["protocol"], Protocol, f"{where}, protocol")
    asked = {key: getattr(rules, key) for key in RULES_OF_THE_CONFIG}
    asked |= {"env": game["env"], "protocol": rules.name}
    asked |= {"mode": rules.mode, "difficulty": rules.difficulty}
    try:
        same = protocol_from_config(build_config(asked))
        check_mode(game["env"], rules.mode, rules.difficulty)
    except UserError as error:
        raise DocumentError(f"{where} names no rules that can be played: {error}") from error
    if same != rules:
        raise DocumentError(f"{where} names rules that cannot be played here: {rules.as_json()}")
    return rules


def files_of(folder: Path) -> list[Path]:
    """Return the files of games in a folder, in the order in which they were begun."""
    return sorted(folder.glob("*.json"))


def seeds_begun(folder: Path, rules: Protocol) -> set[int]:
    """Return the seeds that a person knows already by some rules."""
    games = _readable(folder, lambda reason: None)
    return {game["seed"] for game, by in games if by == rules}


def human_scores(folder: Path, warn: Callable[[str], None]) -> list[HumanScores]:
    """Return what a person has reached in a game, by each of the rules that were played."""
    found: dict[Protocol, list[HumanGame]] = {}
    for game, rules in _readable(folder, warn):
        found.setdefault(rules, []).append(game)
    return [_count(folder, rules, games) for rules, games in found.items()]


def _readable(folder: Path, warn: Callable[[str], None]) -> list[tuple[HumanGame, Protocol]]:
    found = []
    for file in files_of(folder):
        try:
            game = read_game(file)
        except DocumentError as error:
            warn(str(error))
            continue
        found.append((game, replace(rules_of(game, where=str(file)), eval_epsilon=0.0)))
    return found


def _count(folder: Path, rules: Protocol, games: list[HumanGame]) -> HumanScores:
    """Count a seed once: the first time that it was begun."""
    first: dict[int, HumanGame] = {}
    for game in games:
        first.setdefault(game["seed"], game)
    ended = [game for game in games if game["played"] is not None]
    counted = [game for game in ended if first[game["seed"]] is game]
    return HumanScores(
        folder=folder,
        rules=rules,
        scores=tuple(game["played"]["score"] for game in counted if game["played"]),
        given_up=len(first) - len(counted),
        known=len(ended) - len(counted),
        pauses=sum(game["pauses"] for game in counted),
        latest=max((game["begun"][:10] for game in counted), default=""),
    )
