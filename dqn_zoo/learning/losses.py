"""Losses: small frozen dataclasses that wire networks to the equations of `value_learning`.

The bootstrap (`bootstraps.py`) says what the next observation is worth; a loss says what of that
worth is learned and how an error counts. Any loss takes any bootstrap, but for C51 and soft.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from dqn_zoo.learning import value_learning
from dqn_zoo.learning.bootstraps import Backup, Bootstrap, build_bootstrap
from dqn_zoo.networks.heads import CategoricalHead, ImplicitQuantileHead, QuantileHead
from dqn_zoo.networks.network import QNetwork
from dqn_zoo.replay.memory import Batch
from dqn_zoo.settings.config import Config


class LossOutput(NamedTuple):
    """What a loss says about a batch.

    Attributes:
        per_example: float32 [batch], neither weighted nor reduced; carries the gradient.
        priority: float32 [batch], detached and >= 0: how surprising each row was.
        metrics: scalars for the log, detached.
    """

    per_example: Tensor
    priority: Tensor
    metrics: dict[str, Tensor]


class Uniform(Protocol):
    """A source of random numbers, on the learner's device."""

    def __call__(self, rows: int, columns: int) -> Tensor:
        """Return float32 [rows, columns], uniform in [0, 1)."""
        ...


class Loss(Protocol):
    """Anything that judges a batch with the online and the target network."""

    def __call__(
        self, online: QNetwork, target: QNetwork, batch: Batch, uniform: Uniform
    ) -> LossOutput:
        """Return the loss of every row of `batch`; what is random comes from `uniform`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TDLoss:
    """Q-learning on the temporal-difference error.

    Attributes:
        bootstrap: values the next observation.
        penalty: of an error.
    """

    bootstrap: Bootstrap
    penalty: Callable[[Tensor], Tensor]

    def __call__(
        self, online: QNetwork, target: QNetwork, batch: Batch, uniform: Uniform
    ) -> LossOutput:
        """Return the penalised TD error of every row; priorities are absolute errors."""
        with torch.no_grad():
            next_q = target.q_values(batch.next_observation)
            backup = self.bootstrap(next_q, online, target, batch)
            next_value = value_learning.expectation(backup.policy, next_q) + backup.bonus
            td_target = value_learning.td_target(backup.reward, batch.discount, next_value)
        q_selected = value_learning.select(online.q_values(batch.observation), batch.action)
        error = value_learning.td_error(q_selected, td_target)
        return LossOutput(
            per_example=self.penalty(error),
            priority=error.detach().abs(),
            metrics={"q_mean": q_selected.detach().mean()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoricalLoss:
    """C51: the probabilities of fixed returns (Bellemare et al., 2017).

    Attributes:
        bootstrap: values the next observation; greedy or double, since a softmax policy's entropy
            has no counterpart in the paper.
    """

    bootstrap: Bootstrap

    def __call__(
        self, online: QNetwork, target: QNetwork, batch: Batch, uniform: Uniform
    ) -> LossOutput:
        """Return the cross-entropy of every row.

        Priorities are KL divergences (Hessel et al., 2018, "Prioritized replay"): the
        cross-entropy itself would stay high where the outcome is random but well predicted.
        """
        online_head = _head(online, CategoricalHead)
        target_head = _head(target, CategoricalHead)
        with torch.no_grad():
            next_log = target_head.log_probabilities(target.features(batch.next_observation))
            next_q = target_head.mean(next_log)
            backup = self.bootstrap(next_q, online, target, batch)
            next_probabilities = value_learning.expectation(backup.policy, next_log.exp())
            support = target_head.support.expand(len(batch.action), -1)
            atoms = value_learning.td_target(backup.reward, batch.discount, support)
            projected = value_learning.categorical_projection(
                atoms, next_probabilities, target_head.support
            )
        log_probabilities = value_learning.select(
            online_head.log_probabilities(online.features(batch.observation)), batch.action
        )
        detached = log_probabilities.detach()
        return LossOutput(
            per_example=value_learning.cross_entropy(projected, log_probabilities),
            priority=value_learning.kl_divergence(projected, detached).clamp(min=0.0),
            metrics={"q_mean": online_head.mean(detached).mean()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantileLoss:
    """QR-DQN: quantiles at equally spaced fractions (Dabney et al., 2018a).

    Attributes:
        bootstrap: values the next observation.
        kappa: of the Huber loss.
    """

    bootstrap: Bootstrap
    kappa: float

    def __call__(
        self, online: QNetwork, target: QNetwork, batch: Batch, uniform: Uniform
    ) -> LossOutput:
        """Return the quantile Huber loss of every row, which is its priority, too."""
        with torch.no_grad():
            next_quantiles = _head(target, QuantileHead).quantiles(
                target.features(batch.next_observation)
            )
            backup = self.bootstrap(next_quantiles.mean(dim=-1), online, target, batch)
            targets = _quantile_targets(backup, batch, next_quantiles)
        head = _head(online, QuantileHead)
        quantiles = value_learning.select(
            head.quantiles(online.features(batch.observation)), batch.action
        )
        return _quantile_output(quantiles, targets, head.fractions, self.kappa)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImplicitQuantileLoss:
    """IQN: quantiles at random fractions (Dabney et al., 2018b).

    Attributes:
        bootstrap: values the next observation.
        kappa: of the Huber loss.
        num_quantiles: fractions drawn for the prediction, N in the paper.
        num_target_quantiles: fractions drawn for the target, N' in the paper.
    """

    bootstrap: Bootstrap
    kappa: float
    num_quantiles: int
    num_target_quantiles: int

    def __call__(
        self, online: QNetwork, target: QNetwork, batch: Batch, uniform: Uniform
    ) -> LossOutput:
        """Return the quantile Huber loss of every row, which is its priority, too."""
        batch_size = len(batch.action)
        online_head = _head(online, ImplicitQuantileHead)
        target_head = _head(target, ImplicitQuantileHead)
        with torch.no_grad():
            next_features = target.features(batch.next_observation)
            backup = self.bootstrap(target_head.q_values(next_features), online, target, batch)
            next_quantiles = target_head.quantiles(
                next_features, uniform(batch_size, self.num_target_quantiles)
            )
            targets = _quantile_targets(backup, batch, next_quantiles)
        fractions = uniform(batch_size, self.num_quantiles)
        quantiles = value_learning.select(
            online_head.quantiles(online.features(batch.observation), fractions), batch.action
        )
        return _quantile_output(quantiles, targets, fractions, self.kappa)


def _quantile_targets(backup: Backup, batch: Batch, next_quantiles: Tensor) -> Tensor:
    """Return float32 [batch, n] for next quantiles [batch, num_actions, n]."""
    next_value = value_learning.expectation(backup.policy, next_quantiles)
    return value_learning.td_target(
        backup.reward, batch.discount, next_value + backup.bonus.unsqueeze(1)
    )


def _quantile_output(
    quantiles: Tensor, targets: Tensor, fractions: Tensor, kappa: float
) -> LossOutput:
    per_example = value_learning.quantile_huber(quantiles, targets, fractions, kappa)
    return LossOutput(
        per_example=per_example,
        priority=per_example.detach(),
        metrics={"q_mean": quantiles.detach().mean()},
    )


HeadT = TypeVar("HeadT", bound=nn.Module)


def _head(network: QNetwork, kind: type[HeadT]) -> HeadT:
    """Return the head, which `build_loss` and `build_network` made for each other."""
    head = network.head
    assert isinstance(head, kind), f"this loss needs a {kind.__name__}"
    return head


# --- From names to objects


def build_loss(config: Config) -> Loss:
    """Build the loss of a run with its bootstrap."""
    return LOSSES[config.loss](config, build_bootstrap(config))


def _implicit_quantiles(config: Config, bootstrap: Bootstrap) -> Loss:
    return ImplicitQuantileLoss(
        bootstrap=bootstrap,
        kappa=config.huber_kappa,
        num_quantiles=config.num_quantiles,
        num_target_quantiles=config.num_target_quantiles,
    )


LOSSES: dict[str, Callable[[Config, Bootstrap], Loss]] = {
    "huber": lambda config, bootstrap: TDLoss(bootstrap=bootstrap, penalty=value_learning.huber),
    "squared": lambda config, bootstrap: TDLoss(
        bootstrap=bootstrap, penalty=value_learning.squared
    ),
    "c51": lambda config, bootstrap: CategoricalLoss(bootstrap=bootstrap),
    "qrdqn": lambda config, bootstrap: QuantileLoss(bootstrap=bootstrap, kappa=config.huber_kappa),
    "iqn": _implicit_quantiles,
}
