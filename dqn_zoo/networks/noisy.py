"""Linear layers with learned noise."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional


class NoisyLinear(nn.Linear):
    """A linear layer whose weights carry learned, factorised noise.

    Fortunato et al. (2018), equations 9 to 11, https://arxiv.org/abs/1706.10295. `weight` and
    `bias` are the means. Without noise (before the first `reset_noise` and after `remove_noise`) it
    is the linear layer of the means.
    """

    def __init__(self, in_features: int, out_features: int, sigma: float) -> None:
        super().__init__(in_features, out_features)  # initialises as the paper does
        initial = sigma / math.sqrt(in_features)
        self.weight_sigma = nn.Parameter(torch.full((out_features, in_features), initial))
        self.bias_sigma = nn.Parameter(torch.full((out_features,), initial))
        self._noise: tuple[Tensor, Tensor] | None = None

    def reset_noise(self, generator: torch.Generator) -> None:
        """Draw new noise for inputs and outputs from a generator on the layer's device."""
        numbers = self.in_features + self.out_features
        normal = torch.randn(numbers, generator=generator, device=self.weight.device)
        noise = normal.sign() * normal.abs().sqrt()
        self._noise = noise[: self.in_features], noise[self.in_features :]

    def remove_noise(self) -> None:
        """Compute with the means from now on."""
        self._noise = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [..., out_features] for [..., in_features]."""
        if self._noise is None:
            return super().forward(inputs)
        noise_in, noise_out = self._noise
        weight = self.weight + self.weight_sigma * torch.outer(noise_out, noise_in)
        bias = self.bias + self.bias_sigma * noise_out
        return functional.linear(inputs, weight, bias)
