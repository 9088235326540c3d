"""The score on a card, ours or anybody's: what reads cards reads them by this convention.

RL-Zoo and the Hugging Face course set it: the id of the environment is a tag, and the first metric
of `model-index` is the mean reward as the text "622.50 +/- 201.56".
"""

import math
import re
from collections.abc import Mapping
from typing import Any, NamedTuple


class CardScore(NamedTuple):
    """What a card says about its agent, ours or anybody's.

    Attributes:
        mean: of the raw scores.
        std: of the population, as RL-Zoo computes it.
        library: that trained it, such as `stable-baselines3`; None where the card does not say.
        protocol: name of ours, with departures; None where the card does not say.
        num_games: that were played; None where the card does not say.
        epsilon: they were played with; None where the card does not say.
    """

    mean: float
    std: float
    library: str | None
    protocol: str | None
    num_games: int | None
    epsilon: float | None

    @property
    def mean_minus_std(self) -> float:
        """Return the result as the course counts it."""
        return self.mean - self.std


def env_id(game: str, *, action_repeat_probability: float) -> str:
    """Return Gymnasium's id for a game as it is played: with sticky actions `ALE/...-v5`."""
    return f"ALE/{game}-v5" if action_repeat_probability else f"{game}NoFrameskip-v4"


def env_tags(game: str) -> tuple[str, ...]:
    """Return the ids that cards of a game carry as tags."""
    return tuple(env_id(game, action_repeat_probability=sticky) for sticky in (0.0, 0.25))


def read_score(card: Mapping[str, Any]) -> CardScore | None:
    """Return the first mean reward in the metadata of a card; None where there is none.

    Cards are written by anybody: whatever does not have the expected form counts as absent.
    """
    for result in _results(card):
        dataset = result.get("dataset")
        arguments = dataset.get("args") if isinstance(dataset, dict) else None
        arguments = arguments if isinstance(arguments, dict) else {}
        metrics = result.get("metrics")
        for metric in metrics if isinstance(metrics, list) else []:
            numbers = _mean_and_std(metric.get("value")) if isinstance(metric, dict) else None
            if numbers is not None and metric.get("type") in (None, "mean_reward"):
                library = card.get("library_name")
                return CardScore(
                    *numbers,
                    library=library if isinstance(library, str) else None,
                    **_conditions(arguments),
                )
    return None


def _conditions(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return protocol, number of games and epsilon as far as a card says them."""
    protocol, games, epsilon = (
        arguments.get(key) for key in ("protocol", "n_eval_episodes", "epsilon")
    )
    return {
        "protocol": protocol if isinstance(protocol, str) else None,
        "num_games": games if isinstance(games, int) else None,
        "epsilon": float(epsilon) if isinstance(epsilon, int | float) else None,
    }


def _results(card: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the results of the first model in `model-index`, whatever else stands there."""
    match card.get("model-index"):
        case [{"results": list(results)}, *_]:
            return [result for result in results if isinstance(result, dict)]
    return []


def _mean_and_std(value: object) -> tuple[float, float] | None:
    """Read "622.50 +/- 201.56"; a number alone has no deviation and is no result."""
    number = r"([-+]?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?)"
    match = re.fullmatch(rf"\s*{number}\s*(?:\+/-|\u00b1)\s*{number}\s*", str(value)[:100])
    if match is None:
        return None
    mean, std = float(match[1]), float(match[2])
    return (mean, std) if math.isfinite(mean) and math.isfinite(std) and std >= 0 else None
