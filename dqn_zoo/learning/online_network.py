"""The network that learns: its weights, what computes with them, the optimizer, and the log."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from itertools import chain
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from dqn_zoo.learning.mixed_precision import WorkingNetwork
from dqn_zoo.learning.optimizers import OPTIMIZERS
from dqn_zoo.networks.network import QNetwork
from dqn_zoo.settings.config import Config
from dqn_zoo.system.devices import channels_last, most_exact, upload

METRICS = ("loss", "q_mean", "grad_norm")
NOTHING = contextlib.nullcontext()


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

    @classmethod
    def from_config(cls, config: Config) -> Self:
        """Return what a run says of its steps."""
        return cls(config.optimizer, config.optimizer_eps, config.max_grad_norm)


class OnlineNetwork:
    """A network, its optimizer and the means of what its updates gave.

    Args:
        weights: trained in place, already on its device, in float32.
        optimizer: see `OptimizerSettings`.
        seed: of the noise of noisy layers and of whatever a loss draws.
        bfloat16: multiply in bfloat16; weights and optimizer stay float32.
        compiled_torso: compile the convolutions of updates; actions are chosen without.

    Attributes:
        weights: what is learned.
        optimizer: keeps its state in the order of the weights.
        generator: on the device; noise, and whatever else is random in an update.
        bfloat16: as given.
    """

    def __init__(
        self,
        weights: QNetwork,
        optimizer: OptimizerSettings,
        *,
        seed: int,
        bfloat16: bool,
        compiled_torso: bool = False,
    ) -> None:
        self.weights = weights.eval()
        self.device = next(weights.parameters()).device
        self._working = WorkingNetwork(weights, bfloat16=bfloat16, compiled_torso=compiled_torso)
        self._parameters = list(weights.parameters())
        self.optimizer = OPTIMIZERS[optimizer.name](self._parameters, optimizer.epsilon)
        limit = optimizer.max_grad_norm
        self._max_grad_norm = math.inf if limit is None else limit
        # Only in training mode do spectral norms follow the weights.
        modules = self._working.network.modules()
        self._norms = [module for module in modules if isinstance(module, ParametrizationList)]
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.bfloat16 = bfloat16
        # Of METRICS since they were last taken, and their number. They stay on the device: reading
        # them after every update would make the CPU wait for a GPU.
        self._sums = torch.zeros(
            len(METRICS) + 1, dtype=most_exact(self.device), device=self.device
        )
        self._one = torch.ones((), device=self.device)

    # --- An update: noise, then the loss, then the step

    def reset_noise(self) -> None:
        """Draw new noise for the noisy layers; without any, nothing is drawn."""
        self._working.network.reset_noise(self.generator)

    @contextlib.contextmanager
    def computing(self) -> Iterator[QNetwork]:
        """Give the network that a loss is computed with, in the precision of the run."""
        for norm in self._norms:
            norm.train()
        try:
            with self.autocast():
                yield self._working.for_updates
        finally:
            for norm in self._norms:
                norm.eval()

    def step(
        self,
        loss: Tensor,
        q_mean: Tensor,
        learning_rate: float | Tensor,
        beside: AbstractContextManager[object] = NOTHING,
    ) -> None:
        """Take one gradient step.

        Args:
            loss: float32, without dimensions.
            q_mean: float32, detached, for the log.
            learning_rate: a tensor is read anew by every repetition of a recorded step, which
                cannot branch.
            beside: entered for the backward pass, during which other threads run Python and the
                weights stay what they are.
        """
        self._forget_gradients()
        with beside:
            torch.autograd.backward(loss)
        self._working.give_gradients()
        grad_norm = self._clip_gradients(may_branch=not isinstance(learning_rate, Tensor))
        self.optimizer.step(learning_rate)
        self._working.take_weights()
        self._sums += torch.stack([loss.detach(), q_mean, grad_norm, self._one])

    def autocast(self) -> torch.autocast:
        """Compute in the precision of the run."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16)

    def uniform(self, rows: int, columns: int) -> Tensor:
        """Return float32 [rows, columns], uniform in [0, 1)."""
        return torch.rand((rows, columns), generator=self.generator, device=self.device)

    # --- Choosing actions

    def noisy_q_values(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return values to explore with: `q_values` under new noise, if there are noisy layers."""
        self.reset_noise()
        return self.values_of(self._working.network, observation)

    def q_values(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return values without noise: float32 [batch, num_actions].

        Args:
            observation: uint8 [batch, stack, 84, 84].
        """
        self._working.network.remove_noise()
        return self.values_of(self._working.network, observation)

    def values_of(self, network: QNetwork, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the values of a network on the same device, in the precision of the run."""
        with torch.inference_mode(), self.autocast():
            frames = channels_last(upload(observation, self.device))
            return network.q_values(frames).cpu().numpy()

    # --- The log

    @property
    def mean_loss(self) -> float:
        """Return the mean loss since `take_metrics` was called; NaN where no update was made."""
        return float(self._sums[METRICS.index("loss")] / self._sums[-1])

    def take_metrics(self) -> dict[str, float]:
        """Return the means of `METRICS` since the last call; NaN where no update was made."""
        means = (self._sums[:-1] / self._sums[-1]).tolist()
        self._sums.zero_()
        return dict(zip(METRICS, means, strict=True))

    # --- Checkpoints

    def load_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Take other weights; the optimizer stays as it is.

        Raises:
            RuntimeError: if they do not fit.
        """
        self.weights.load_state_dict(weights)
        self._working.take_weights()

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the weights and the optimizer, as JSON."""
        *sums, number = self._sums.tolist()
        return {
            "sums": sums,
            "num_summed": int(number),
            "generator": self.generator.get_state().numpy().tobytes().hex(),
        }

    def optimizer_bytes(self) -> bytes:
        """Return the state of the optimizer as safetensors."""
        return save_tensors(self.optimizer.state())

    def restore(
        self, state: Mapping[str, Any], *, weights: Mapping[str, Tensor], optimizer: bytes
    ) -> None:
        """Continue from what `state`, the weights and `optimizer_bytes` were."""
        self.load_weights(weights)
        self.optimizer.restore(load_tensors(optimizer))
        self._sums.copy_(
            torch.tensor([*state["sums"], state["num_summed"]], dtype=self._sums.dtype)
        )
        saved = bytearray.fromhex(state["generator"])
        # Another kind of device draws otherwise; there the generator stays as it was seeded.
        if len(saved) == len(self.generator.get_state()):
            self.generator.set_state(torch.frombuffer(saved, dtype=torch.uint8))

    # --- What a recording has to know

    def tensors(self) -> dict[str, list[Tensor]]:
        """Return what an update reads and changes, by what it is."""
        tensors: dict[str, list[Tensor]] = {
            "the online network": list(chain(self.weights.parameters(), self.weights.buffers())),
            "its working copy": self._working.tensors(),
        }
        for name, kept in self.optimizer.kept.items():
            tensors[f"{name} of the optimizer"] = kept
        return tensors | {"metrics": [self._sums]}

    def renew_generator(self) -> None:
        """Draw from a new generator from now on; the caller sets its state."""
        self.generator = torch.Generator(self.device)

    def _forget_gradients(self) -> None:
        """Drop the last ones, and what a recording that failed half-way has left in the copies."""
        for weight in chain(self._parameters, self._working.network.parameters()):
            weight.grad = None

    def _clip_gradients(self, *, may_branch: bool) -> Tensor:
        """Scale the gradient down to `max_grad_norm` and return the norm that it had."""
        gradients = [weight.grad for weight in self._parameters if weight.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        # A GPU multiplies by 1 sooner than the CPU knows the norm.
        branches = self.device.type == "cpu" and may_branch
        if not branches or norm > self._max_grad_norm:
            nn.utils.clip_grads_with_norm_(self._parameters, self._max_grad_norm, norm)
        return norm
