"""Schedules and epsilon-greedy."""

import numpy as np
import pytest

from dqn_zoo.algorithms.choice import algorithm_of
from dqn_zoo.schedules import EpsilonSchedule, LinearSchedule, epsilon_greedy, spread_epsilons
from dqn_zoo.settings.recipes import resolve


def test_schedule_falls_linearly_and_stays():
    schedule = LinearSchedule(1.0, 0.1, 1_000)
    values = [schedule(step) for step in (0, 250, 500, 999, 1_000, 5_000)]
    assert values == pytest.approx([1.0, 0.775, 0.55, 0.1009, 0.1, 0.1])


def test_a_schedule_without_horizon_is_constant():
    assert LinearSchedule(0.3, 0.3, 0)(0) == 0.3


def test_epsilons_of_eight_environments_by_hand():
    # 0.4 to the powers 1, 2, ... 8
    powers = [0.4, 0.16, 0.064, 0.0256, 0.01024, 0.004096, 0.0016384, 0.00065536]
    assert spread_epsilons(0.4, 7.0, 8) == pytest.approx(powers)
    assert spread_epsilons(0.25, 0.5, 2) == pytest.approx([0.25, 0.125])
    assert spread_epsilons(0.4, 7.0, 1).tolist() == [0.4]
    assert spread_epsilons(0.4, 0.0, 8).tolist() == [0.4]


def test_every_environment_falls_to_its_own_epsilon():
    schedule = EpsilonSchedule(1.0, np.array([0.4, 0.2]), horizon_steps=100, random_steps=10)
    assert schedule.of_each(9).tolist() == [1.0]
    assert schedule.of_each(10) == pytest.approx([0.94, 0.92])
    assert schedule.of_each(50) == pytest.approx([0.7, 0.6])
    assert schedule.of_each(100).tolist() == schedule.of_each(7_000).tolist() == [0.4, 0.2]
    assert [schedule(9), schedule(50), schedule(100)] == pytest.approx([1.0, 0.65, 0.3])


@pytest.mark.parametrize("step", [0, 7, 12, 29, 30, 31])
def test_where_all_are_alike_the_chance_is_that_of_one_linear_schedule_to_the_bit(step):
    alike = EpsilonSchedule(1.0, np.array([0.1]), horizon_steps=30)
    assert alike(step) == LinearSchedule(1.0, 0.1, 30)(step)


@pytest.mark.parametrize("algo", ["dqn", "pqn-laptop"])
def test_each_environment_explores_with_its_own_epsilon(algo):
    replay = {} if algo == "pqn-laptop" else {"learning_starts": 50, "buffer_size": 100}
    settings = {
        "n_envs": 4, "n_timesteps": 1_000, "exploration_final_eps": 0.9, "exploration_spread": 300,
        "network": "small", "device": "cpu", "seed": 1,
    }  # fmt: skip
    config = resolve(algo=algo, overrides=settings | replay).config
    algorithm = algorithm_of(config).from_config(config, num_actions=6)
    observation = np.random.default_rng(0).integers(0, 256, (4, 4, 84, 84), np.uint8)
    algorithm.steps = 400  # the fall is over: 0.9, 0.9 ** 101, 0.9 ** 201 and 0.9 ** 301
    best = algorithm.q_values(observation).argmax(axis=1)
    others = np.mean([algorithm.act(observation) != best for _ in range(60)], axis=0)
    assert 0.5 < others[0] < 0.95
    assert others[1:].tolist() == [0.0, 0.0, 0.0]
    assert algorithm.epsilon == pytest.approx(0.9 / 4, rel=1e-3)


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
