"""results.json as a document: what it has to hold, whoever wrote it; nothing here needs PyTorch."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from dqn_zoo.play.statistics import Sample
from dqn_zoo.settings.protocols import Protocol
from dqn_zoo.system.documents import AS_WRITTEN, Count, DocumentError, Word, checked, read_document

LARGEST_SCORE, MOST_GAMES = 1e12, 100_000
"""Of a result that anybody reports."""

Score = Annotated[float, Field(ge=-LARGEST_SCORE, le=LARGEST_SCORE)]


@with_config(AS_WRITTEN)
class Weights(TypedDict):
    """Which weights played."""

    name: NotRequired[Word | None]
    sha256: NotRequired[Word | None]
    steps: NotRequired[Count | None]


@with_config(AS_WRITTEN)
class Results(TypedDict):
    """The document: of ours, or of RL-Zoo, whose five keys are among ours."""

    mean_reward: Score
    std_reward: Annotated[float, Field(ge=0.0, le=LARGEST_SCORE)]
    n_eval_episodes: Annotated[int, Field(ge=1, le=MOST_GAMES)]
    eval_datetime: NotRequired[Word]
    confidence_95: NotRequired[Annotated[list[Score], Field(min_length=2, max_length=2)] | None]
    env: NotRequired[Word]
    weights: NotRequired[Weights | None]
    protocol: NotRequired[dict[str, Any] | None]
    epsilon: NotRequired[Annotated[float, Field(ge=0.0, le=1.0)]]
    seed: NotRequired[int | None]
    n_timesteps: NotRequired[Count | None]
    games: NotRequired[list[dict[str, Any]]]


def read_results(path: Path) -> Results:
    """Read a results.json.

    Raises:
        DocumentError: no JSON object, or one in which something is not what it should be.
    """
    return read_document(path, Results)


def sample_of(results: Mapping[str, Any], *, where: str) -> Sample:
    """Return number, mean and deviation of the games in results that somebody else passed on.

    Raises:
        DocumentError: they are missing, no numbers, or larger than any game's.
    """
    found = checked(dict(results), Results, where)
    mean, std = float(found["mean_reward"]), float(found["std_reward"])
    return Sample(found["n_eval_episodes"], mean, std)


def rules_of(results: Results, *, where: str) -> Protocol:
    """Return the rules that results were made by.

    Raises:
        DocumentError: they are missing or damaged.
    """
    rules = results.get("protocol")
    if rules is None:
        raise DocumentError(f"{where} does not say by which rules it was played")
    return checked(rules, Protocol, f"{where}, protocol")
