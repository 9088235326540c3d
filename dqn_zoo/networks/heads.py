"""Heads: from features to action values.

    features -> layers (plain or dueling, linear or noisy) -> [..., num_actions, outputs] -> head

What a head makes of the outputs depends on what is learned: a value, the probabilities of atoms,
quantiles, or quantiles at given fractions. Every head offers `q_values`; a loss names its head.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dqn_zoo.networks.noisy import NoisyLinear


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadSettings:
    """What a head looks like.

    Attributes:
        kind: the class of the head; a loss names the one that it learns with.
        dueling: separate streams for the value of the state and the advantages of the actions.
        noisy_sigma: initial noise of noisy layers; None: plain layers.
        layer_norm: normalise the hidden layer before its ReLU.
        mean_expansion: of n plain outputs z, z + n mean(z) (https://arxiv.org/abs/2606.29806).
        num_atoms: of the categorical head.
        v_min: value of its first atom.
        v_max: value of its last atom.
        num_quantiles: of the quantile head.
        num_acting_quantiles: fractions that the implicit quantile head averages to act.
        num_cosines: of its embedding of the fractions.
    """

    kind: "type[Head]"
    dueling: bool = False
    noisy_sigma: float | None = None
    layer_norm: bool = False
    mean_expansion: bool = False
    num_atoms: int = 51
    v_min: float = -10.0
    v_max: float = 10.0
    num_quantiles: int = 200
    num_acting_quantiles: int = 32
    num_cosines: int = 64


class Head(nn.Module, ABC):
    """What a network ends in; an update learns what it gives, a policy compares its `q_values`.

    Args:
        layers: map features to float32 [..., num_actions, outputs], as many as `num_outputs` says.
        settings: of the head.
        feature_size: of the torso.
    """

    layers: nn.Module

    @staticmethod
    @abstractmethod
    def num_outputs(settings: HeadSettings) -> int:
        """Return how many numbers this head needs of the layers per action."""

    @abstractmethod
    def __init__(self, layers: nn.Module, settings: HeadSettings, *, feature_size: int) -> None:
        super().__init__()

    @abstractmethod
    def q_values(self, features: Tensor) -> Tensor:
        """Return float32 [batch, num_actions] for features [batch, feature_size]."""


class ScalarHead(Head):
    """One value per action."""

    @staticmethod
    def num_outputs(settings: HeadSettings) -> int:
        """Return 1, the value."""
        return 1

    def __init__(self, layers: nn.Module, settings: HeadSettings, *, feature_size: int) -> None:
        super().__init__(layers, settings, feature_size=feature_size)
        self.layers = layers

    def q_values(self, features: Tensor) -> Tensor:
        """Return float32 [batch, num_actions]."""
        values: Tensor = self.layers(features)
        return values.squeeze(-1)


class CategoricalHead(Head):
    """Probabilities of equally spaced returns (Bellemare et al., 2017, section 4.1).

    https://arxiv.org/abs/1707.06887.
    """

    support: Tensor

    @staticmethod
    def num_outputs(settings: HeadSettings) -> int:
        """Return the number of atoms."""
        return settings.num_atoms

    def __init__(self, layers: nn.Module, settings: HeadSettings, *, feature_size: int) -> None:
        super().__init__(layers, settings, feature_size=feature_size)
        self.layers = layers
        support = torch.linspace(settings.v_min, settings.v_max, settings.num_atoms)
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


class QuantileHead(Head):
    """Returns at equally spaced quantile midpoints (Dabney et al., 2018a, section 4).

    https://arxiv.org/abs/1710.10044.
    """

    fractions: Tensor

    @staticmethod
    def num_outputs(settings: HeadSettings) -> int:
        """Return the number of quantiles."""
        return settings.num_quantiles

    def __init__(self, layers: nn.Module, settings: HeadSettings, *, feature_size: int) -> None:
        super().__init__(layers, settings, feature_size=feature_size)
        self.layers = layers
        fractions = midpoints(settings.num_quantiles).unsqueeze(0)
        self.register_buffer("fractions", fractions, persistent=False)

    def quantiles(self, features: Tensor) -> Tensor:
        """Return float32 [batch, num_actions, num_quantiles], those at `fractions`."""
        quantiles: Tensor = self.layers(features)
        return quantiles

    def q_values(self, features: Tensor) -> Tensor:
        """Return the mean over the quantiles: float32 [batch, num_actions]."""
        return self.quantiles(features).mean(dim=-1)


class ImplicitQuantileHead(Head):
    """Returns at any quantile fractions (Dabney et al., 2018b, section 3 and equation 4).

    https://arxiv.org/abs/1806.06923. The layers see every fraction by itself: they map
    [batch, num_fractions, feature_size] to [..., num_actions, 1].
    """

    frequencies: Tensor
    acting_fractions: Tensor

    @staticmethod
    def num_outputs(settings: HeadSettings) -> int:
        """Return 1, the quantile at the fraction that the layers were shown."""
        return 1

    def __init__(self, layers: nn.Module, settings: HeadSettings, *, feature_size: int) -> None:
        super().__init__(layers, settings, feature_size=feature_size)
        # Before the layers: an optimizer's state is kept in the order of the weights.
        self.embedding = nn.Linear(settings.num_cosines, feature_size)
        self.layers = layers
        frequencies = math.pi * torch.arange(settings.num_cosines)
        acting_fractions = midpoints(settings.num_acting_quantiles).unsqueeze(0)
        self.register_buffer("frequencies", frequencies, persistent=False)
        self.register_buffer("acting_fractions", acting_fractions, persistent=False)

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


class LayerSizes(NamedTuple):
    """How wide the layers of a head are; `num_outputs` is per action."""

    feature_size: int
    hidden_size: int
    num_actions: int
    num_outputs: int


class Stream(nn.Module):
    """A hidden layer and an output layer."""

    def __init__(self, settings: HeadSettings, sizes: LayerSizes, *, num_outputs: int) -> None:
        super().__init__()
        self.hidden = _linear(sizes.feature_size, sizes.hidden_size, settings.noisy_sigma)
        self.norm = nn.LayerNorm(sizes.hidden_size) if settings.layer_norm else nn.Identity()
        self.output = _linear(sizes.hidden_size, num_outputs, settings.noisy_sigma)

    def forward(self, features: Tensor) -> Tensor:
        """Return float32 [..., num_outputs] for features [..., feature_size]."""
        hidden = torch.relu(self.norm(self.hidden(features)))
        # bfloat16 has steps of 0.03 at a value of 5, more than many actions differ by.
        with torch.autocast(hidden.device.type, enabled=False):
            outputs: Tensor = self.output(hidden.float())
        return outputs


class PlainLayers(nn.Module):
    """One stream for all actions: [..., num_actions, num_outputs] for features."""

    def __init__(self, settings: HeadSettings, sizes: LayerSizes) -> None:
        super().__init__()
        self._expands = settings.mean_expansion
        self._outputs = sizes.num_actions, sizes.num_outputs
        self.stream = Stream(settings, sizes, num_outputs=sizes.num_actions * sizes.num_outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Return float32 [..., num_actions, num_outputs] for features [..., feature_size]."""
        values: Tensor = self.stream(features)
        values = values.view(*values.shape[:-1], *self._outputs)
        return values + values.sum(dim=-2, keepdim=True) if self._expands else values


class DuelingLayers(nn.Module):
    """A stream for the state and one for the actions (Wang et al., 2016, equation 9).

    https://arxiv.org/abs/1511.06581. As in its section 4.2, the gradient that both streams send
    back to the features is scaled by 1 / sqrt(2).
    """

    def __init__(self, settings: HeadSettings, sizes: LayerSizes) -> None:
        super().__init__()
        self._outputs = sizes.num_actions, sizes.num_outputs
        self.value = Stream(settings, sizes, num_outputs=sizes.num_outputs)
        self.advantage = Stream(settings, sizes, num_outputs=sizes.num_actions * sizes.num_outputs)

    def forward(self, features: Tensor) -> Tensor:
        """Return float32 [..., num_actions, num_outputs] for features [..., feature_size]."""
        # Equal to the features, with a scaled gradient.
        features = features.detach() + (features - features.detach()) / math.sqrt(2)
        value: Tensor = self.value(features).unsqueeze(-2)
        advantage: Tensor = self.advantage(features)
        advantage = advantage.view(*advantage.shape[:-1], *self._outputs)
        return value + advantage - advantage.mean(dim=-2, keepdim=True)


def build_head(
    settings: HeadSettings, *, feature_size: int, hidden_size: int, num_actions: int
) -> Head:
    """Build a head with its layers.

    Args:
        settings: see `HeadSettings`.
        feature_size: of the torso.
        hidden_size: units of each hidden layer.
        num_actions: of the game.
    """
    num_outputs = settings.kind.num_outputs(settings)
    sizes = LayerSizes(feature_size, hidden_size, num_actions, num_outputs)
    layers = DuelingLayers(settings, sizes) if settings.dueling else PlainLayers(settings, sizes)
    return settings.kind(layers, settings, feature_size=feature_size)


def _linear(in_features: int, out_features: int, sigma: float | None) -> nn.Linear:
    if sigma is None:
        return nn.Linear(in_features, out_features)
    return NoisyLinear(in_features, out_features, sigma)
