"""Adam, RAdam and RMSProp: PyTorch's arithmetic, without its classes.

Building one of those imports the whole compiler, half of the time from a command to its first step.
"""

import io
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.radam import radam
from torch.optim.rmsprop import rmsprop

DECAY_OF_RMSPROP = 0.95  # Mnih et al. (2015), extended data table 1


class Optimizer(ABC):
    """Turns gradients into steps, and keeps what it needs of each weight in that weight's layout.

    Args:
        weights: changed in place; each has a gradient when a step is taken.
        epsilon: added to the denominator.

    Attributes:
        kept: tensors by what they are, one for each weight; they stay where they are.
    """

    AVERAGES: ClassVar[tuple[str, ...]]

    def __init__(self, weights: Sequence[Tensor], epsilon: float) -> None:
        self._weights = list(weights)
        self._epsilon = epsilon
        self.kept: dict[str, list[Tensor]] = {
            name: [torch.zeros_like(weight, requires_grad=False) for weight in weights]
            for name in self.AVERAGES
        }
        self.kept["step"] = [torch.zeros((), device=weight.device) for weight in weights]

    @torch.no_grad()
    def step(self, learning_rate: float | Tensor) -> None:
        """Take one; a tensor is read by every repetition of a recorded step."""
        gradients = [weight.grad for weight in self._weights if weight.grad is not None]
        assert len(gradients) == len(self._weights), "a weight without gradient"
        self._step(gradients, learning_rate)

    @abstractmethod
    def _step(self, gradients: list[Tensor], learning_rate: float | Tensor) -> None: ...

    def state(self) -> dict[str, Tensor]:
        """Return what is kept, on the CPU, by the number of its weight and by what it is."""
        return {
            f"{index}.{name}": tensor.cpu().contiguous()
            for name, tensors in self.kept.items()
            for index, tensor in enumerate(tensors)
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from a state, on whichever device and in whichever layout it was kept."""
        if not state:  # of earlier versions, from before the first step
            return
        for name, tensors in self.kept.items():
            for index, tensor in enumerate(tensors):
                saved = state[f"{index}.{name}"]
                if saved.shape != tensor.shape or not saved.isfinite().all():
                    raise ValueError(f"{name} of the optimizer is damaged, or of another network")
                tensor.copy_(saved)

    def _is_captured(self, learning_rate: float | Tensor) -> bool:
        """Whether a step may be part of a CUDA graph, which must not wait for the CPU."""
        return isinstance(learning_rate, Tensor) and learning_rate.is_cuda


class Adam(Optimizer):
    """Kingma and Ba (2015), https://arxiv.org/abs/1412.6980; one fused kernel for all weights."""

    AVERAGES = ("exp_avg", "exp_avg_sq")

    def _step(self, gradients: list[Tensor], learning_rate: float | Tensor) -> None:
        adam(
            self._weights,
            gradients,
            self.kept["exp_avg"],
            self.kept["exp_avg_sq"],
            [],
            self.kept["step"],
            lr=learning_rate,
            beta1=0.9,
            beta2=0.999,
            eps=self._epsilon,
            weight_decay=0.0,
            amsgrad=False,
            maximize=False,
            fused=True,
            capturable=self._is_captured(learning_rate),
        )


class RAdam(Optimizer):
    """Liu et al. (2020), https://arxiv.org/abs/1908.03265: Adam that begins with small steps."""

    AVERAGES = ("exp_avg", "exp_avg_sq")

    def _step(self, gradients: list[Tensor], learning_rate: float | Tensor) -> None:
        radam(
            self._weights,
            gradients,
            self.kept["exp_avg"],
            self.kept["exp_avg_sq"],
            self.kept["step"],
            lr=learning_rate,  # type: ignore[arg-type] # a tensor serves as well
            beta1=0.9,
            beta2=0.999,
            eps=self._epsilon,
            weight_decay=0.0,
            capturable=self._is_captured(learning_rate),
        )


class RMSProp(Optimizer):
    """RMSProp with the decay of Mnih et al. (2015).

    Deviation: not centred. With a small epsilon rounding makes the centred variance negative, and
    its root NaN.
    """

    AVERAGES = ("square_avg",)

    def _step(self, gradients: list[Tensor], learning_rate: float | Tensor) -> None:
        rmsprop(
            self._weights,
            gradients,
            self.kept["square_avg"],
            [],
            [],
            self.kept["step"],
            lr=learning_rate,  # type: ignore[arg-type] # a tensor serves as well
            alpha=DECAY_OF_RMSPROP,
            eps=self._epsilon,
            weight_decay=0.0,
            momentum=0.0,
            centered=False,
            capturable=self._is_captured(learning_rate),
        )


def read_pickled(content: bytes) -> bytes:
    """Return as safetensors what earlier versions kept in optimizer.pt; nothing in it is run."""
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)["state"]
    return save_tensors(
        {
            f"{index}.{name}": tensor.contiguous()
            for index, kept in state.items()
            for name, tensor in kept.items()
        }
    )


OPTIMIZERS: dict[str, type[Optimizer]] = {"adam": Adam, "radam": RAdam, "rmsprop": RMSProp}
