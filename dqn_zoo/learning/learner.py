"""One update: weight, mean, backward, clip, step; and the copy to the target network."""

import contextlib
import copy
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.parametrize import ParametrizationList

from dqn_zoo.learning.cuda_graph import RecordedUpdates, Recorder
from dqn_zoo.learning.losses import Loss
from dqn_zoo.learning.mixed_precision import WorkingNetwork
from dqn_zoo.learning.optimizers import OPTIMIZERS
from dqn_zoo.networks.network import (
    NetworkWithFeatures,
    QNetwork,
    channels_last,
    with_compiled_torso,
)
from dqn_zoo.replay.memory import Batch
from dqn_zoo.system.devices import upload

METRICS = ("loss", "q_mean", "grad_norm")
MOST_AT_ONCE = 16  # updates in one CUDA graph


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

    Args:
        network: trained in place, already on its device.
        loss: judges a batch.
        optimizer: see `OptimizerSettings`.
        seed: of the noise of noisy layers and of random quantile fractions.
        bfloat16: multiply in bfloat16; weights and optimizer stay float32.
        recorder: records updates, so that one call repeats them; None: every update is eager.
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
        recorder: Recorder | None = None,
        compiled_torso: bool = False,
    ) -> None:
        self.online = network.eval()
        self.target = copy.deepcopy(network).requires_grad_(False)
        self.device = next(network.parameters()).device
        self._online = WorkingNetwork(self.online, bfloat16=bfloat16)
        self._target = WorkingNetwork(self.target, bfloat16=bfloat16)
        # What updates compute with; the layers are the same.
        compiled = with_compiled_torso if compiled_torso else lambda network: network
        self._learning = compiled(self._online.network)
        self._learning_target = compiled(self._target.network)
        # Only in training mode do spectral norms follow the weights.
        modules = self._online.network.modules()
        self._norms = [module for module in modules if isinstance(module, ParametrizationList)]
        self._loss = loss
        self._generator = torch.Generator(self.device).manual_seed(seed)
        limit = optimizer.max_grad_norm
        self._max_grad_norm = math.inf if limit is None else limit
        self._weights = list(network.parameters())
        self._optimizer = OPTIMIZERS[optimizer.name](self._weights, optimizer.epsilon)
        self._bfloat16 = bfloat16
        self._sums = torch.zeros(len(METRICS), dtype=torch.float64, device=self.device)
        self._num_summed = 0
        self._recorded: RecordedUpdates | None = None
        self._learning_rate: float | Tensor = 0.0
        if recorder is not None:
            # A recorded update reads it here; a number would be that of its recording.
            self._learning_rate = torch.zeros((), device=self.device)
            self._recorded = RecordedUpdates(
                self._take_steps,
                recorder,
                tensors=self._tensors,
                generator=lambda: self._generator,
                renew_generator=self._renew_generator,
            )

    def update(self, batch: Batch, learning_rate: float) -> Tensor:
        """Take one gradient step and return the priorities, float32 [batch]."""
        return self.updates([batch], learning_rate)[0]

    def updates(self, batches: Iterable[Batch], learning_rate: float) -> list[Tensor]:
        """Take one gradient step per minibatch and return the priorities of each, float32 [batch].

        So many as `most_at_once` are taken from `batches` before the first of them is used.
        Observations with the channels last, see `networks.channels_last`, are the fastest.
        """
        self._set_learning_rate(learning_rate)
        take_steps = self._take_steps if self._recorded is None else self._recorded
        remaining, priorities = iter(batches), list[Tensor]()
        while some := list(islice(remaining, self.most_at_once)):
            priorities += take_steps(some)
        self._num_summed += len(priorities)
        return priorities

    @property
    def most_at_once(self) -> int:
        """Minibatches whose next observations go through the target network together.

        The convolutions of a GPU take many as fast as one. A CPU computes with pixels that are
        still in its cache.
        """
        return 1 if self.device.type == "cpu" and self._recorded is None else MOST_AT_ONCE

    def _take_steps(self, batches: Sequence[Batch]) -> list[Tensor]:
        """Do what updates do on the device; Python state must not depend on it."""
        target = self._learning_target
        if len(batches) == 1:
            return [self._take_step(batches[0], target)]
        following = [batch.next_observation for batch in batches]
        with torch.no_grad(), self._autocast():
            # Noise comes behind the features, so that they hold for all of these updates.
            features = target.features(torch.cat(following))
        known = torch.split(features, [len(observation) for observation in following])
        knowing = map(partial(NetworkWithFeatures, target), following, known)
        return list(map(self._take_step, batches, knowing))

    def _take_step(self, batch: Batch, target: QNetwork) -> Tensor:
        # Deviation: Fortunato et al. draw a third noise to choose the next action in Double DQN.
        online = self._learning
        for network in (online, target):
            network.reset_noise(self._generator)
        with self._norms_in_training(), self._autocast():
            output = self._loss(online, target, batch, self._uniform)
            loss = (batch.weight * output.per_example).mean()
        self._forget_gradients()
        torch.autograd.backward(loss)
        self._online.give_gradients()
        grad_norm = self._clip_gradients()
        self._optimizer.step(self._learning_rate)
        self._online.take_weights()
        # Sums stay on the device: reading them here would make the CPU wait for the GPU.
        self._sums += torch.stack([loss.detach(), output.metrics["q_mean"], grad_norm])
        return output.priority

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
        self._online.network.reset_noise(self._generator)
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
    def updates_made(self) -> str:
        """How updates are made now: `eager`, `CUDA graph`, or `eager` and why."""
        return "eager" if self._recorded is None else self._recorded.status

    def take_news(self) -> str | None:
        """Return one line for the user if it changed how updates are made, once."""
        return None if self._recorded is None else self._recorded.take_news()

    @property
    def mean_loss(self) -> float:
        """Return the mean loss since `take_metrics` was called; NaN where no update was made."""
        return float(self._sums[METRICS.index("loss")]) / (self._num_summed or math.nan)

    def take_metrics(self) -> dict[str, float]:
        """Return the means of `METRICS` since the last call; NaN where no update was made."""
        if self._num_summed == 0:
            return dict.fromkeys(METRICS, math.nan)
        means = (self._sums / self._num_summed).tolist()
        self._sums.zero_()
        self._num_summed = 0
        return dict(zip(METRICS, means, strict=True))

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint keeps beside the weights and the optimizer, as JSON."""
        return {
            "sums": self._sums.tolist(),
            "num_summed": self._num_summed,
            "generator": self._generator.get_state().numpy().tobytes().hex(),
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
        self._sums.copy_(torch.tensor(state["sums"], dtype=torch.float64))
        self._num_summed = state["num_summed"]
        if "generator" in state:  # absent where no loss or network was random yet
            saved = bytearray.fromhex(state["generator"])
            # Another kind of device draws otherwise; there the generator stays as it was seeded.
            if len(saved) == len(self._generator.get_state()):
                self._generator.set_state(torch.frombuffer(saved, dtype=torch.uint8))

    def _clip_gradients(self) -> Tensor:
        """Scale the gradient down to `max_grad_norm` and return the norm that it had."""
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        # A GPU multiplies by 1 sooner than the CPU knows the norm; a recording cannot branch.
        branches = self.device.type == "cpu" and self._recorded is None
        if not branches or norm > self._max_grad_norm:
            nn.utils.clip_grads_with_norm_(self._weights, self._max_grad_norm, norm)
        return norm

    # --- Recorded updates

    def _set_learning_rate(self, learning_rate: float) -> None:
        if isinstance(self._learning_rate, Tensor):
            self._learning_rate.fill_(learning_rate)
        else:
            self._learning_rate = learning_rate

    def _tensors(self) -> dict[str, list[Tensor]]:
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

    def _renew_generator(self) -> None:
        """Draw from a new generator from now on; the caller sets its state."""
        self._generator = torch.Generator(self.device)

    def _forget_gradients(self) -> None:
        """Drop the last ones, and what a recording that failed half-way has left in the copies."""
        for weight in chain(self._weights, self._online.network.parameters()):
            weight.grad = None

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
        return torch.rand((rows, columns), generator=self._generator, device=self.device)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self._bfloat16)
