"""What the scores of many games and seeds say together, and how well that is known.

The practice of Agarwal et al. (2021), https://arxiv.org/abs/2108.13264: statistics over all runs
with intervals from a stratified bootstrap, in place of bare means of a few seeds. A stratum is a
game: its runs are drawn anew, with replacement, and the games stay as they are.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
"""float64 [num_runs]: one normalised score of each run of a game."""

Strata = Sequence[Scores]
"""The scores of each game; the games may differ in their number of runs."""

_Kind = TypeVar("_Kind", np.float64, np.bool_)

Statistic = Callable[[Strata], float]

RESAMPLES = 2_000
CONFIDENCE = 0.95


class Estimate(NamedTuple):
    """A statistic and its bootstrap interval.

    Attributes:
        value: of the scores themselves.
        low: lower end of the 95 % interval.
        high: upper end.
    """

    value: float
    low: float
    high: float


def iqm(strata: Strata) -> float:
    """Return the interquartile mean: that of the middle half of all runs of all games."""
    scores = np.sort(np.concatenate(list(strata)))
    cut = len(scores) // 4
    return float(scores[cut : len(scores) - cut].mean())


def median(strata: Strata) -> float:
    """Return the median over games of the mean over runs."""
    return float(np.median([scores.mean() for scores in strata]))


def mean(strata: Strata) -> float:
    """Return the mean over games of the mean over runs."""
    return float(np.mean([scores.mean() for scores in strata]))


def optimality_gap(strata: Strata) -> float:
    """Return how far runs stay below 1, the human tester, on average; more than 1 counts as 1."""
    return 1.0 - mean([np.minimum(scores, 1.0) for scores in strata])


AGGREGATES: dict[str, Statistic] = {
    "IQM": iqm,
    "median": median,
    "mean": mean,
    "optimality gap": optimality_gap,
}


def estimate(
    statistic: Statistic, strata: Strata, *, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
    """Return a statistic with the percentile interval of a stratified bootstrap.

    With one run per game the interval has no width, because nothing is known of how runs differ.
    """
    generator = np.random.default_rng(seed)
    drawn = np.array([statistic(_resample(strata, generator)) for _ in range(resamples)])
    low, high = np.quantile(drawn, _ENDS)
    return Estimate(statistic(strata), float(low), float(high))


def estimate_mean(scores: Scores, *, resamples: int = RESAMPLES) -> Estimate:
    """Return what `estimate` does of one game's mean, for the thousands of points of curves."""
    value = float(scores.mean())
    if len(scores) == 1:
        return Estimate(value, value, value)
    drawn = np.random.default_rng(0).integers(len(scores), size=(resamples, len(scores)))
    low, high = np.quantile(scores[drawn].mean(axis=1), _ENDS)
    return Estimate(value, float(low), float(high))


def performance_profile(
    strata: Strata, thresholds: Scores, *, resamples: int = RESAMPLES
) -> tuple[Scores, Scores, Scores]:
    """Return the share of runs above each threshold, games counted alike, with its interval.

    Args:
        strata: the scores of each game.
        thresholds: float64 [num_thresholds].
        resamples: how often the runs are drawn anew.

    Returns:
        Share, lower and upper end of its pointwise 95 % interval: float64 [num_thresholds] each.
    """
    above = [scores[:, None] > thresholds for scores in strata]  # bool [num_runs, num_thresholds]
    generator = np.random.default_rng(0)
    drawn = np.array([_share(_resample(above, generator)) for _ in range(resamples)])
    low, high = np.quantile(drawn, _ENDS, axis=0)
    return _share(above), low, high


def probability_of_improvement(
    first: Mapping[str, Scores], second: Mapping[str, Scores]
) -> Estimate:
    """Return how likely a run of the first is better than one of the second on a random game.

    The Mann-Whitney statistic of each game, averaged over games; a tie counts one half. Games that
    only one of the two has played are left out.

    Raises:
        ValueError: they have no game in common.
    """
    games = [game for game in first if game in second]
    if not games:
        raise ValueError("expected at least one game that both have played")
    ours, theirs = [first[game] for game in games], [second[game] for game in games]
    generator = np.random.default_rng(0)
    drawn = [
        _improvement(_resample(ours, generator), _resample(theirs, generator))
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, _ENDS)
    return Estimate(_improvement(ours, theirs), float(low), float(high))


_ENDS = ((1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2)


def _resample(
    strata: Sequence[NDArray[_Kind]], generator: np.random.Generator
) -> list[NDArray[_Kind]]:
    """Draw as many runs of every game as it has, with replacement."""
    return [runs[generator.integers(len(runs), size=len(runs))] for runs in strata]


def _share(above: Sequence[NDArray[np.bool_]]) -> Scores:
    share: Scores = np.mean([runs.mean(axis=0) for runs in above], axis=0)
    return share


def _improvement(first: Strata, second: Strata) -> float:
    games = []
    for ours, theirs in zip(first, second, strict=True):
        difference = ours[:, None] - theirs
        games.append(np.mean((difference > 0) + 0.5 * (difference == 0)))
    return float(np.mean(games))
