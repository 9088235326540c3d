"""Statistics of a sweep, in cases that can be counted by hand."""

import numpy as np
import pytest

from dqn_zoo.experiments.aggregates import (
    Estimate,
    iqm,
    performance_profile,
    probability_of_improvement,
)
from dqn_zoo.experiments.summary import (
    Cell,
    Conditions,
    RunScore,
    Summary,
    _improvements,
    _normalised,
    as_markdown,
)


def test_the_interquartile_mean_of_a_number_of_runs_that_four_does_not_divide():
    assert iqm([np.array([0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0])]) == pytest.approx(31 / 5)


def test_intervals_of_profiles_and_improvement_have_the_ends_of_all_resamples():
    # Of [0, 1] a quarter of the resamples has no run above 0.5, and a quarter has two.
    found = performance_profile([np.array([0.0, 1.0])], np.array([0.5]), resamples=200)
    assert [float(each[0]) for each in found] == [0.5, 0.0, 1.0]
    two, one = {"Pong": np.array([0.0, 2.0])}, {"Pong": np.array([1.0])}
    assert probability_of_improvement(two, one) == Estimate(0.5, 0.0, 1.0)
    assert probability_of_improvement(one, two) == Estimate(0.5, 0.0, 1.0)


def test_an_improvement_and_its_reverse_add_up_to_one():
    scores = {
        name: {"Pong": np.random.default_rng(n).normal(n / 2, size=5)}
        for n, name in enumerate("ab")
    }
    found = _improvements(scores)
    there, back = found["a", "b"], found["b", "a"]
    assert there.low < there.value < there.high
    assert back == pytest.approx((1 - there.value, 1 - there.high, 1 - there.low))


def test_a_mode_of_its_own_has_no_human_score():
    cell = Cell(runs={1: RunScore(5.0, 6.0)}, planned=1)
    assert list(_normalised({"Pong": cell})) == ["Pong"]
    other = Cell(runs=cell.runs, planned=1, has_human=False)
    assert _normalised({"Pong": other}) == {}


def test_what_was_played_or_trained_otherwise_is_said_under_the_table():
    def cell(rules: str, steps: int, *, has_human: bool = True) -> Cell:
        runs = {1: RunScore(5.0, 6.0)}
        conditions = Conditions(rules, steps)
        return Cell(runs=runs, planned=1, has_human=has_human, conditions=conditions)

    def told(cells: dict[str, dict[str, Cell]]) -> str:
        aggregates = {name: {"mean": Estimate(1.0, 0.5, 1.5)} for name in cells}
        return as_markdown(
            Summary(cells=cells, aggregates=aggregates, profiles={}, improvement={}, incomplete={})
        )

    zoo, machado = "zoo, epsilon 0.01", "machado, epsilon 0.001"
    alike = {"Pong": cell(zoo, 800), "Boxing": cell(zoo, 900)}
    assert "Not all" not in told({"a": alike, "b": alike})
    assert "Without" not in told({"a": alike, "b": alike})
    other = {"Pong": cell(machado, 800), "Boxing": cell(machado, 1_900)}
    text = told({"a": alike, "b": alike, "c": other})
    assert (
        "Not all play by the same rules, and such scores do not compare: "
        f"`a`, `b`: {zoo}; `c`: {machado}." in text
    )
    assert "the same number of steps on Boxing: `a` 900, `b` 900, `c` 1,900." in text
    mixed = {"Pong": cell(zoo, 800), "Boxing": cell(machado, 800, has_human=False)}
    text = told({"a": mixed})
    assert f"`a` on Pong: {zoo}; `a` on Boxing: {machado}." in text
    assert "Without what has no human score: Boxing." in text
