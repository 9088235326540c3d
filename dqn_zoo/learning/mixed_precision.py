"""What a learner computes with, made of the weights that learn: in bfloat16, or compiled.

Autocast alone would cast every weight from float32 to bfloat16 each time it is used, which takes a
fifth of an update on a CPU. Here each is cast once an update; the bits are those of autocast.
"""

import copy
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dqn_zoo.networks.heads import Stream
from dqn_zoo.networks.network import QNetwork, with_compiled_torso


class Cast(NamedTuple):
    """A float32 weight and its bfloat16 copy."""

    weight: nn.Parameter
    copy: nn.Parameter


class WorkingNetwork:
    """The network that computes, made of the weights that learn.

    In float32 it is the network itself. In bfloat16 it is a copy whose convolutions and linear
    layers have bfloat16 weights, to be used under autocast. All else, like norms, noise and the
    last layer of every stream, is not copied but shared.

    Args:
        network: keeps the float32 weights.
        bfloat16: multiply in bfloat16.
        compiled_torso: compile the convolutions of updates; actions are chosen without.

    Attributes:
        network: computes.
        for_updates: the same layers, with the torso compiled if that is asked for.
    """

    def __init__(self, network: QNetwork, *, bfloat16: bool, compiled_torso: bool = False) -> None:
        layers = _bfloat16_layers(network) if bfloat16 else []
        weights = list(chain.from_iterable(layer.parameters() for layer in layers))
        self._casts = [
            Cast(weight, nn.Parameter(weight.detach().bfloat16(), weight.requires_grad))
            for weight in weights
        ]
        # What deepcopy finds in its memo it does not copy.
        memo: dict[int, Tensor] = {
            id(tensor): tensor for tensor in chain(network.parameters(), network.buffers())
        }
        memo |= {id(cast.weight): cast.copy for cast in self._casts}
        self.network = copy.deepcopy(network, memo) if bfloat16 else network
        compiles = with_compiled_torso if compiled_torso else lambda plain: plain
        self.for_updates = compiles(self.network)

    def take_weights(self) -> None:
        """Copy the weights to the copies; call it after every change of them."""
        with torch.no_grad():
            for cast in self._casts:
                cast.copy.copy_(cast.weight)

    def tensors(self) -> list[Tensor]:
        """Return weights and buffers of the network that computes."""
        return list(chain(self.network.parameters(), self.network.buffers()))

    def give_gradients(self) -> None:
        """Move the gradients of the copies to the weights."""
        for cast in self._casts:
            gradient = cast.copy.grad
            cast.weight.grad = None if gradient is None else gradient.to(cast.weight.dtype)
            cast.copy.grad = None


def _bfloat16_layers(network: QNetwork) -> list[nn.Module]:
    """Return the plain layers; noisy and normalised ones compute their weights at each use."""
    outputs = [module.output for module in network.modules() if isinstance(module, Stream)]
    return [
        module
        for module in network.modules()
        if type(module) in (nn.Conv2d, nn.Linear) and not any(module is out for out in outputs)
    ]
