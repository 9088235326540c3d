"""Schedules and epsilon-greedy."""

import numpy as np
import pytest

from dqn_zoo.schedules import LinearSchedule, epsilon_greedy


def test_schedule_falls_linearly_and_stays():
    schedule = LinearSchedule(1.0, 0.1, 1_000)
    values = [schedule(step) for step in (0, 250, 500, 999, 1_000, 5_000)]
    assert values == pytest.approx([1.0, 0.775, 0.55, 0.1009, 0.1, 0.1])


def test_a_schedule_without_horizon_is_constant():
    assert LinearSchedule(0.3, 0.3, 0)(0) == 0.3


def test_every_environment_draws_its_own_coin():
    q_values = np.tile(np.array([[0.0, 9.0, 1.0, 2.0]], np.float32), (64, 1))
    generator = np.random.default_rng(0)
    mixed = 0
    for _ in range(50):
        greedy = int((epsilon_greedy(q_values, 0.5, generator) == 1).sum())
        mixed += 0 < greedy < 64
    assert mixed == 50


def test_epsilon_is_the_share_of_random_actions():
    q_values = np.zeros((10_000, 4), np.float32)
    q_values[:, 2] = 1.0
    actions = epsilon_greedy(q_values, 0.4, np.random.default_rng(3))
    shares = np.bincount(actions, minlength=4) / 10_000
    assert shares == pytest.approx([0.1, 0.1, 0.7, 0.1], abs=0.02)


@pytest.mark.parametrize(("epsilon", "greedy"), [(0.0, True), (1.0, False)])
def test_the_number_of_draws_does_not_depend_on_how_coins_fall(epsilon, greedy):
    generator, twin = np.random.default_rng(1), np.random.default_rng(1)
    q_values = np.arange(12, dtype=np.float32).reshape(3, 4)
    actions = epsilon_greedy(q_values, epsilon, generator)
    epsilon_greedy(q_values, 0.5, twin)
    assert generator.random() == twin.random()
    assert (actions == 3).all() == greedy
