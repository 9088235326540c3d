"""Bootstraps: what the next observation is worth, as small frozen dataclasses."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dqn_zoo.learning import value_learning
from dqn_zoo.networks.network import QNetwork
from dqn_zoo.replay.memory import Batch
from dqn_zoo.settings.config import Config


class Backup(NamedTuple):
    """How next values become targets: reward + discount * (sum_a policy(a) value(a) + bonus).

    Attributes:
        policy: float32 [batch, num_actions], over the next actions.
        reward: float32 [batch], that of the batch and what the bootstrap adds to it.
        bonus: float32 [batch], what it adds to the next value.
    """

    policy: Tensor
    reward: Tensor
    bonus: Tensor


class Bootstrap(Protocol):
    """Anything that says how the next observation is valued."""

    def __call__(
        self, next_q_target: Tensor, online: QNetwork, target: QNetwork, batch: Batch
    ) -> Backup:
        """Return the backup.

        Args:
            next_q_target: float32 [batch, num_actions], target network on the next observation.
            online: network that learns.
            target: its older copy.
            batch: transitions.
        """
        ...


@dataclass(frozen=True, slots=True)
class GreedyBootstrap:
    """The target network's best action (DQN)."""

    def __call__(
        self, next_q_target: Tensor, online: QNetwork, target: QNetwork, batch: Batch
    ) -> Backup:
        """Return the backup of `value_learning.greedy_policy`."""
        policy = value_learning.greedy_policy(next_q_target)
        return Backup(policy, batch.reward, torch.zeros_like(batch.reward))


@dataclass(frozen=True, slots=True)
class DoubleBootstrap:
    """The online network's best action, valued by the target network (Double DQN)."""

    def __call__(
        self, next_q_target: Tensor, online: QNetwork, target: QNetwork, batch: Batch
    ) -> Backup:
        """Return the backup of `value_learning.greedy_policy` of the online network."""
        policy = value_learning.greedy_policy(online.q_values(batch.next_observation))
        return Backup(policy, batch.reward, torch.zeros_like(batch.reward))


@dataclass(frozen=True, slots=True, kw_only=True)
class SoftBootstrap:
    """A softmax policy with its entropy, and Munchausen's bonus for the action taken.

    Vieillard et al. (2020), equation 1, https://arxiv.org/abs/2007.14430: both policies are those
    of the target network, as in the paper; the code of Clark et al. (2024) takes the online one's
    for the bonus. With n steps the bonus is that of the first action alone.

    Attributes:
        alpha: share of the bonus; 0 leaves soft DQN.
        temperature: of the softmax.
        clip: lowest value of temperature * log policy in the bonus.
    """

    alpha: float
    temperature: float
    clip: float

    def __call__(
        self, next_q_target: Tensor, online: QNetwork, target: QNetwork, batch: Batch
    ) -> Backup:
        """Return the backup of the softmax policy."""
        next_log_policy = value_learning.log_softmax_policy(next_q_target, self.temperature)
        log_policy = value_learning.log_softmax_policy(
            target.q_values(batch.observation), self.temperature
        )
        munchausen = value_learning.munchausen_bonus(
            log_policy,
            batch.action,
            alpha=self.alpha,
            temperature=self.temperature,
            clip=self.clip,
        )
        return Backup(
            policy=next_log_policy.exp(),
            reward=batch.reward + munchausen,
            bonus=self.temperature * value_learning.entropy(next_log_policy),
        )


def build_bootstrap(config: Config) -> Bootstrap:
    """Build the bootstrap of a run."""
    return BOOTSTRAPS[config.bootstrap](config)


def _soft(config: Config) -> Bootstrap:
    return SoftBootstrap(
        alpha=config.munchausen_alpha,
        temperature=config.munchausen_temperature,
        clip=config.munchausen_clip,
    )


BOOTSTRAPS: dict[str, Callable[[Config], Bootstrap]] = {
    "greedy": lambda config: GreedyBootstrap(),
    "double": lambda config: DoubleBootstrap(),
    "soft": _soft,
}
