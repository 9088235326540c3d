"""Updates from minibatches: target features, loss, weight, mean, step; and the target's copy."""

import copy
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from dqn_zoo.learning.losses import Loss, Minibatch
from dqn_zoo.learning.mixed_precision import WorkingNetwork
from dqn_zoo.learning.online_network import NOTHING, OnlineNetwork, OptimizerSettings
from dqn_zoo.networks.network import QNetwork
from dqn_zoo.replay.memory import Batch


class Learner:
    """Owns the online network and the target network, and updates the one with the other's help.

    Args:
        network: trained in place, already on its device.
        loss: judges a batch.
        optimizer: see `OptimizerSettings`.
        seed: of the noise of noisy layers and of random quantile fractions.
        bfloat16: multiply in bfloat16; weights and optimizer stay float32.
        compiled_torso: compile the convolutions of updates; actions are chosen without.

    Attributes:
        online: the network that learns.
        target: the weights of its older copy, in float32.
    """

    def __init__(
        self,
        network: QNetwork,
        loss: Loss,
        optimizer: OptimizerSettings,
        *,
        seed: int,
        bfloat16: bool,
        compiled_torso: bool = False,
    ) -> None:
        self.target = copy.deepcopy(network).eval().requires_grad_(False)
        self._target = WorkingNetwork(self.target, bfloat16=bfloat16, compiled_torso=compiled_torso)
        self.online = OnlineNetwork(
            network, optimizer, seed=seed, bfloat16=bfloat16, compiled_torso=compiled_torso
        )
        self._loss = loss

    def update(self, batch: Batch, learning_rate: float | Tensor, num_updates: int = 1) -> Tensor:
        """Take gradient steps and return the priorities of all rows, float32 [rows].

        Python state must not depend on what happens here: a recording repeats the work on the
        device alone, see `cuda_graph.py`.

        Args:
            batch: a minibatch, or several of one size, one behind the other. Observations with the
                channels last, see `devices.channels_last`, are the fastest.
            learning_rate: a tensor is read anew by every repetition of a recorded update.
            num_updates: how many minibatches. Their next observations go through the target
                network's torso together; noise comes behind it, so that one pass serves them all.
        """
        size = len(batch.action) // num_updates
        assert size * num_updates == len(batch.action), "minibatches of different sizes"
        with torch.no_grad(), self.online.autocast():
            together = self._target.for_updates.features(batch.next_observation)
        pairs = zip(batch.split(size), torch.split(together, size), strict=True)
        priorities = [self.step(self.prepare(*pair), learning_rate) for pair in pairs]
        return priorities[0] if num_updates == 1 else torch.cat(priorities)

    def prepare(self, batch: Batch, next_features: Tensor | None = None) -> Minibatch:
        """Compute the targets of one minibatch; `step` learns them, now or after other steps.

        Features of the next observations are given where several share a pass of the torso.
        """
        online, target = self.online, self._target.for_updates
        # Deviation: Fortunato et al. draw a third noise for the next action in Double DQN.
        online.reset_noise()
        target.reset_noise(online.generator)
        with torch.no_grad(), online.computing() as network:
            if next_features is None:
                next_features = target.features(batch.next_observation)
            targets = self._loss.targets(network, target, batch, next_features, online.uniform)
        return Minibatch(batch.observation, batch.action, batch.weight, targets)

    def step(
        self,
        minibatch: Minibatch,
        learning_rate: float | Tensor,
        beside: AbstractContextManager[object] = NOTHING,
    ) -> Tensor:
        """Take one gradient step and return the priorities, float32 [batch].

        Args:
            minibatch: from `prepare`.
            learning_rate: see `update`.
            beside: see `OnlineNetwork.step`.
        """
        online = self.online
        with online.computing() as network:
            output = self._loss(network, minibatch, online.uniform)
            loss = (minibatch.weight * output.per_example).mean()
        online.step(loss, output.q_mean, learning_rate, beside)
        return output.priority

    def sync_target(self) -> None:
        """Copy the online weights to the target network."""
        self._load_target(self.online.weights.state_dict())

    def load_weights(self, *, online: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
        """Give both networks other weights; the optimizer stays as it is.

        Raises:
            RuntimeError: if they do not fit.
        """
        self.online.load_weights(online)
        self._load_target(target)

    def restore(
        self,
        state: Mapping[str, Any],
        *,
        online: Mapping[str, Tensor],
        target: Mapping[str, Tensor],
        optimizer: bytes,
    ) -> None:
        """Continue from what the state of the online network and both networks' weights were."""
        self.online.restore(state, weights=online, optimizer=optimizer)
        self._load_target(target)

    def tensors(self) -> dict[str, list[Tensor]]:
        """Return what an update reads and changes, by what it is."""
        return self.online.tensors() | {"the target network": self._target.tensors()}

    def _load_target(self, weights: Mapping[str, Tensor]) -> None:
        self.target.load_state_dict(weights)
        self._target.take_weights()
