"""First weights other than PyTorch's."""

import math
from itertools import chain

from torch import nn

from dqn_zoo.networks.heads import Stream


def draw_as_he(torso: nn.Module, head: nn.Module) -> None:
    """Draw weights anew: He et al. (2015), equation 10, cut off at two standard deviations.

    https://arxiv.org/abs/1502.01852. As in Flax's `he_normal`; biases begin at 0. The last layers
    keep PyTorch's.
    """
    outputs = [module.output for module in head.modules() if isinstance(module, Stream)]
    for layer in chain(torso.modules(), head.modules()):
        is_hidden = not any(layer is output for output in outputs)
        if isinstance(layer, nn.Conv2d | nn.Linear) and is_hidden:
            fan_in = layer.weight[0].numel()
            deviation = math.sqrt(2.0 / fan_in) / 0.87962566  # what the cut leaves of it
            nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
