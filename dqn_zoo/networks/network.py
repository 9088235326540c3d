"""Networks that map stacked frames to action values: a torso for the pixels, then a head.

The division of the pixels by 255 happens here, so that memory, copies and replay stay in uint8.
Weights and frames of the convolutions lie in memory with the channels last; frames that come so
already, from `devices.channels_last`, are passed through faster.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import convert_conv2d_weight_memory_format, parametrizations

from dqn_zoo.networks.heads import Head, HeadSettings, build_head
from dqn_zoo.networks.initial_weights import draw_as_he
from dqn_zoo.networks.noisy import NoisyLinear
from dqn_zoo.settings.config import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """What a network looks like.

    Attributes:
        torso: a key of `TORSOS`.
        frame_stack: number of input channels.
        width: multiplies the channels of the IMPALA torso.
        pool_size: side of an adaptive max-pool behind the IMPALA torso; None: no pool.
        layer_norm: normalise in the IMPALA torso and in the hidden layers of the head.
        spectral_norm: normalise the residual convolutions of the IMPALA torso.
        channel_norm: normalise over the channels behind the other torsos' convolutions.
        he_init: draw the first weights as He et al. (2015) do.
        head: see `HeadSettings`.
    """

    torso: str
    frame_stack: int
    width: int = 1
    pool_size: int | None = None
    layer_norm: bool = False
    spectral_norm: bool = False
    channel_norm: bool = False
    he_init: bool = False
    head: HeadSettings

    @classmethod
    def from_config(cls, config: Config, head: type[Head]) -> "NetworkSettings":
        """Return the network that a config describes, ending in a head of the given class."""
        return cls(
            torso=config.network,
            frame_stack=config.frame_stack,
            width=config.network_width,
            pool_size=config.network_pool,
            layer_norm=config.layer_norm,
            spectral_norm=config.spectral_norm,
            channel_norm=config.channel_norm,
            he_init=config.he_init,
            head=HeadSettings(
                kind=head,
                dueling=config.dueling,
                noisy_sigma=config.noisy_sigma,
                layer_norm=config.layer_norm,
                mean_expansion=config.mean_expansion,
                num_atoms=config.num_atoms,
                v_min=config.v_min,
                v_max=config.v_max,
                num_quantiles=config.num_quantiles,
                num_acting_quantiles=config.num_acting_quantiles,
                num_cosines=config.num_cosines,
            ),
        )


class QNetwork(nn.Module):
    """A torso that turns frames into features and a head that turns features into action values."""

    def __init__(self, torso: nn.Module, head: Head) -> None:
        super().__init__()
        self.torso = torso
        self.head = head
        self._noisy_layers = [layer for layer in self.modules() if isinstance(layer, NoisyLinear)]

    def features(self, observation: Tensor) -> Tensor:
        """Return float [batch, feature_size] for uint8 [batch, stack, 84, 84], oldest first."""
        # Every pixel is exact in bfloat16, so that the quotient is what autocast would make of it.
        kind = observation.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32
        frames = observation.to(dtype).div_(255.0)
        features: Tensor = self.torso(frames.contiguous(memory_format=torch.channels_last))
        return features

    def q_values(self, observation: Tensor) -> Tensor:
        """Return the value of every action.

        Args:
            observation: uint8 [batch, stack, 84, 84], oldest frame first.

        Returns:
            float32 [batch, num_actions].
        """
        return self.head.q_values(self.features(observation))

    def reset_noise(self, generator: torch.Generator) -> None:
        """Draw new noise for the noisy layers; without any, nothing is drawn."""
        for layer in self._noisy_layers:
            layer.reset_noise(generator)

    def remove_noise(self) -> None:
        """Compute with the means of the noisy layers from now on."""
        for layer in self._noisy_layers:
            layer.remove_noise()


class Torso(nn.Module):
    """Layers that map frames [batch, stack, 84, 84] in [0, 1] to features.

    Args:
        layers: what to apply; the result is flattened.
        hidden_size: units that suit a hidden layer behind it.
    """

    def __init__(self, *layers: nn.Module, hidden_size: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers, nn.Flatten())
        self.hidden_size = hidden_size

    def forward(self, frames: Tensor) -> Tensor:
        """Return float [batch, feature_size]."""
        features: Tensor = self.layers(frames)
        return features


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around which the input is added."""

    def __init__(self, channels: int, *, spectral_norm: bool) -> None:
        super().__init__()
        convolutions = [nn.Conv2d(channels, channels, kernel_size=3, padding=1) for _ in range(2)]
        if spectral_norm:
            # Miyato et al. (2018). Only in training mode does a forward pass refine the norm.
            for convolution in convolutions:
                parametrizations.spectral_norm(convolution)
        self.first, self.second = convolutions

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [batch, channels, height, width] for the same."""
        hidden = self.first(torch.relu(inputs))
        outputs: Tensor = inputs + self.second(torch.relu(hidden))
        return outputs


def nature_torso(settings: NetworkSettings) -> Torso:
    """Return the convolutions of Mnih et al. (2015), Methods, "Model architecture".

    https://www.nature.com/articles/nature14236; 3,136 features.
    """
    return _three_convolutions(settings, channels=(32, 64, 64), hidden_size=512)


def small_torso(settings: NetworkSettings) -> Torso:
    """Return the Nature torso with half the channels, a third of the work: 1,568 features."""
    return _three_convolutions(settings, channels=(16, 32, 32), hidden_size=256)


def impala_torso(settings: NetworkSettings) -> Torso:
    """Return the residual torso of Espeholt et al. (2018), figure 3, right.

    https://arxiv.org/abs/1802.01561. 3,872 features at width 1; with a pool of side 6, as in
    Clark et al. (2024), https://arxiv.org/abs/2411.03820, 1,152.
    """
    layers: list[nn.Module] = []
    in_channels = settings.frame_stack
    for base in (16, 32, 32):
        channels = base * settings.width
        layers.append(nn.Conv2d(in_channels, channels, kernel_size=3, padding=1))
        layers.append(nn.MaxPool2d(kernel_size=3, stride=2, padding=1))  # 84 -> 42 -> 21 -> 11
        if settings.layer_norm:
            layers.append(nn.GroupNorm(1, channels))  # one group: over channels and pixels
        layers += [ResidualBlock(channels, spectral_norm=settings.spectral_norm) for _ in range(2)]
        in_channels = channels
    layers.append(nn.ReLU())
    if settings.pool_size is not None:
        layers.append(nn.AdaptiveMaxPool2d(settings.pool_size))
    return Torso(*layers, hidden_size=512)


def build_network(settings: NetworkSettings, *, num_actions: int, seed: int) -> QNetwork:
    """Build a network in evaluation mode, with weights drawn from `seed` alone.

    Args:
        settings: see `NetworkSettings`.
        num_actions: of the game.
        seed: of PyTorch's default initialisation; the global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torso = TORSOS[settings.torso](settings)
        with torch.no_grad():
            feature_size = torso(torch.zeros(1, settings.frame_stack, 84, 84)).shape[1]
        head = build_head(
            settings.head,
            feature_size=feature_size,
            hidden_size=torso.hidden_size,
            num_actions=num_actions,
        )
        if settings.he_init:
            draw_as_he(torso, head)
        # The layout that both oneDNN and cuDNN compute in.
        convert_conv2d_weight_memory_format(torso, torch.channels_last)
        return QNetwork(torso, head).eval()


def weights_on_cpu(network: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the weights on the CPU."""
    return {
        name: value.detach().cpu().clone().contiguous()
        for name, value in network.state_dict().items()
    }


class ChannelNorm(nn.LayerNorm):
    """Layer normalisation of every pixel over its channels, as Flax's LayerNorm does it."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, eps=1e-6)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [batch, channels, height, width] for the same."""
        return super().forward(inputs.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def _three_convolutions(
    settings: NetworkSettings, *, channels: tuple[int, int, int], hidden_size: int
) -> Torso:
    layers: list[nn.Module] = []
    before = settings.frame_stack
    for after, kernel_size, stride in zip(channels, (8, 4, 3), (4, 2, 1), strict=True):
        layers.append(nn.Conv2d(before, after, kernel_size=kernel_size, stride=stride))
        if settings.channel_norm:
            layers.append(ChannelNorm(after))
        layers.append(nn.ReLU(inplace=True))  # 84 -> 20 -> 9 -> 7 pixels on a side
        before = after
    return Torso(*layers, hidden_size=hidden_size)


TORSOS: dict[str, Callable[[NetworkSettings], Torso]] = {
    "nature": nature_torso,
    "small": small_torso,
    "impala": impala_torso,
}
