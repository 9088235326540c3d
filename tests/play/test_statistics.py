"""Statistics of scores against numbers worked out by hand, printed tables and scipy's results."""

import math

import pytest

from dqn_zoo.play.statistics import Sample, student_t_quantile, summarize, welch_interval


def test_a_summary_equals_the_numbers_worked_out_by_hand() -> None:
    summary = summarize([1.0, 2.0, 3.0, 10.0])
    # mean 4; squared differences 9, 4, 1, 36: sum 50
    std = math.sqrt(50 / 4)
    margin = 3.182446 * math.sqrt(50 / 3) / math.sqrt(4)
    assert summary.num_games == 4
    assert summary.mean == 4.0
    assert summary.std == pytest.approx(std)
    assert summary.mean_minus_std == pytest.approx(4.0 - std)
    assert summary.confidence_95 == pytest.approx((4.0 - margin, 4.0 + margin), rel=1e-6)
    assert (summary.minimum, summary.median, summary.maximum) == (1.0, 2.5, 10.0)


def test_a_single_game_has_no_confidence_interval() -> None:
    summary = summarize([7.0])
    assert summary.confidence_95 is None
    assert (summary.mean, summary.std, summary.mean_minus_std) == (7.0, 0.0, 7.0)


@pytest.mark.parametrize(
    ("degrees", "at_95", "at_99"),
    [
        (1, 12.706, 63.657),
        (2, 4.303, 9.925),
        (3, 3.182, 5.841),
        (4, 2.776, 4.604),
        (9, 2.262, 3.250),
        (10, 2.228, 3.169),
        (29, 2.045, 2.756),
        (30, 2.042, 2.750),
        (99, 1.984, 2.626),
        (1000, 1.962, 2.581),
    ],
)
def test_quantiles_of_student_equal_the_printed_tables(
    degrees: int, at_95: float, at_99: float
) -> None:
    assert student_t_quantile(0.95, degrees=degrees) == pytest.approx(at_95, abs=6e-4)
    assert student_t_quantile(0.99, degrees=degrees) == pytest.approx(at_99, abs=6e-4)


def sample(*scores: float) -> Sample:
    summary = summarize(scores)
    return Sample(summary.num_games, summary.mean, summary.std)


def test_a_quantile_of_student_takes_degrees_between_whole_ones() -> None:
    # scipy 1.17, stats.t.ppf(0.975, degrees)
    assert student_t_quantile(0.95, degrees=2.142433234421365) == pytest.approx(
        4.039831053, abs=1e-6
    )
    assert student_t_quantile(0.95, degrees=1.5) == pytest.approx(6.016663)


def test_the_interval_of_a_difference_is_welchs() -> None:
    # By hand: means 3 and 6, squared errors 7/3 and 4, so 2.1424 degrees of freedom.
    low, high = welch_interval(sample(1.0, 2.0, 6.0), sample(4.0, 8.0))
    assert (low + high) / 2 == pytest.approx(-3.0)
    assert high - low == pytest.approx(2 * 4.039831053 * math.sqrt(7 / 3 + 4), rel=1e-6)


def test_the_interval_of_a_difference_equals_scipys() -> None:
    first = sample(300, 250, 410, 180, 295)
    second = sample(500, 210, 905, 640, 330, 415, 700)
    # scipy 1.17, stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    assert welch_interval(first, second) == pytest.approx((-466.25217, -16.890686), rel=1e-6)
    low, high = welch_interval(second, first)
    assert (-high, -low) == pytest.approx((-466.25217, -16.890686), rel=1e-6)


def test_scores_that_do_not_spread_leave_no_doubt() -> None:
    assert welch_interval(sample(21.0, 21.0), sample(20.0, 20.0)) == (1.0, 1.0)
    assert welch_interval(Sample(2, 21.0, 1e-100), Sample(3, 20.0, 0.0)) == (1.0, 1.0)


def test_few_games_of_one_score_say_no_interval():
    assert summarize([285.0, 285.0]).confidence_95 is None
    assert summarize([285.0] * 10).confidence_95 == (285.0, 285.0)
    assert summarize([285.0, 286.0]).confidence_95 is not None
