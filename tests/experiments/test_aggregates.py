"""Statistics over games and seeds: by hand, by brute force, and against rliable."""

import itertools

import numpy as np
import pytest

from dqn_zoo.experiments.aggregates import (
    AGGREGATES,
    estimate,
    estimate_mean,
    iqm,
    mean,
    median,
    optimality_gap,
    performance_profile,
    probability_of_improvement,
)

GAMES = [np.array([0.0, 0.4, 2.0]), np.array([1.0, 3.0]), np.array([-1.0, 0.2, 0.6])]


def test_the_statistics_of_a_few_runs_by_hand():
    # Of 8 runs the middle 4: 0.2, 0.4, 0.6, 1.0.
    assert iqm(GAMES) == pytest.approx(0.55)
    # The means of the games are 0.8, 2.0 and -0.2/3.
    assert median(GAMES) == pytest.approx(0.8)
    assert mean(GAMES) == pytest.approx((0.8 + 2.0 - 0.2 / 3) / 3)
    # With at most 1 for a run they are 1.4/3, 1.0 and -0.2/3.
    assert optimality_gap(GAMES) == pytest.approx(1 - (1.4 / 3 + 1.0 - 0.2 / 3) / 3)


def test_games_with_more_runs_do_not_count_more_in_the_mean():
    assert mean([np.zeros(9), np.ones(1)]) == 0.5
    assert median([np.zeros(9), np.ones(1)]) == 0.5


def test_the_bootstrap_draws_runs_within_games_only():
    # Each game has equal runs: however they are drawn, nothing changes.
    constant = [np.full(4, 0.1), np.full(4, 0.9)]
    for statistic in AGGREGATES.values():
        found = estimate(statistic, constant, resamples=50)
        assert found.low == pytest.approx(found.value)
        assert found.high == pytest.approx(found.value)


def test_the_interval_has_the_ends_of_all_possible_resamples():
    runs = np.array([0.0, 1.0, 5.0])
    means = [np.mean(drawn) for drawn in itertools.product(runs, repeat=3)]
    assert np.mean(np.array(means) == 0.0) > 0.025  # so that the lower end is 0
    assert np.mean(np.array(means) == 5.0) > 0.025
    assert estimate(mean, [runs], resamples=20_000) == (2.0, 0.0, 5.0)
    four = np.array([0.0, 1.0, 5.0, 7.0])
    means = [np.mean(drawn) for drawn in itertools.product(four, repeat=4)]
    found = estimate(mean, [four], resamples=20_000)
    assert found[1:] == pytest.approx(np.quantile(np.repeat(means, 999), [0.025, 0.975]))


def test_the_interval_of_points_of_curves_is_that_of_the_mean():
    runs = np.random.default_rng(3).normal(size=5)
    assert estimate_mean(runs) == pytest.approx(estimate(mean, [runs]), abs=0.02 * runs.std())
    assert estimate_mean(runs[:1]) == (runs[0], runs[0], runs[0])


def test_the_interval_is_the_same_every_time():
    games = [np.random.default_rng(3).normal(size=9)]
    assert estimate(iqm, games) == estimate(iqm, games)
    assert estimate(iqm, games) != estimate(iqm, games, seed=1)


def test_a_profile_is_the_share_of_runs_above_each_threshold():
    games = [np.array([0.5, 1.5]), np.array([0.0, 1.0, 1.0, 2.0])]
    share, low, high = performance_profile(games, np.array([-1.0, 0.5, 1.0, 9.0]), resamples=200)
    # Above 0.5: 1 of 2 and 3 of 4; exactly 0.5 and 1.0 are not above themselves.
    assert share == pytest.approx([1.0, 0.625, 0.375, 0.0])
    assert (low <= share).all()
    assert (share <= high).all()
    assert low[0] == high[0] == 1.0


def test_the_probability_of_improvement_counts_pairs_and_half_of_ties():
    first = {"Pong": np.array([1.0, 3.0]), "Qbert": np.array([2.0]), "Only": np.array([9.0])}
    second = {"Pong": np.array([1.0, 2.0]), "Qbert": np.array([5.0])}
    # Pong: 1 ties with 1, loses to 2; 3 beats both: 2.5 of 4. Qbert: 0 of 1.
    assert probability_of_improvement(first, second).value == pytest.approx((2.5 / 4 + 0) / 2)
    assert probability_of_improvement(second, first).value == pytest.approx((1.5 / 4 + 1) / 2)
    with pytest.raises(ValueError, match="at least one game that both have played"):
        probability_of_improvement({"Pong": np.ones(1)}, {"Qbert": np.ones(1)})


@pytest.mark.rliable
def test_rliable_computes_the_same():
    from rliable import library, metrics

    generator = np.random.default_rng(5)
    scores = {name: generator.gamma(1.0, size=(5, 11)) for name in ("ours", "theirs")}
    strata = {name: list(matrix.T) for name, matrix in scores.items()}
    theirs = {
        "IQM": metrics.aggregate_iqm,
        "median": metrics.aggregate_median,
        "mean": metrics.aggregate_mean,
        "optimality gap": metrics.aggregate_optimality_gap,
    }
    assert theirs.keys() == AGGREGATES.keys()
    for name, statistic in AGGREGATES.items():
        values, intervals = library.get_interval_estimates(
            {"ours": scores["ours"]}, lambda x, f=theirs[name]: np.array([f(x)]), reps=3_000
        )
        found = estimate(statistic, strata["ours"], resamples=3_000)
        assert found.value == pytest.approx(values["ours"][0], abs=1e-12)
        width = found.high - found.low
        assert found.low == pytest.approx(intervals["ours"][0, 0], abs=0.1 * width)
        assert found.high == pytest.approx(intervals["ours"][1, 0], abs=0.1 * width)

    thresholds = np.linspace(0, 3, 7)
    profiles, bands = library.create_performance_profile(
        {"ours": scores["ours"]}, thresholds, reps=3_000
    )
    share, low, high = performance_profile(strata["ours"], thresholds, resamples=3_000)
    assert share == pytest.approx(profiles["ours"], abs=1e-12)
    assert low == pytest.approx(bands["ours"][0], abs=0.03)
    assert high == pytest.approx(bands["ours"][1], abs=0.03)

    games = [str(number) for number in range(11)]
    by_game = {name: dict(zip(games, columns, strict=True)) for name, columns in strata.items()}
    found = probability_of_improvement(by_game["ours"], by_game["theirs"])
    expected = metrics.probability_of_improvement(scores["ours"], scores["theirs"])
    assert found.value == pytest.approx(expected, abs=1e-12)
