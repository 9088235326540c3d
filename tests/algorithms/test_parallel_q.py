"""PQN: returns against a slow loop and by hand, what a rollout notes, its update, exact resume."""

import itertools
import json

import numpy as np
import pytest
import torch
from support.network_makers import file_bytes

from dqn_zoo.algorithms.parallel_q import ParallelQ, Rollout, update
from dqn_zoo.envs.environments import EnvStep
from dqn_zoo.learning.value_learning import lambda_returns
from dqn_zoo.runs.checkpoint import newest_checkpoint
from dqn_zoo.settings.recipes import load_config, resolve
from dqn_zoo.system.signals import Stop
from dqn_zoo.training.invocation import TrainOptions
from dqn_zoo.training.preparation import complete, memory_bytes
from dqn_zoo.training.starting import resume, train
from dqn_zoo.training.trainer import Trainer

QUIET = TrainOptions(progress=False)
SMALL = {
    "n_timesteps": 240, "n_envs": 4, "rollout_steps": 6, "num_minibatches": 3, "network": "small",
    "log_interval": 40, "eval_freq": 0, "seed": 5, "num_threads": 1, "device": "cpu",
    "precision": "float32",
}  # fmt: skip


def config_of(env="Breakout", **changes):
    return complete(resolve(env=env, algo="pqn-laptop", overrides=SMALL | changes).config)


# --- Returns


def column(*values):
    return torch.tensor(values).unsqueeze(1)


def test_returns_by_hand():
    """One environment, lambda 0.5; its game is cut off at step 1 and over at step 3."""
    reward = column(1.0, 2.0, 4.0, 8.0, 16.0)
    discount = column(0.5, 0.5, 0.5, 0.0, 0.5)
    next_value = column(10.0, 20.0, 30.0, 40.0, 50.0)
    goes_on = column(True, False, True, False, False)
    # Backwards: 16 + 0.5 * 50, the end of the rollout; 8, the end of the game;
    # 4 + 0.5 (0.5 * 30 + 0.5 * 8); 2 + 0.5 * 20, cut off; 1 + 0.5 (0.5 * 10 + 0.5 * 12).
    expected = [6.5, 12.0, 13.5, 8.0, 41.0]
    returns = lambda_returns(reward, discount, next_value, goes_on, 0.5)
    assert returns.flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize("decay", [0.0, 0.65, 1.0])
def test_returns_equal_a_slow_loop(decay):
    generator = np.random.default_rng(3)
    steps, num_envs = 9, 5
    reward, next_value = generator.normal(size=(2, steps, num_envs))
    over, cut = generator.random((2, steps, num_envs)) < 0.25
    discount = np.where(over, 0.0, 0.9)
    goes_on = ~(over | cut)
    goes_on[-1] = False

    def slow(step: int, env: int) -> float:
        worth = next_value[step, env]
        if goes_on[step, env]:
            worth = (1 - decay) * worth + decay * slow(step + 1, env)
        return reward[step, env] + discount[step, env] * worth

    expected = [[slow(step, env) for env in range(num_envs)] for step in range(steps)]
    tensors = (torch.from_numpy(each) for each in (reward, discount, next_value, goes_on))
    np.testing.assert_allclose(lambda_returns(*tensors, decay).numpy(), expected)


# --- What a rollout notes


def step_of(observation, following=None, **flags):
    none = np.zeros(2, np.bool_)
    fields = {"terminated": none, "truncated": none, "life_lost": none, "restarted": none}
    fields |= {name: np.array(flag) for name, flag in flags.items() if name in fields}
    return EnvStep(
        observation=observation,
        next_observation=observation if following is None else following,
        action=np.array([1, 0]),
        reward=np.array([5.0, -3.0], np.float32),
        **fields,
    )


def frames(number):
    return np.random.default_rng(number).integers(0, 256, (2, 4, 84, 84), dtype=np.uint8)


def best(algorithm, observation):
    return torch.from_numpy(algorithm.q_values(observation).max(axis=1))


@pytest.fixture
def algorithm():
    config = config_of(n_envs=2, rollout_steps=4, num_minibatches=2)
    algorithm = ParallelQ.from_config(config, num_actions=4)
    algorithm.start(frames(0))
    algorithm.act(frames(0))
    return algorithm


def test_a_step_leads_to_the_values_of_what_is_acted_on_next(algorithm):
    algorithm.observe(step_of(frames(50)))
    algorithm.act(frames(50))
    rollout = algorithm.rollout
    assert torch.equal(rollout.next_value[0], best(algorithm, frames(50)))
    assert not torch.equal(rollout.next_value[0], best(algorithm, frames(0)))
    assert rollout.reward[0].tolist() == [1.0, -1.0]
    assert rollout.action[0].tolist() == [1, 0]
    assert rollout.discount[0].tolist() == pytest.approx([0.99, 0.99])
    assert np.array_equal(rollout.observation[0], frames(0))
    assert np.array_equal(rollout.observation[1], frames(50))


def test_a_truncation_bootstraps_from_its_true_last_frame_and_a_lost_life_does_not(algorithm):
    step = step_of(
        frames(50), frames(200), truncated=[True, False], restarted=[True, False],
        life_lost=[False, True],
    )  # fmt: skip
    algorithm.observe(step)
    algorithm.act(frames(50))
    rollout = algorithm.rollout
    assert rollout.discount[0].tolist() == pytest.approx([0.99, 0.0])
    assert rollout.goes_on[0].tolist() == [False, True]
    true_last, next_game = best(algorithm, frames(200))[0], best(algorithm, frames(50))[0]
    torch.testing.assert_close(rollout.next_value[0, 0], true_last)
    assert abs(true_last - next_game) > 1e-3


def test_a_game_that_is_over_is_not_valued(algorithm):
    algorithm.observe(step_of(frames(50), terminated=[True, False], restarted=[True, False]))
    assert algorithm.rollout.discount[0].tolist() == pytest.approx([0.0, 0.99])
    assert algorithm.rollout.goes_on[0].tolist() == [False, True]


def test_the_last_step_of_a_rollout_is_valued_before_the_weights_move(algorithm):
    for number in range(4):
        algorithm.learn()
        algorithm.observe(step_of(frames(10 * number)))
        if number < 3:
            algorithm.act(frames(10 * number))
    assert algorithm.rollout.is_full
    assert torch.equal(algorithm.rollout.next_value[3], best(algorithm, frames(30)))
    assert algorithm.updates == 0
    algorithm.act(frames(30))
    algorithm.learn()
    assert (algorithm.updates, algorithm.rollout.length) == (4, 0)
    assert np.array_equal(algorithm.rollout.observation[0], frames(30))


def test_an_update_moves_the_values_to_the_returns():
    algorithm = ParallelQ.from_config(config_of(), num_actions=4)
    generator = np.random.default_rng(0)
    observation = generator.integers(0, 256, (8, 4, 84, 84), dtype=np.uint8)
    action, returns = torch.arange(8) % 4, torch.linspace(-1.0, 1.0, 8)
    for _ in range(30):
        update(algorithm.online, torch.from_numpy(observation), action, returns, 3e-3)
    values = torch.from_numpy(algorithm.q_values(observation))[torch.arange(8), action]
    assert (values - returns).abs().max() < 0.1


def test_the_loss_is_half_the_squared_error():
    algorithm = ParallelQ.from_config(config_of(), num_actions=4)
    observation = torch.zeros((2, 4, 84, 84), dtype=torch.uint8)
    before = torch.from_numpy(algorithm.q_values(observation.numpy()))[:, 1]
    update(algorithm.online, observation, torch.tensor([1, 1]), before + 3.0, 1e-9)
    metrics = algorithm.take_metrics()
    assert metrics["loss"] == pytest.approx(4.5, rel=1e-4)
    assert metrics["q_mean"] == pytest.approx(before.mean().item(), rel=1e-4)


# --- Whole runs


def test_the_updates_are_those_that_the_preview_promises(tmp_path):
    config = config_of(n_timesteps=250)
    outcome = train(config, log_folder=tmp_path, options=QUIET)
    assert outcome.steps == 252
    state = json.loads(newest_checkpoint(outcome.run.checkpoints)[0].read("state.json"))
    # 10 rollouts of 24 steps; the updates of the tenth came with the next step.
    assert state["counters"]["updates"] == 10 * 2 * 3 == ParallelQ.updates_owed(config, 250)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run whose games are cut off in every rollout."""
    config = config_of(max_frames=150, eval_freq=240, eval_episodes=1)
    return train(config, log_folder=tmp_path_factory.mktemp("whole"), options=QUIET).run


# With a full rollout, in the middle of one, and in the evaluation at the end.
@pytest.mark.parametrize("stopped_at", [96, 116, 240])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, monkeypatch, whole, stopped_at):
    config = load_config(whole.config_file)
    asked = itertools.count(1)  # once per vector step of 4
    with monkeypatch.context() as patch:
        stops = stopped_at // 4
        patch.setattr(Stop, "reason", lambda stop: "SIGTERM" if next(asked) > stops else None)
        halves = train(config, log_folder=tmp_path, options=QUIET)
    assert (halves.steps, halves.reason) == (stopped_at, "SIGTERM")
    assert resume(halves.run, config, options=QUIET).steps == 240
    assert halves.run.model_file.read_bytes() == whole.model_file.read_bytes()


def test_a_rollout_survives_the_way_to_a_checkpoint_and_back():
    rollout, other = Rollout(3, 2, 4), Rollout(3, 2, 4)
    rollout.length = 2
    for number, name in enumerate(Rollout.COLUMNS):
        column = getattr(rollout, name)[:2]
        column.copy_((torch.arange(column.numel()) % 3 * (number + 1)).view(column.shape))
    other.restore({name: column.clone() for name, column in rollout.columns().items()})
    assert other.length == 2
    for name in Rollout.COLUMNS:
        assert torch.equal(getattr(other, name), getattr(rollout, name)), name
        assert getattr(rollout, name)[:2].any(), name


def test_given_weights_are_those_of_the_network(tmp_path):
    trainer = Trainer(config_of())
    other = Trainer(config_of(seed=6))
    trainer.take_weights(other.algorithm.network.state_dict(), other.envs.num_actions)
    assert file_bytes(trainer.algorithm.network) == file_bytes(other.algorithm.network)
    trainer.close()
    other.close()


def test_the_published_recipe_needs_a_gigabyte_its_rollout_included():
    config = complete(resolve(env="Pong", algo="pqn").config)
    assert ParallelQ.memory_bytes(config) == pytest.approx(115.7e6, rel=0.01)
    assert memory_bytes(config) == pytest.approx(1.08e9, rel=0.01)
    assert (config.n_envs, config.rollout_steps, config.td_lambda) == (128, 32, 0.65)
