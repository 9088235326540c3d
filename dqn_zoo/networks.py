"""Networks that map stacked frames to action values.

Every network offers `q_values`; what else it offers belongs to its head. The division of the pixels
by 255 happens here, so that memory, copies and replay stay in uint8.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class QNetwork(nn.Module):
    """A torso that turns frames into features and a head that turns features into action values."""

    def __init__(self, torso: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.torso = torso
        self.head = head

    def q_values(self, observation: Tensor) -> Tensor:
        """Return the value of every action.

        Args:
            observation: uint8 [batch, stack, 84, 84], oldest frame first.

        Returns:
            float32 [batch, num_actions].
        """
        features = self.torso(observation.float() / 255.0)
        # bfloat16 has steps of 0.03 at a value of 5, more than many actions differ by.
        with torch.autocast(features.device.type, enabled=False):
            q_values: Tensor = self.head(features.float())
        return q_values


class NatureTorso(nn.Module):
    """The convolutions and the hidden layer of Mnih et al. (2015), Methods, "Model architecture".

    https://www.nature.com/articles/nature14236. Maps [batch, stack, 84, 84] to [batch, 512].
    """

    feature_size = 512

    def __init__(self, frame_stack: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(frame_stack, 32, kernel_size=8, stride=4),  # -> [32, 20, 20]
            nn.ReLU(),
            nn.Conv2d(32, 64, kernel_size=4, stride=2),  # -> [64, 9, 9]
            nn.ReLU(),
            nn.Conv2d(64, 64, kernel_size=3, stride=1),  # -> [64, 7, 7]
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(64 * 7 * 7, self.feature_size),
            nn.ReLU(),
        )

    def forward(self, frames: Tensor) -> Tensor:
        """Return float [batch, 512] for frames [batch, stack, 84, 84] in [0, 1]."""
        features: Tensor = self.layers(frames)
        return features


def build_network(name: str, *, num_actions: int, frame_stack: int, seed: int) -> QNetwork:
    """Build a network with weights drawn from `seed` alone.

    Args:
        name: a key of `TORSOS`.
        num_actions: size of the last layer.
        frame_stack: number of input channels.
        seed: of PyTorch's default initialisation; the global generator is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torso = TORSOS[name](frame_stack)
        return QNetwork(torso, nn.Linear(torso.feature_size, num_actions))


TORSOS: dict[str, Callable[[int], NatureTorso]] = {"nature": NatureTorso}
