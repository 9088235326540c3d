"""Heads: from features to action values.

    features -> layers (plain or dueling, linear or noisy) -> [..., num_actions, outputs] -> head

What a head makes of the outputs depends on what the loss learns: a value, the probabilities of
atoms, quantiles, or quantiles at given fractions. Every head offers `q_values`.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSettings:
    """What a head looks like.

    Attributes:
        loss: a key of `HEADS`.
        dueling: separate streams for the value of the state and the advantages of the actions.
        noisy_sigma: initial noise of noisy layers; None: plain layers.
        layer_norm: normalise the hidden layer before its ReLU.
        num_atoms: of the categorical head.
        v_min: value of its first atom.
        v_max: value of its last atom.
        num_quantiles: of the quantile head.
        num_acting_quantiles: fractions that the implicit quantile head averages to act.
        num_cosines: of its embedding of the fractions.
    """

    loss: str
    dueling: bool = False
    noisy_sigma: float | None = None
    layer_norm: bool = False
    num_atoms: int = 51
    v_min: float = -10.0
    v_max: float = 10.0
    num_quantiles: int = 200
    num_acting_quantiles: int = 32
    num_cosines: int = 64


class Head(Protocol):
    """What every head offers; it is an `nn.Module`, too."""

    def q_values(self, features: Tensor) -> Tensor:
        """Return float32 [batch, num_actions] for features [batch, feature_size]."""
        ...


MakeLayers = Callable[[int], nn.Module]  # makes layers with so many outputs


class BuildHead(Protocol):
    """Anything that builds a head around layers with the outputs that it needs per action."""

    def __call__(
        self, settings: HeadSettings, make_layers: MakeLayers, *, feature_size: int
    ) -> nn.Module:
        """Return a head; `make_layers` takes the outputs of one action."""
        ...


class ScalarHead(nn.Module):
    """One value per action."""

    def __init__(self, layers: nn.Module) -> None:
        super().__init__()
        self.layers = layers

    def q_values(self, features: Tensor) -> Tensor:
        """Return float32 [batch, num_actions]."""
        values: Tensor = self.layers(features)
        return values.squeeze(-1)


class CategoricalHead(nn.Module):
    """Probabilities of equally spaced returns (Bellemare et al., 2017, section 4.1).

    https://arxiv.org/abs/1707.06887.
    """

    support: Tensor

    def __init__(self, layers: nn.Module, support: Tensor) -> None:
        super().__init__()
        self.layers = layers
        self.register_buffer("support", support, persistent=False)

    def log_probabilities(self, features: Tensor) -> Tensor:
        """Return float32 [batch, num_actions, num_atoms]."""
        logits: Tensor = self.layers(features)
        return logits.log_softmax(dim=-1)

    def q_values(self, features: Tensor) -> Tensor:
        """Return the expected return of every action: float32 [batch, num_actions]."""
        return self.mean(self.log_probabilities(features))

    def mean(self, log_probabilities: Tensor) -> Tensor:
        """Return the expected return: float32 [...] for log-probabilities [..., num_atoms]."""
        return (log_probabilities.exp() * self.support).sum(dim=-1)


class QuantileHead(nn.Module):
    """Returns at equally spaced quantile midpoints (Dabney et al., 2018a, section 4).

    https://arxiv.org/abs/1710.10044.
    """

    fractions: Tensor

    def __init__(self, layers: nn.Module, num_quantiles: int) -> None:
        super().__init__()
        self.layers = layers
        self.register_buffer("fractions", midpoints(num_quantiles).unsqueeze(0), persistent=False)

    def quantiles(self, features: Tensor) -> Tensor:
        """Return float32 [batch, num_actions, num_quantiles], those at `fractions`."""
        quantiles: Tensor = self.layers(features)
        return quantiles

    def q_values(self, features: Tensor) -> Tensor:
        """Return the mean over the quantiles: float32 [batch, num_actions]."""
        return self.quantiles(features).mean(dim=-1)


class ImplicitQuantileHead(nn.Module):
    """Returns at any quantile fractions (Dabney et al., 2018b, section 3 and equation 4).

    https://arxiv.org/abs/1806.06923.

    Args:
        layers: map [batch, num_fractions, feature_size] to [..., num_actions, 1].
        feature_size: of the torso.
        num_cosines: of the embedding.
        num_acting_quantiles: fractions that `q_values` averages.
    """

    frequencies: Tensor
    acting_fractions: Tensor

    def __init__(
        self, layers: nn.Module, feature_size: int, *, num_cosines: int, num_acting_quantiles: int
    ) -> None:
        super().__init__()
        self.embedding = nn.Linear(num_cosines, feature_size)
        self.layers = layers
        self.register_buffer("frequencies", math.pi * torch.arange(num_cosines), persistent=False)
        self.register_buffer(
            "acting_fractions", midpoints(num_acting_quantiles).unsqueeze(0), persistent=False
        )

    def quantiles(self, features: Tensor, fractions: Tensor) -> Tensor:
        """Return the quantiles of every action's return.

        Args:
            features: float [batch, feature_size].
            fractions: float32 [batch, num_fractions] in [0, 1], or [1, num_fractions] for all rows.

        Returns:
            float32 [batch, num_actions, num_fractions].
        """
        cosines = torch.cos(fractions.unsqueeze(-1) * self.frequencies)
        embedded = torch.relu(self.embedding(cosines))  # [batch or 1, num_fractions, feature_size]
        values: Tensor = self.layers(features.unsqueeze(1) * embedded)
        return values.squeeze(-1).transpose(1, 2)

    def q_values(self, features: Tensor) -> Tensor:
        """Return the mean over quantiles: float32 [batch, num_actions].

        Deviation: at the midpoints of equal shares, not at random fractions as in the paper. The
        mean is the same integral with less noise, and a network gives the same values every time.
        """
        return self.quantiles(features, self.acting_fractions).mean(dim=-1)


def midpoints(number: int) -> Tensor:
    """Return the fractions (2 i + 1) / (2 number): float32 [number]."""
    return (torch.arange(number) + 0.5) / number


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


class Stream(nn.Module):
    """A hidden layer and an output layer."""

    def __init__(
        self, settings: HeadSettings, *, feature_size: int, hidden_size: int, num_outputs: int
    ) -> None:
        super().__init__()
        self.hidden = _linear(feature_size, hidden_size, settings.noisy_sigma)
        self.norm = nn.LayerNorm(hidden_size) if settings.layer_norm else nn.Identity()
        self.output = _linear(hidden_size, num_outputs, settings.noisy_sigma)

    def forward(self, features: Tensor) -> Tensor:
        """Return float32 [..., num_outputs] for features [..., feature_size]."""
        hidden = torch.relu(self.norm(self.hidden(features)))
        # bfloat16 has steps of 0.03 at a value of 5, more than many actions differ by.
        with torch.autocast(hidden.device.type, enabled=False):
            outputs: Tensor = self.output(hidden.float())
        return outputs


class PlainLayers(nn.Module):
    """One stream for all actions.

    Args:
        make_stream: gives a stream with so many outputs.
        num_actions: of the game.
        num_outputs: of each action.
    """

    def __init__(self, make_stream: MakeLayers, *, num_actions: int, num_outputs: int) -> None:
        super().__init__()
        self._outputs = num_actions, num_outputs
        self.stream = make_stream(num_actions * num_outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Return float32 [..., num_actions, outputs] for features [..., feature_size]."""
        values: Tensor = self.stream(features)
        return values.view(*values.shape[:-1], *self._outputs)


class DuelingLayers(nn.Module):
    """A stream for the state and one for the actions (Wang et al., 2016, equation 9).

    https://arxiv.org/abs/1511.06581. As in its section 4.2, the gradient that both streams send
    back to the features is scaled by 1 / sqrt(2).

    Args:
        make_stream: gives a stream with so many outputs.
        num_actions: of the game.
        num_outputs: of each action.
    """

    def __init__(self, make_stream: MakeLayers, *, num_actions: int, num_outputs: int) -> None:
        super().__init__()
        self._outputs = num_actions, num_outputs
        self.value = make_stream(num_outputs)
        self.advantage = make_stream(num_actions * num_outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Return float32 [..., num_actions, outputs] for features [..., feature_size]."""
        # Equal to the features, with a scaled gradient.
        features = features.detach() + (features - features.detach()) / math.sqrt(2)
        value: Tensor = self.value(features).unsqueeze(-2)
        advantage: Tensor = self.advantage(features)
        advantage = advantage.view(*advantage.shape[:-1], *self._outputs)
        return value + advantage - advantage.mean(dim=-2, keepdim=True)


def build_head(
    settings: HeadSettings, *, feature_size: int, hidden_size: int, num_actions: int
) -> nn.Module:
    """Build the head that a loss needs; it satisfies `Head`.

    Args:
        settings: see `HeadSettings`.
        feature_size: of the torso.
        hidden_size: units of each hidden layer.
        num_actions: of the game.
    """
    build_layers = DuelingLayers if settings.dueling else PlainLayers

    def make_stream(num_outputs: int) -> Stream:
        return Stream(
            settings, feature_size=feature_size, hidden_size=hidden_size, num_outputs=num_outputs
        )

    def make_layers(num_outputs: int) -> nn.Module:
        return build_layers(make_stream, num_actions=num_actions, num_outputs=num_outputs)

    return HEADS[settings.loss](settings, make_layers, feature_size=feature_size)


def count_actions(settings: HeadSettings, shapes: Mapping[str, Sequence[int]]) -> int | None:
    """Return the number of actions that the weights of a network decide among.

    Args:
        settings: of its head.
        shapes: of the weights, by name, as `state_dict` gives them.

    Returns:
        None if the weights are not those of such a network.
    """
    name = f"layers.{'advantage' if settings.dueling else 'stream'}.output.bias"
    shape = shapes.get(f"head.{name}", ())
    if len(shape) != 1:
        return None
    with torch.device("meta"):  # shapes alone: no memory, no random numbers
        of_one_action = build_head(settings, feature_size=1, hidden_size=1, num_actions=1)
    outputs = len(of_one_action.state_dict()[name])
    return None if shape[0] % outputs else shape[0] // outputs


def _linear(in_features: int, out_features: int, sigma: float | None) -> nn.Linear:
    if sigma is None:
        return nn.Linear(in_features, out_features)
    return NoisyLinear(in_features, out_features, sigma)


def _scalar(settings: HeadSettings, make_layers: MakeLayers, *, feature_size: int) -> nn.Module:
    return ScalarHead(make_layers(1))


def _categorical(
    settings: HeadSettings, make_layers: MakeLayers, *, feature_size: int
) -> nn.Module:
    support = torch.linspace(settings.v_min, settings.v_max, settings.num_atoms)
    return CategoricalHead(make_layers(settings.num_atoms), support)


def _quantiles(settings: HeadSettings, make_layers: MakeLayers, *, feature_size: int) -> nn.Module:
    return QuantileHead(make_layers(settings.num_quantiles), settings.num_quantiles)


def _implicit_quantiles(
    settings: HeadSettings, make_layers: MakeLayers, *, feature_size: int
) -> nn.Module:
    return ImplicitQuantileHead(
        make_layers(1),
        feature_size,
        num_cosines=settings.num_cosines,
        num_acting_quantiles=settings.num_acting_quantiles,
    )


HEADS: dict[str, BuildHead] = {
    "huber": _scalar,
    "squared": _scalar,
    "c51": _categorical,
    "qrdqn": _quantiles,
    "iqn": _implicit_quantiles,
}
