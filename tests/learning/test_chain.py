"""Every loss, bootstrap and recipe solves a small chain; deliberately broken ones do not."""

import dataclasses

import numpy as np
import pytest
import torch
from support.tiny import (
    CHAIN,
    CLOSE,
    COMBINATIONS,
    HARD_VALUES,
    LEAVES,
    chain_config,
    distance_after_learning,
    lit_pixels,
    small_network,
    soft_values,
)

from dqn_zoo.learning.learner import Learner
from dqn_zoo.learning.losses import Backup, Loss, build_loss
from dqn_zoo.learning.online_network import OptimizerSettings
from dqn_zoo.learning.value_learning import greedy_policy
from dqn_zoo.networks.network import QNetwork
from dqn_zoo.replay.memory import Batch
from dqn_zoo.replay.samplers import build_sampler
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.recipe_files import available_recipes
from dqn_zoo.settings.recipes import resolve


@pytest.mark.parametrize(("loss", "bootstrap"), COMBINATIONS)
def test_the_chain_is_solved_to_its_known_values(loss, bootstrap):
    config = chain_config(loss, bootstrap)
    expected = soft_values(config) if bootstrap == "soft" else HARD_VALUES
    assert distance_after_learning(build_loss(config), config, expected) < CLOSE


@pytest.mark.parametrize(("loss", "bootstrap"), [("huber", "double"), ("qrdqn", "greedy")])
def test_the_chain_is_solved_with_mean_expansion(loss, bootstrap):
    config = chain_config(loss, bootstrap).model_copy(update={"mean_expansion": True})
    assert distance_after_learning(build_loss(config), config, HARD_VALUES) < CLOSE


def recipe_on_the_chain(algo: str) -> Config:
    """Return a recipe with its loss, bootstrap, head and replay, and the numbers of the chain."""
    tiny = chain_config("huber").model_dump()
    numbers = ("num_atoms", "v_min", "v_max", "num_quantiles", "num_target_quantiles",
               "num_acting_quantiles", "num_cosines", "munchausen_alpha",
               "munchausen_temperature", "munchausen_clip")  # fmt: skip
    config = resolve(algo=algo).config
    changes = {"network": "small", "spectral_norm": False, "layer_norm": False, "buffer_size": 9}
    return config.model_copy(update={key: tiny[key] for key in numbers} | changes)


DECIDES = ("loss", "bootstrap", "dueling", "noisy_sigma", "mean_expansion", "huber_kappa", "replay",
           "priority_exponent", "priority_weight_initial", "priority_weight_final",
           "priority_floor")  # fmt: skip


def different_on_the_chain() -> list[str]:
    """Return the recipes with a replay memory of which no earlier one is the same here."""
    found: dict[tuple[object, ...], str] = {}
    for algo in sorted(available_recipes()):
        config = recipe_on_the_chain(algo)
        if config.algorithm == "replay":
            found.setdefault(tuple(getattr(config, key) for key in DECIDES), algo)
    return list(found.values())


@pytest.mark.parametrize("algo", different_on_the_chain())
def test_every_recipe_solves_the_chain_with_its_own_loss_head_and_replay(algo):
    """The chain's 9 transitions are the memory; weights, priorities and noise play their parts.

    Torso, learning rates and the numbers of chain_config are the test's; n is 1.
    """
    config = recipe_on_the_chain(algo)
    learner = Learner(
        small_network(config, gain=1.0), build_loss(config), OptimizerSettings("adam", 1e-5, 10.0),
        seed=0, bfloat16=False,
    )  # fmt: skip
    sampler = build_sampler(config, torch.device("cpu"))
    sampler.add(torch.arange(9))
    draws = np.random.default_rng(1)
    for update in range(300):
        rows, weight = sampler.draw(range(9), 18, draws, step=update * config.n_timesteps // 300)
        batch = Batch(*(field[rows] for field in CHAIN))._replace(weight=weight)
        rate = 1.5e-2 if update < 160 else 3e-3 if update < 250 else 6e-4
        sampler.update(rows, learner.update(batch, rate))
        if update % 4 == 0:
            learner.sync_target()
    expected = soft_values(config) if config.bootstrap == "soft" else HARD_VALUES
    values = learner.online.q_values(lit_pixels(0, 1, 2).numpy())
    assert np.abs(values - expected).max() < 2 * CLOSE


def test_the_chain_is_solved_with_rmsprop():
    config = chain_config("huber")
    loss = build_loss(config)
    assert distance_after_learning(loss, config, HARD_VALUES, optimizer="rmsprop") < CLOSE


def test_values_without_softness_bonus_or_clip_are_far_from_the_soft_ones():
    config = chain_config("huber", "soft")
    without_bonus = soft_values(config.model_copy(update={"munchausen_alpha": 0.0}))
    without_clip = soft_values(config.model_copy(update={"munchausen_clip": -9.0}))
    for values in (HARD_VALUES, without_bonus, without_clip):
        assert np.abs(soft_values(config) - values).max() > 3 * CLOSE


class Broken:
    """A loss that is given another batch or other networks than it should be."""

    def __init__(self, loss: Loss, damage: str) -> None:
        self.loss, self.damage = loss, damage

    def targets(self, online, target, batch, next_features, uniform):
        if self.damage == "no discount":
            batch = batch._replace(discount=(batch.discount > 0.0).float())
        elif self.damage == "no end":
            batch = batch._replace(discount=torch.full_like(batch.discount, 0.9))
        elif self.damage == "online for target":
            target, next_features = online, online.features(batch.next_observation)
        return self.loss.targets(online, target, batch, next_features, uniform)

    def __call__(self, online, minibatch, uniform):
        if self.damage == "other action":
            minibatch = minibatch._replace(action=(minibatch.action + 1) % 3)
        return self.loss(online, minibatch, uniform)


class WorstAction:
    """A bootstrap that takes the lowest value."""

    def __call__(self, next_q_target, online, target, batch):
        none = torch.zeros_like(batch.reward)
        return Backup(greedy_policy(-next_q_target), batch.reward, none)


@pytest.mark.parametrize(
    ("loss", "damage"),
    [
        ("huber", "no discount"),
        ("c51", "no discount"),
        ("iqn", "no discount"),
        ("qrdqn", "no end"),
        ("huber", "other action"),
    ],
)
def test_a_broken_loss_does_not_solve_the_chain(loss, damage):
    config = chain_config(loss)
    broken = Broken(build_loss(config), damage)
    assert distance_after_learning(broken, config, HARD_VALUES) > 3 * CLOSE


@pytest.mark.parametrize("loss", ["c51", "huber", "iqn", "qrdqn"])
def test_a_broken_bootstrap_does_not_solve_the_chain(loss):
    config = chain_config(loss)
    broken = dataclasses.replace(build_loss(config), bootstrap=WorstAction())
    assert distance_after_learning(broken, config, HARD_VALUES) > 3 * CLOSE


def decoy_network(config: Config) -> QNetwork:
    """Return a network whose actions are worth 0.4, -0.2 and 1.3 in every state, for certain."""
    network = small_network(config)
    values = torch.tensor([[0.4], [-0.2], [1.3]])
    output = network.head.layers.stream.output
    outputs = values.expand(3, len(output.bias) // 3)
    if config.loss == "c51":
        outputs = -1e4 * (network.head.support - values).square()
    with torch.no_grad():
        output.weight.zero_()
        output.bias.copy_(outputs.flatten())
    return network


@pytest.mark.parametrize("loss", ["c51", "huber", "iqn"])
def test_the_next_values_are_those_of_a_frozen_target_network(loss):
    config, reward_only = chain_config(loss), LEAVES.reshape(3, 3)
    decoy = decoy_network(config)
    one_backup = reward_only + 0.9 * ~reward_only * 1.3
    right, broken = build_loss(config), Broken(build_loss(config), "online for target")
    # 1.17 everywhere but for one 1, which these small networks learn last.
    assert distance_after_learning(right, config, one_backup, frozen=decoy) < 0.1
    assert distance_after_learning(broken, config, one_backup, frozen=decoy) > 0.3
