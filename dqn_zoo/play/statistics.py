"""What scores of games say: their statistics, and whether two agents differ.

`docs/evaluation.md` has the formulas.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

FEWEST_ALIKE = 10
"""Games of one score that say how little the scores of others would differ."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Statistics of raw scores.

    Attributes:
        num_games: how many scores went in.
        mean: their arithmetic mean.
        std: of the population (divided by the number of games), as numpy and SB3 compute it.
        mean_minus_std: the result as the Hugging Face course counts it.
        confidence_95: an interval that holds the true mean in 95 of 100 evaluations (Student's t
            with the deviation of the sample); None for a single game, and for few games of one
            score, whose deviation is not 0 because theirs is.
        minimum: lowest score.
        median: middle score.
        maximum: highest score.
    """

    num_games: int
    mean: float
    std: float
    mean_minus_std: float
    confidence_95: tuple[float, float] | None
    minimum: float
    median: float
    maximum: float


class Sample(NamedTuple):
    """What is known of games whose scores may not be: enough to compare their mean with another.

    Attributes:
        num_games: how many there were.
        mean: of their scores.
        std: of the population (divided by the number of games).
    """

    num_games: int
    mean: float
    std: float

    @property
    def squared_error(self) -> float:
        """Return the variance of the mean, from the deviation of the sample."""
        return self.std**2 / (self.num_games - 1)  # std**2 * n / (n - 1) / n


def summarize(scores: Sequence[float]) -> Summary:
    """Return the statistics of at least one score."""
    num_games = len(scores)
    mean = statistics.fmean(scores)
    std = statistics.pstdev(scores, mean)
    confidence_95 = None
    if num_games >= FEWEST_ALIKE or len(set(scores)) > 1:
        standard_error = statistics.stdev(scores, mean) / math.sqrt(num_games)
        margin = student_t_quantile(0.95, degrees=num_games - 1) * standard_error
        confidence_95 = (mean - margin, mean + margin)
    return Summary(
        num_games=num_games,
        mean=mean,
        std=std,
        mean_minus_std=mean - std,
        confidence_95=confidence_95,
        minimum=min(scores),
        median=statistics.median(scores),
        maximum=max(scores),
    )


def welch_interval(first: Sample, second: Sample) -> tuple[float, float]:
    """Return the 95 % interval of the difference of two means, first minus second.

    Welch (1947), https://doi.org/10.1093/biomet/34.1-2.28: the samples may differ in size and in
    deviation; each is of at least two games. Where both deviations are 0, or too small to be
    squared, the interval is the difference itself.
    """
    difference = first.mean - second.mean
    errors = first.squared_error, second.squared_error
    shares = [
        error**2 / (sample.num_games - 1)
        for error, sample in zip(errors, (first, second), strict=True)
    ]
    if sum(shares) == 0.0:
        return difference, difference
    degrees = sum(errors) ** 2 / sum(shares)  # Welch and Satterthwaite
    margin = student_t_quantile(0.95, degrees=degrees) * math.sqrt(sum(errors))
    return difference - margin, difference + margin


def student_t_quantile(coverage: float, *, degrees: float) -> float:
    """Return the t that |T| stays below with probability `coverage`, by bisection.

    Args:
        coverage: in (0, 1), such as 0.95.
        degrees: degrees of freedom of T, at least 1, whole or not.
    """
    angle_low, angle_high = 0.0, math.pi / 2  # of theta, where t = sqrt(degrees) * tan(theta)
    for _ in range(60):
        angle = (angle_low + angle_high) / 2
        if _student_t_coverage(angle, degrees) < coverage:
            angle_low = angle
        else:
            angle_high = angle
    return math.sqrt(degrees) * math.tan(angle_low)


def _student_t_coverage(theta: float, degrees: float) -> float:
    """Return P(|T| < sqrt(degrees) tan(theta)): the share of [0, theta] in cos(x)**(degrees - 1).

    The density of T, with t = sqrt(degrees) tan(x); Gauss and Legendre's rule integrates it.
    """
    nodes, weights = np.polynomial.legendre.leggauss(64)
    cosines = np.cos(theta * (nodes + 1) / 2)
    part = float(weights @ cosines ** (degrees - 1)) * theta / 2
    log_ratio = math.lgamma(degrees / 2) - math.lgamma((degrees + 1) / 2)
    return part / (math.sqrt(math.pi) / 2 * math.exp(log_ratio))
