"""Bootstraps and losses: small frozen dataclasses that wire networks to `value_learning`.

A bootstrap says what the next observation is worth; a loss says what of that worth is learned, how
an error counts, and which head it needs. Any loss takes any bootstrap, but for C51 and soft. Both
are one file, because adding or reading one takes the other.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol, Self, TypeVar

import torch
from torch import Tensor

from dqn_zoo.learning import distributions, value_learning
from dqn_zoo.networks.heads import (
    CategoricalHead,
    Head,
    ImplicitQuantileHead,
    QuantileHead,
    ScalarHead,
)
from dqn_zoo.networks.network import NetworkSettings, QNetwork
from dqn_zoo.replay.memory import Batch
from dqn_zoo.settings.config import Config

# --- Bootstraps: what the next observation is worth


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


# --- Losses


class Minibatch(NamedTuple):
    """What an update learns from, on the learner's device.

    Attributes:
        observation: uint8 [batch, stack, 84, 84].
        action: int64 [batch].
        weight: float32 [batch], importance of each row in the loss.
        targets: float32 [batch, ...], what a loss made of the rest of a `Batch`.
    """

    observation: Tensor
    action: Tensor
    weight: Tensor
    targets: Tensor


class LossOutput(NamedTuple):
    """What a loss says about a batch.

    Attributes:
        per_example: float32 [batch], neither weighted nor reduced; carries the gradient.
        priority: float32 [batch], detached and >= 0: how surprising each row was.
        q_mean: float32, detached: mean value of the actions taken, for the log.
    """

    per_example: Tensor
    priority: Tensor
    q_mean: Tensor


Uniform = Callable[[int, int], Tensor]
"""Gives float32 [rows, columns] on the learner's device, uniform in [0, 1)."""


class Loss(Protocol):
    """Anything that judges a batch with the online and the target network."""

    head: ClassVar[type[Head]]  # what the networks have to end in

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Build the loss of a run with its bootstrap."""
        ...

    def targets(
        self,
        online: QNetwork,
        target: QNetwork,
        batch: Batch,
        next_features: Tensor,
        uniform: Uniform,
    ) -> Tensor:
        """Return what the online network is to learn, of every row: float32 [batch, ...].

        Args:
            online: may choose the next action.
            target: its older copy.
            batch: transitions.
            next_features: float [batch, feature_size], what the target network's torso makes of
                `batch.next_observation`; several minibatches may have shared that pass.
            uniform: whatever is random comes from it.
        """
        ...

    def __call__(self, online: QNetwork, minibatch: Minibatch, uniform: Uniform) -> LossOutput:
        """Compare every row with its targets; the gradient goes to the online network."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TDLoss:
    """Q-learning on the temporal-difference error.

    Attributes:
        bootstrap: values the next observation.
        penalty: of an error.
    """

    head: ClassVar[type[Head]] = ScalarHead

    bootstrap: Bootstrap
    penalty: Callable[[Tensor], Tensor]

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Build the loss of a run with its bootstrap."""
        return cls(bootstrap=build_bootstrap(config), penalty=PENALTIES[config.loss])

    def targets(
        self,
        online: QNetwork,
        target: QNetwork,
        batch: Batch,
        next_features: Tensor,
        uniform: Uniform,
    ) -> Tensor:
        """Return the TD target of every row: float32 [batch]."""
        next_q = target.head.q_values(next_features)
        backup = self.bootstrap(next_q, online, target, batch)
        next_value = value_learning.expectation(backup.policy, next_q) + backup.bonus
        return value_learning.td_target(backup.reward, batch.discount, next_value)

    def __call__(self, online: QNetwork, minibatch: Minibatch, uniform: Uniform) -> LossOutput:
        """Return the penalised TD error of every row; priorities are absolute errors."""
        q_values = online.q_values(minibatch.observation)
        q_selected = value_learning.select(q_values, minibatch.action)
        error = value_learning.td_error(q_selected, minibatch.targets)
        return LossOutput(
            per_example=self.penalty(error),
            priority=error.detach().abs(),
            q_mean=q_selected.detach().mean(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoricalLoss:
    """C51: the probabilities of fixed returns (Bellemare et al., 2017).

    Attributes:
        bootstrap: values the next observation; greedy or double, since a softmax policy's entropy
            has no counterpart in the paper.
    """

    head: ClassVar[type[Head]] = CategoricalHead

    bootstrap: Bootstrap

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Build the loss of a run with its bootstrap."""
        return cls(bootstrap=build_bootstrap(config))

    def targets(
        self,
        online: QNetwork,
        target: QNetwork,
        batch: Batch,
        next_features: Tensor,
        uniform: Uniform,
    ) -> Tensor:
        """Return the probabilities that each row is to have: float32 [batch, num_atoms]."""
        head = _head(target, CategoricalHead)
        next_log = head.log_probabilities(next_features)
        backup = self.bootstrap(head.mean(next_log), online, target, batch)
        next_probabilities = value_learning.expectation(backup.policy, next_log.exp())
        support = head.support.expand(len(batch.action), -1)
        atoms = value_learning.td_target(backup.reward, batch.discount, support)
        return distributions.categorical_projection(atoms, next_probabilities, head.support)

    def __call__(self, online: QNetwork, minibatch: Minibatch, uniform: Uniform) -> LossOutput:
        """Return the cross-entropy of every row.

        Priorities are KL divergences (Hessel et al., 2018, "Prioritized replay"): the
        cross-entropy itself would stay high where the outcome is random but well predicted.
        """
        head, targets = _head(online, CategoricalHead), minibatch.targets
        log_probabilities = value_learning.select(
            head.log_probabilities(online.features(minibatch.observation)), minibatch.action
        )
        detached = log_probabilities.detach()
        return LossOutput(
            per_example=distributions.cross_entropy(targets, log_probabilities),
            priority=distributions.kl_divergence(targets, detached).clamp(min=0.0),
            q_mean=head.mean(detached).mean(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileLoss:
    """QR-DQN: quantiles at equally spaced fractions (Dabney et al., 2018a).

    Attributes:
        bootstrap: values the next observation.
        kappa: of the Huber loss.
    """

    head: ClassVar[type[Head]] = QuantileHead

    bootstrap: Bootstrap
    kappa: float

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Build the loss of a run with its bootstrap."""
        return cls(bootstrap=build_bootstrap(config), kappa=config.huber_kappa)

    def targets(
        self,
        online: QNetwork,
        target: QNetwork,
        batch: Batch,
        next_features: Tensor,
        uniform: Uniform,
    ) -> Tensor:
        """Return the quantiles that each row is to have: float32 [batch, num_quantiles]."""
        next_quantiles = _head(target, QuantileHead).quantiles(next_features)
        backup = self.bootstrap(next_quantiles.mean(dim=-1), online, target, batch)
        return _quantile_targets(backup, batch, next_quantiles)

    def __call__(self, online: QNetwork, minibatch: Minibatch, uniform: Uniform) -> LossOutput:
        """Return the quantile Huber loss of every row, which is its priority, too."""
        head = _head(online, QuantileHead)
        quantiles = head.quantiles(online.features(minibatch.observation))
        return _quantile_output(quantiles, minibatch, head.fractions, self.kappa)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImplicitQuantileLoss:
    """IQN: quantiles at random fractions (Dabney et al., 2018b).

    Attributes:
        bootstrap: values the next observation.
        kappa: of the Huber loss.
        num_quantiles: fractions drawn for the prediction, N in the paper.
        num_target_quantiles: fractions drawn for the target, N' in the paper.
    """

    head: ClassVar[type[Head]] = ImplicitQuantileHead

    bootstrap: Bootstrap
    kappa: float
    num_quantiles: int
    num_target_quantiles: int

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Build the loss of a run with its bootstrap."""
        return cls(
            bootstrap=build_bootstrap(config),
            kappa=config.huber_kappa,
            num_quantiles=config.num_quantiles,
            num_target_quantiles=config.num_target_quantiles,
        )

    def targets(
        self,
        online: QNetwork,
        target: QNetwork,
        batch: Batch,
        next_features: Tensor,
        uniform: Uniform,
    ) -> Tensor:
        """Return quantiles that each row is to have: float32 [batch, num_target_quantiles]."""
        head = _head(target, ImplicitQuantileHead)
        backup = self.bootstrap(head.q_values(next_features), online, target, batch)
        fractions = uniform(len(batch.action), self.num_target_quantiles)
        return _quantile_targets(backup, batch, head.quantiles(next_features, fractions))

    def __call__(self, online: QNetwork, minibatch: Minibatch, uniform: Uniform) -> LossOutput:
        """Return the quantile Huber loss of every row, which is its priority, too."""
        head = _head(online, ImplicitQuantileHead)
        fractions = uniform(len(minibatch.action), self.num_quantiles)
        quantiles = head.quantiles(online.features(minibatch.observation), fractions)
        return _quantile_output(quantiles, minibatch, fractions, self.kappa)


def _quantile_targets(backup: Backup, batch: Batch, next_quantiles: Tensor) -> Tensor:
    """Return float32 [batch, n] for next quantiles [batch, num_actions, n]."""
    next_value = value_learning.expectation(backup.policy, next_quantiles)
    return value_learning.td_target(
        backup.reward, batch.discount, next_value + backup.bonus.unsqueeze(1)
    )


def _quantile_output(
    quantiles: Tensor, minibatch: Minibatch, fractions: Tensor, kappa: float
) -> LossOutput:
    """Judge those of the actions taken, of quantiles [batch, num_actions, n]."""
    taken = value_learning.select(quantiles, minibatch.action)
    per_example = distributions.quantile_huber(taken, minibatch.targets, fractions, kappa)
    return LossOutput(per_example, per_example.detach(), taken.detach().mean())


HeadT = TypeVar("HeadT", bound=Head)


def _head(network: QNetwork, kind: type[HeadT]) -> HeadT:
    """Return the head, which was built for this loss."""
    head = network.head
    assert isinstance(head, kind), f"this loss needs a {kind.__name__}"
    return head


# --- From names to objects


def build_bootstrap(config: Config) -> Bootstrap:
    """Build the bootstrap of a run."""
    return BOOTSTRAPS[config.bootstrap](config)


def _soft(config: Config) -> Bootstrap:
    return SoftBootstrap(
        alpha=config.munchausen_alpha,
        temperature=config.munchausen_temperature,
        clip=config.munchausen_clip,
    )


def build_loss(config: Config) -> Loss:
    """Build the loss of a run with its bootstrap."""
    return LOSSES[config.loss].from_config(config)


def network_settings(config: Config) -> NetworkSettings:
    """Return the network of a run: what its settings describe, with the head of its loss."""
    return NetworkSettings.from_config(config, LOSSES[config.loss].head)


BOOTSTRAPS: dict[str, Callable[[Config], Bootstrap]] = {
    "greedy": lambda config: GreedyBootstrap(),
    "double": lambda config: DoubleBootstrap(),
    "soft": _soft,
}

PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {
    "huber": value_learning.huber,
    "squared": value_learning.squared,
}

LOSSES: dict[str, type[Loss]] = dict.fromkeys(PENALTIES, TDLoss) | {
    "c51": CategoricalLoss,
    "qrdqn": QuantileLoss,
    "iqn": ImplicitQuantileLoss,
}
