"""What a run hands from its settings and its steps to the parts that learn."""

import numpy as np
import pytest
import torch
from test_parallel_q import config_of as pqn_config
from test_parallel_q import frames, step_of
from test_targets_ahead import Game

from dqn_zoo.algorithms import parallel_q
from dqn_zoo.algorithms.algorithm import rate_schedule
from dqn_zoo.algorithms.parallel_q import ParallelQ
from dqn_zoo.algorithms.replay_plan import transition_rule
from dqn_zoo.learning.online_network import NOTHING, OptimizerSettings
from dqn_zoo.learning.value_learning import lambda_returns
from dqn_zoo.replay.samplers import build_sampler
from dqn_zoo.replay.transitions import TransitionRule
from dqn_zoo.settings.config import Config


def test_rate_beta_and_priorities_are_those_of_the_step():
    game = Game(replay="prioritized", learning_rate="lin_0.01")
    algorithm, rates, drawn = game.algorithm, [], []

    def step(minibatch, rate, beside=NOTHING):
        rates.append(rate)
        return torch.arange(1.0, 1 + len(minibatch.action))

    algorithm.learner.step = step
    draw = algorithm.replay.draw

    def noted(*arguments, step, num_batches):
        drawn.append((step, draw(*arguments, step=step, num_batches=num_batches)))
        return drawn[-1][1]

    algorithm.replay.draw = noted
    game.play(5)  # 8 of 400 steps at the last draw
    assert [at for at, _ in drawn] == [8]
    assert rates == pytest.approx([0.01 * (1 - 8 / 400)] * 2)
    rows = drawn[0][1].rows
    leaves = algorithm.replay.rows()["priority"][rows]
    config = game.config
    best = {int(r): max(1 + i % 3 for i, o in enumerate(rows) if o == r) for r in rows}
    expected = [(best[int(r)] + config.priority_floor) ** config.priority_exponent for r in rows]
    assert leaves.tolist() == pytest.approx(expected)


def test_a_sampler_is_built_of_the_settings():
    config = Config(
        replay="prioritized", buffer_size=3, n_timesteps=100, priority_exponent=0.5,
        priority_floor=1.0, priority_weight_initial=0.4, priority_weight_final=0.9,
    )  # fmt: skip
    sampler, rows = build_sampler(config, torch.device("cpu")), torch.arange(3)
    sampler.add(rows)
    sampler.update(rows, torch.tensor([0.0, 3.0, 24.0]))
    assert sampler.columns(3)["priority"].tolist() == pytest.approx([1.0, 2.0, 5.0])
    for step, beta in ((0, 0.4), (50, 0.65), (100, 0.9)):
        draw = sampler.draw(range(3), 64, np.random.default_rng(0), step=step)
        assert draw.weight[draw.rows == 2][0] == pytest.approx(5.0**-beta)


@pytest.mark.parametrize(("sigma", "differ"), [(None, False), (5.0, True)])
def test_a_noisy_network_explores_by_its_noise(sigma, differ):
    still = {"exploration_initial_eps": 0.0, "exploration_final_eps": 0.0, "learning_starts": 0}
    game = Game(noisy_sigma=sigma, **still)
    observation = game.stream.pixels(game.stream.stacks)
    chosen = {tuple(game.algorithm.act(observation)) for _ in range(20)}
    assert (len(chosen) > 1) is differ


def test_transitions_are_made_by_the_settings():
    own = Config(n_steps=3, gamma=0.9, clip_reward=False, protocol="machado")
    assert transition_rule(own) == TransitionRule(3, 0.9, False, False)
    assert transition_rule(Config(n_steps=1, gamma=0.5)) == TransitionRule(1, 0.5, True, True)


def test_given_weights_are_those_of_both_networks():
    game, other = Game(), Game(seed=4)
    game.algorithm.take_weights(other.weights)
    for network in (game.algorithm.network, game.algorithm.learner.target):
        for name, value in network.state_dict().items():
            assert torch.equal(value, other.weights[name])


def test_frames_that_are_not_those_of_the_memory_are_noticed():
    game = Game().play(3)
    seen = game.stream.pixels(game.stream.stacks)
    game.algorithm.check_restored(seen)
    seen[0, -1, 0, 0] ^= 1
    with pytest.raises(ValueError, match="did not arrive at the stored frames"):
        game.algorithm.check_restored(seen)


def test_the_rate_falls_to_zero_or_stays():
    assert rate_schedule(Config(learning_rate="lin_0.5", n_timesteps=10))(5) == 0.25
    assert rate_schedule(Config(learning_rate="lin_0.5", n_timesteps=10))(10) == 0.0
    assert rate_schedule(Config(learning_rate=0.5, n_timesteps=10))(9) == 0.5


def test_the_optimizer_and_the_precision_are_those_of_the_settings():
    config = Config(optimizer="rmsprop", optimizer_eps=0.5, max_grad_norm=None)
    assert OptimizerSettings.from_config(config) == ("rmsprop", 0.5, None)
    for precision in ("float32", "bfloat16"):
        is_half = precision == "bfloat16"
        assert Game(precision=precision).algorithm.learner.online.bfloat16 is is_half
        pqn = ParallelQ.from_config(pqn_config(precision=precision), num_actions=4)
        assert pqn.online.bfloat16 is is_half


# --- PQN


def test_every_row_of_a_rollout_learns_its_own_return_once_an_epoch(monkeypatch):
    config = pqn_config(
        n_envs=2, rollout_steps=4, num_minibatches=2, num_epochs=2, td_lambda=0.5,
        learning_rate="lin_0.01", clip_reward=False,
    )  # fmt: skip
    algorithm, learned = ParallelQ.from_config(config, num_actions=4), []
    monkeypatch.setattr(parallel_q, "update", lambda online, *minibatch: learned.append(minibatch))
    algorithm.start(frames(0))
    for number in range(4):
        algorithm.act(frames(10 * number))
        algorithm.learn()
        algorithm.observe(step_of(frames(10 * number + 10)))
    rollout, steps = algorithm.rollout, algorithm.steps
    goes_on = rollout.goes_on.clone()
    goes_on[-1] = False
    assert rollout.reward[0].tolist() == [5.0, -3.0]
    returns = lambda_returns(rollout.reward, rollout.discount, rollout.next_value, goes_on, 0.5)
    expected = {
        frames(10 * step)[env].tobytes(): (
            int(rollout.action[step, env]),
            float(returns[step, env]),
        )
        for step in range(4)
        for env in range(2)
    }
    algorithm.act(frames(40))
    algorithm.learn()
    assert [len(action) for _, action, _, _ in learned] == [4] * 4
    assert [rate for *_, rate in learned] == pytest.approx([0.01 * (1 - steps / 240)] * 4)
    orders = []
    for epoch in (learned[:2], learned[2:]):
        rows = [
            (one.numpy().tobytes(), (int(action), float(value)))
            for observation, actions, values, _ in epoch
            for one, action, value in zip(observation, actions, values, strict=True)
        ]
        assert dict(rows) == {key: (a, pytest.approx(v)) for key, (a, v) in expected.items()}
        orders.append([key for key, _ in rows])
    assert orders[0] != orders[1]
