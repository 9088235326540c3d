"""One update: weight, mean, backward, clip, step; and the copy to the target network."""

import contextlib
import copy
import io
import math
from collections.abc import Iterator, Mapping
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from dqn_zoo.learning.losses import Loss
from dqn_zoo.learning.mixed_precision import WorkingNetwork
from dqn_zoo.learning.optimizers import OPTIMIZERS
from dqn_zoo.networks.network import QNetwork, channels_last
from dqn_zoo.replay.memory import Batch
from dqn_zoo.system.devices import upload

METRICS = ("loss", "q_mean", "grad_norm")


class OptimizerSettings(NamedTuple):
    """How gradients become steps.

    Attributes:
        name: a key of `OPTIMIZERS`.
        epsilon: added to the denominator.
        max_grad_norm: the global norm of the gradient is clipped to it; None: it is not clipped.
    """

    name: str
    epsilon: float
    max_grad_norm: float | None


class Learner:
    """Owns the online network, the target network and the optimizer.

    `online` and `target` are the weights, in float32. What computes is made of them: the same
    networks, or copies in bfloat16 (see `mixed_precision.py`).

    Args:
        network: trained in place, already on its device.
        loss: judges a batch.
        optimizer: see `OptimizerSettings`.
        seed: of the noise of noisy layers and of random quantile fractions.
        bfloat16: multiply in bfloat16; weights and optimizer stay float32.
        compiled_torso: compile the convolutions of updates; actions are chosen without.
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
        self.online = network.eval()
        self.target = copy.deepcopy(network).requires_grad_(False)
        self.device = next(network.parameters()).device
        self._online, self._target = (
            WorkingNetwork(weights, bfloat16=bfloat16, compiled_torso=compiled_torso)
            for weights in (self.online, self.target)
        )
        # Only in training mode do spectral norms follow the weights.
        modules = self._online.network.modules()
        self._norms = [module for module in modules if isinstance(module, ParametrizationList)]
        self._loss = loss
        self.generator = torch.Generator(self.device).manual_seed(seed)
        limit = optimizer.max_grad_norm
        self._max_grad_norm = math.inf if limit is None else limit
        self._weights = list(network.parameters())
        self._optimizer = OPTIMIZERS[optimizer.name](self._weights, optimizer.epsilon)
        self._bfloat16 = bfloat16
        # Of METRICS since they were last taken, and their number. They stay on the device: reading
        # them after every update would make the CPU wait for a GPU.
        self._sums = torch.zeros(len(METRICS) + 1, dtype=torch.float64, device=self.device)
        self._one = torch.ones((), device=self.device)

    def update(self, batch: Batch, learning_rate: float | Tensor, num_updates: int = 1) -> Tensor:
        """Take gradient steps and return the priorities of all rows, float32 [rows].

        Python state must not depend on what happens here: a recording repeats the work on the
        device alone, see `cuda_graph.py`.

        Args:
            batch: a minibatch, or several of one size, one behind the other. Observations with the
                channels last, see `networks.channels_last`, are the fastest.
            learning_rate: a tensor is read anew by every repetition of a recorded update.
            num_updates: how many minibatches. Their next observations go through the target
                network's torso together; noise comes behind it, so that one pass serves them all.
        """
        online, target = self._online.for_updates, self._target.for_updates
        size = len(batch.action) // num_updates
        with torch.no_grad(), self._autocast():
            next_features = target.features(batch.next_observation)
        priorities = []
        for minibatch, features in zip(
            batch.split(size), torch.split(next_features, size), strict=True
        ):
            # Deviation: Fortunato et al. draw a third noise to choose the next action in Double
            # DQN.
            for network in (online, target):
                network.reset_noise(self.generator)
            with self._norms_in_training(), self._autocast():
                output = self._loss(online, target, minibatch, features, self._uniform)
                loss = (minibatch.weight * output.per_example).mean()
            self.forget_gradients()
            torch.autograd.backward(loss)
            self._online.give_gradients()
            grad_norm = self._clip_gradients(may_branch=not isinstance(learning_rate, Tensor))
            self._optimizer.step(learning_rate)
            self._online.take_weights()
            self._sums += torch.stack([loss.detach(), output.q_mean, grad_norm, self._one])
            priorities.append(output.priority)
        return priorities[0] if num_updates == 1 else torch.cat(priorities)

    def sync_target(self) -> None:
        """Copy the online weights to the target network."""
        self.target.load_state_dict(self.online.state_dict())
        self._target.take_weights()

    def load_weights(self, *, online: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> None:
        """Give both networks other weights; the optimizer stays as it is.

        Raises:
            RuntimeError: if they do not fit.
        """
        for network, working, weights in (
            (self.online, self._online, online),
            (self.target, self._target, target),
        ):
            network.load_state_dict(weights)
            working.take_weights()

    def noisy_q_values(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return values to explore with: `q_values` under new noise, if there are noisy layers."""
        self._online.network.reset_noise(self.generator)
        return self._q_values(observation)

    def q_values(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the online network's values without noise: float32 [batch, num_actions].

        Args:
            observation: uint8 [batch, stack, 84, 84].
        """
        self._online.network.remove_noise()
        return self._q_values(observation)

    def _q_values(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        with torch.inference_mode(), self._autocast():
            frames = channels_last(upload(observation, self.device))
            return self._online.network.q_values(frames).cpu().numpy()

    @property
    def mean_loss(self) -> float:
        """Return the mean loss since `take_metrics` was called; NaN where no update was made."""
        return float(self._sums[METRICS.index("loss")] / self._sums[-1])

    def take_metrics(self) -> dict[str, float]:
        """Return the means of `METRICS` since the last call; NaN where no update was made."""
        means = (self._sums[:-1] / self._sums[-1]).tolist()
        self._sums.zero_()
        return dict(zip(METRICS, means, strict=True))

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the weights and the optimizer, as JSON."""
        *sums, number = self._sums.tolist()
        return {
            "sums": sums,
            "num_summed": int(number),
            "generator": self.generator.get_state().numpy().tobytes().hex(),
        }

    def optimizer_bytes(self) -> bytes:
        """Return the state of the optimizer; it holds tensors and numbers only."""
        buffer = io.BytesIO()
        torch.save(self._optimizer.state(), buffer)
        return buffer.getvalue()

    def restore(
        self,
        state: dict[str, Any],
        *,
        online: dict[str, Tensor],
        target: dict[str, Tensor],
        optimizer: bytes,
    ) -> None:
        """Continue from what `state`, the two networks and `optimizer_bytes` were."""
        self.load_weights(online=online, target=target)
        self._optimizer.restore(
            torch.load(io.BytesIO(optimizer), map_location=self.device, weights_only=True)
        )
        self._sums.copy_(torch.tensor([*state["sums"], state["num_summed"]], dtype=torch.float64))
        saved = bytearray.fromhex(state["generator"])
        # Another kind of device draws otherwise; there the generator stays as it was seeded.
        if len(saved) == len(self.generator.get_state()):
            self.generator.set_state(torch.frombuffer(saved, dtype=torch.uint8))

    # --- What a recording has to know

    def tensors(self) -> dict[str, list[Tensor]]:
        """Return what an update reads and changes, by what it is."""
        tensors: dict[str, list[Tensor]] = {
            name: list(chain(network.parameters(), network.buffers()))
            for name, network in {
                "the online network": self.online,
                "its working copy": self._online.network,
                "the target network": self._target.network,
            }.items()
        }
        for name, kept in self._optimizer.kept.items():
            tensors[f"{name} of the optimizer"] = kept
        return tensors | {"metrics": [self._sums]}

    def renew_generator(self) -> None:
        """Draw from a new generator from now on; the caller sets its state."""
        self.generator = torch.Generator(self.device)

    def forget_gradients(self) -> None:
        """Drop the last ones, and what a recording that failed half-way has left in the copies."""
        for weight in chain(self._weights, self._online.network.parameters()):
            weight.grad = None

    def _clip_gradients(self, *, may_branch: bool) -> Tensor:
        """Scale the gradient down to `max_grad_norm` and return the norm that it had."""
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        # A GPU multiplies by 1 sooner than the CPU knows the norm; a recording cannot branch.
        branches = self.device.type == "cpu" and may_branch
        if not branches or norm > self._max_grad_norm:
            nn.utils.clip_grads_with_norm_(self._weights, self._max_grad_norm, norm)
        return norm

    @contextlib.contextmanager
    def _norms_in_training(self) -> Iterator[None]:
        for norm in self._norms:
            norm.train()
        try:
            yield
        finally:
            for norm in self._norms:
                norm.eval()

    def _uniform(self, rows: int, columns: int) -> Tensor:
        return torch.rand((rows, columns), generator=self.generator, device=self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bfloat16)
