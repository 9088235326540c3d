"""Losses: small frozen dataclasses that wire networks to the equations of `value_learning`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from dqn_zoo import value_learning
from dqn_zoo.networks import QNetwork
from dqn_zoo.replay import Batch


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


class Loss(Protocol):
    """Anything that judges a batch with the online and the target network."""

    def __call__(self, online: QNetwork, target: QNetwork, batch: Batch) -> LossOutput:
        """Return the loss of every row of `batch`."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TDLoss:
    """Q-learning on the temporal-difference error.

    Attributes:
        double_q: the online network picks the next action (Double DQN).
        penalty: a key of `PENALTIES`.
    """

    double_q: bool
    penalty: str

    def __call__(self, online: QNetwork, target: QNetwork, batch: Batch) -> LossOutput:
        """Return the penalised TD error of every row."""
        with torch.no_grad():
            q_target = target.q_values(batch.next_observation)
            if self.double_q:
                q_online = online.q_values(batch.next_observation)
                next_value = value_learning.double_value(q_target, q_online)
            else:
                next_value = value_learning.greedy_value(q_target)
        q_values = online.q_values(batch.observation)
        q_selected = value_learning.select(q_values, batch.action)
        error = value_learning.td_error(q_selected, batch.reward, batch.discount, next_value)
        return LossOutput(
            per_example=PENALTIES[self.penalty](error),
            priority=error.detach().abs(),
            metrics={"q_mean": q_selected.detach().mean()},
        )


PENALTIES: dict[str, Callable[[Tensor], Tensor]] = {
    "huber": value_learning.huber,
    "squared": value_learning.squared,
}
