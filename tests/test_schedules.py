"""Schedules and epsilon-greedy."""

import numpy as np
import pytest

from dqn_zoo.algorithms.choice import algorithm_of
from dqn_zoo.schedules import (
    LONGEST,
    EpsilonSchedule,
    Explorer,
    LinearSchedule,
    durations,
    epsilon_greedy,
    mean_duration,
    num_lasting,
    spread_epsilons,
)
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


# --- Random actions that are kept up

NEVER, ALWAYS = np.zeros(1), np.ones(1)


def values(num_envs: int, num_actions: int) -> np.ndarray:
    """Return values whose best action is the last."""
    return np.tile(np.arange(num_actions, dtype=np.float32), (num_envs, 1))


def test_durations_by_hand():
    chances = durations(2.0)
    assert chances[0] / chances[1] == pytest.approx(4.0)
    assert chances[0] / chances[9] == pytest.approx(100.0)
    assert chances[0] == pytest.approx(6 / np.pi**2, rel=1e-4)  # of all numbers without an end
    assert (len(chances), chances.sum()) == (LONGEST, pytest.approx(1.0))
    harmonic = sum(1 / n for n in range(1, LONGEST + 1))
    assert mean_duration(2.0) == pytest.approx(harmonic * chances[0])


def test_without_zeta_it_is_epsilon_greedy_to_the_bit():
    explorer, generator, twin = Explorer(8, 0.0), *(np.random.default_rng(1) for _ in range(2))
    for epsilon in np.linspace(0.0, 1.0, 20):
        chosen = explorer.choose(values(8, 6), np.array([epsilon]), generator)
        assert chosen.tolist() == epsilon_greedy(values(8, 6), epsilon, twin).tolist()
    assert generator.random() == twin.random()
    assert explorer.state() == []


def test_a_random_action_is_kept_up_for_as_long_as_was_drawn_and_then_the_best_is_chosen():
    num_envs, generator = 40_000, np.random.default_rng(2)
    explorer, q_values = Explorer(num_envs, 2.0), values(40_000, 1_000)
    first = explorer.choose(q_values, ALWAYS, generator)
    assert np.bincount(first // 100, minlength=10) / num_envs == pytest.approx([0.1] * 10, abs=0.01)
    lengths, lasts = np.ones(num_envs), np.ones(num_envs, bool)
    for _ in range(30):
        chosen = explorer.choose(q_values, NEVER, generator)
        lasts &= chosen == first
        assert (chosen[~lasts] == 999).all()  # the best, and no other random one
        lengths += lasts & (first != 999)
    shares = np.bincount(lengths[first != 999].astype(int))[1:6] / (first != 999).sum()
    assert shares == pytest.approx(durations(2.0)[:5], abs=0.01)


def test_where_none_is_kept_up_epsilon_is_the_chance_that_one_begins():
    explorer, generator = Explorer(3, 1.5), np.random.default_rng(3)
    epsilon, begins = np.array([0.0, 0.3, 1.0]), np.zeros(3)
    for _ in range(4_000):
        explorer.restore([[0, 0]] * 3)
        begins += explorer.choose(values(3, 1_000), epsilon, generator) != 999
    assert begins / 4_000 == pytest.approx([0.0, 0.3, 1.0], abs=0.03)


def test_no_random_action_begins_while_one_is_kept_up():
    explorer = Explorer(500, 2.0)
    explorer.restore([[1, 3]] * 500)
    for left in (2, 1, 0):
        chosen = explorer.choose(values(500, 6), ALWAYS, np.random.default_rng(6))
        assert (chosen == 1).all()
        assert explorer.state() == [[1, left]] * 500


def test_random_actions_last_in_a_share_of_the_environments_and_the_draws_are_the_same():
    all_of_them, some = Explorer(4_000, 2.0), Explorer(4_000, 2.0, 0.25)
    generator, twin = np.random.default_rng(7), np.random.default_rng(7)
    chosen = [each.choose(values(4_000, 6), ALWAYS, draws).tolist()
              for each, draws in ((all_of_them, generator), (some, twin))]  # fmt: skip
    assert chosen[0] == chosen[1]
    assert generator.random() == twin.random()
    assert some.state()[:1_000] == all_of_them.state()[:1_000]
    assert max(left for _, left in some.state()[:1_000]) > 5
    assert all(left == 0 for _, left in some.state()[1_000:])


@pytest.mark.parametrize(
    ("num_envs", "share", "expected"),
    [(8, 0.25, 2), (8, 0.26, 3), (1, 0.25, 1), (100, 0.07, 7), (8, 1.0, 8), (8, 0.0, 0)],
)
def test_a_share_of_environments_is_rounded_up(num_envs, share, expected):
    assert num_lasting(num_envs, share) == expected


def test_the_draws_do_not_depend_on_what_is_kept_up():
    free, busy = Explorer(3, 2.0), Explorer(3, 2.0)
    busy.restore([[1, 7], [2, 0], [0, 1]])
    generator, twin = np.random.default_rng(4), np.random.default_rng(4)
    free.choose(values(3, 4), NEVER, generator)
    assert busy.choose(values(3, 4), NEVER, twin).tolist() == [1, 3, 0]
    assert generator.random() == twin.random()
    assert busy.state() == [[1, 6], [2, 0], [0, 0]]


def test_what_is_kept_up_goes_on_after_a_restart():
    explorer, generator = Explorer(6, 1.1), np.random.default_rng(5)
    for _ in range(9):
        explorer.choose(values(6, 50), ALWAYS, generator)
    state = explorer.state()
    assert max(left for _, left in state) > 0
    other = Explorer(6, 1.1)
    other.restore(state)
    assert other.choose(values(6, 50), NEVER, np.random.default_rng(0)).tolist() == (
        explorer.choose(values(6, 50), NEVER, np.random.default_rng(0)).tolist()
    )
    plain = Explorer(6, 0.0)  # a run that goes on without
    plain.restore(state)
    assert plain.choose(values(6, 50), NEVER, generator).tolist() == [49] * 6


@pytest.mark.parametrize("algo", ["dqn", "pqn-laptop"])
def test_both_algorithms_keep_random_actions_up(algo):
    replay = {} if algo == "pqn-laptop" else {"learning_starts": 50, "buffer_size": 100}
    settings = {
        "n_envs": 4, "exploration_fraction": 0.0, "exploration_final_eps": 0.0,
        "exploration_initial_eps": 0.0, "exploration_zeta": 2.0, "network": "small",
        "device": "cpu", "seed": 1,
    }  # fmt: skip
    config = resolve(algo=algo, overrides=settings | replay).config
    algorithm = algorithm_of(config).from_config(config, num_actions=6)
    observation = np.random.default_rng(0).integers(0, 256, (4, 4, 84, 84), np.uint8)
    algorithm.steps = 400
    best = algorithm.q_values(observation).argmax(axis=1)
    others = (best + 1) % 6
    kept_up = [[int(other), 2] for other in others]
    algorithm._exploration.restore(algorithm.state() | {"kept_up": kept_up})
    assert algorithm.state()["kept_up"] == kept_up
    chosen = [algorithm.act(observation).tolist() for _ in range(3)]
    assert chosen == [others.tolist(), others.tolist(), best.tolist()]
