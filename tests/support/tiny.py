"""Tiny networks on six pixels, random batches for them, and a chain whose values are known."""

import itertools
import math

import numpy as np
import torch
from torch import Tensor, nn

from dqn_zoo.learning.learner import Learner
from dqn_zoo.learning.losses import (
    BOOTSTRAPS,
    LOSSES,
    Loss,
    LossOutput,
    Minibatch,
    Uniform,
    network_settings,
)
from dqn_zoo.learning.online_network import OptimizerSettings
from dqn_zoo.networks.heads import build_head
from dqn_zoo.networks.network import QNetwork
from dqn_zoo.replay.memory import Batch
from dqn_zoo.settings.config import Config

# A softmax policy's entropy has no place in C51.
COMBINATIONS = sorted(set(itertools.product(LOSSES, BOOTSTRAPS)) - {("c51", "soft")})


def small_config(loss: str, bootstrap: str = "greedy", **changes) -> Config:
    """Return settings for a tiny network; every number is another, so that none is mistaken."""
    small = {
        "munchausen_alpha": 0.6, "munchausen_temperature": 0.5, "munchausen_clip": -0.8,
        "num_atoms": 7, "v_min": -2.0, "v_max": 3.0,
        "num_quantiles": 5, "num_target_quantiles": 4, "num_acting_quantiles": 8, "num_cosines": 6,
        "huber_kappa": 0.7,
    }  # fmt: skip
    return Config(loss=loss, bootstrap=bootstrap, **{**small, **changes})


def small_network(config: Config, seed: int = 0, gain: float = 3.0) -> QNetwork:
    """Return a network for six pixels; a gain makes its choice of three actions depend on them."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torso = nn.Sequential(nn.Flatten(), nn.Linear(6, 16), nn.ReLU())
        settings = network_settings(config).head
        head = build_head(settings, feature_size=16, hidden_size=16, num_actions=3)
    network = QNetwork(torso, head).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("weight"):
                parameter.mul_(gain)
    return network


def judge(
    loss: Loss, online: QNetwork, target: QNetwork, batch: Batch, uniform: Uniform
) -> LossOutput:
    """Apply a loss as a learner does: the next observations go through the target's torso first."""
    with torch.no_grad():
        next_features = target.features(batch.next_observation)
        targets = loss.targets(online, target, batch, next_features, uniform)
    return loss(online, Minibatch(batch.observation, batch.action, batch.weight, targets), uniform)


def random_batch(seed: int = 0, size: int = 12) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def pixels() -> Tensor:
        return torch.randint(0, 256, (size, 1, 2, 3), generator=generator, dtype=torch.uint8)

    return Batch(
        observation=pixels(),
        action=torch.randint(0, 3, (size,), generator=generator),
        reward=torch.randn(size, generator=generator) * 3,
        discount=torch.where(torch.arange(size) % 3 == 0, 0.0, 0.9),
        next_observation=pixels(),
        weight=torch.rand(size, generator=generator) + 0.5,
        rows=torch.arange(size),
    )


def lit_pixels(*states: int) -> Tensor:
    return (nn.functional.one_hot(torch.tensor(states), 6) * 255).to(torch.uint8).view(-1, 1, 2, 3)


# --- The chain: three states in a row; action 1 walks right, 0 and 2 stay; leaving the last pays 1.

STATE, ACTION = np.divmod(np.arange(9), 3)
FOLLOWING = np.minimum(np.where(ACTION == 1, STATE + 1, STATE), 2)
LEAVES = (ACTION == 1) & (STATE == 2)
CHAIN = Batch(
    observation=lit_pixels(*STATE.tolist()),
    action=torch.from_numpy(ACTION),
    reward=torch.from_numpy(LEAVES).float(),
    discount=torch.where(torch.from_numpy(LEAVES), 0.0, 0.9),
    next_observation=lit_pixels(*FOLLOWING.tolist()),
    weight=torch.ones(9),
    rows=torch.arange(9),
)
# Of walking 0.81, 0.9 and 1; of staying 0.9 times the value of the state.
HARD_VALUES = np.array([[0.729, 0.81, 0.729], [0.81, 0.9, 0.81], [0.9, 1.0, 0.9]])
CLOSE = 0.03  # solved; what is broken ends at least three times as far away


def chain_config(loss: str, bootstrap: str = "greedy") -> Config:
    return small_config(
        loss, bootstrap, num_atoms=61, v_min=-1.0, v_max=2.0, num_quantiles=8,
        munchausen_alpha=0.9, munchausen_temperature=0.1, munchausen_clip=-0.2,
    )  # fmt: skip


def soft_values(config: Config) -> np.ndarray:
    """Iterate equation 1 of Vieillard et al. (2020) on the chain to its fixed point."""
    q_values, temperature = np.zeros((3, 3)), config.munchausen_temperature
    for _ in range(500):
        exponentials = np.exp(q_values / temperature)
        policy = exponentials / exponentials.sum(axis=1, keepdims=True)
        state_values = (policy * (q_values - temperature * np.log(policy))).sum(axis=1)
        bonus = np.clip(temperature * np.log(policy[STATE, ACTION]), config.munchausen_clip, 0.0)
        rewards = LEAVES + config.munchausen_alpha * bonus
        q_values = (rewards + 0.9 * ~LEAVES * state_values[FOLLOWING]).reshape(3, 3)
    return q_values


def distance_after_learning(
    loss: Loss,
    config: Config,
    expected: np.ndarray,
    *,
    optimizer: str = "adam",
    frozen: QNetwork | None = None,
) -> float:
    """Learn on the chain and return how far the worst value is from the expected one."""
    learner = Learner(
        small_network(config, gain=1.0), loss, OptimizerSettings(optimizer, 1e-5, 10.0),
        seed=0, bfloat16=False,
    )  # fmt: skip
    if frozen is not None:
        learner.target.load_state_dict(frozen.state_dict())
    for update in range(300):
        learner.update(CHAIN, 1e-2 if update < 180 else 3e-3 if update < 240 else 1e-3)
        if frozen is None and update % 8 == 0:
            learner.sync_target()
    values = learner.online.q_values(lit_pixels(0, 1, 2).numpy())
    return float(np.abs(values - expected).max())


# --- Slow twins of two equations


def slow_projection(atoms, probabilities, support) -> list[float]:
    """Project one row as algorithm 1 of Bellemare et al. (2017) does, in Python numbers."""
    lowest, highest, last = support[0], support[-1], len(support) - 1
    spacing = (highest - lowest) / last
    projected = [0.0] * len(support)
    for atom, probability in zip(atoms, probabilities, strict=True):
        place = (min(max(atom, lowest), highest) - lowest) / spacing
        below, above = math.floor(place), min(math.ceil(place), last)
        if below >= above:  # on an atom: the two shares of the algorithm would both be 0
            projected[above] += probability
        else:
            projected[below] += probability * (above - place)
            projected[above] += probability * (place - below)
    return projected


def slow_quantile_huber(quantiles, targets, fractions, kappa):
    """Compute the loss of one row pair by pair, for numbers or for tensors with a gradient."""
    total = 0.0
    for quantile, fraction in zip(quantiles, fractions, strict=True):
        for target in targets:
            error = target - quantile
            if kappa == 0.0:
                size = abs(error)
            elif abs(error) <= kappa:
                size = 0.5 * error**2 / kappa
            else:
                size = abs(error) - 0.5 * kappa
            total = total + (fraction if error >= 0.0 else 1.0 - fraction) * size / len(targets)
    return total
