"""What is left when training is over: a network that knows its game and how it was trained."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils import parametrize

from dqn_zoo.errors import UserError
from dqn_zoo.learning.losses import network_settings
from dqn_zoo.networks.heads import CategoricalHead, ImplicitQuantileHead, QuantileHead
from dqn_zoo.networks.network import QNetwork, build_network
from dqn_zoo.networks.shapes import count_actions, network_of_shapes
from dqn_zoo.play.weights import load_weights, weights_note
from dqn_zoo.schedules import epsilon_greedy
from dqn_zoo.settings.config import Config


class Outlook(NamedTuple):
    """What an agent expects of one observation.

    Attributes:
        q_values: float32 [num_actions].
        probabilities: float32 [num_actions, num_atoms], of the atoms of C51; None of others.
        quantiles: float32 [num_actions, n], rising fractions of QR-DQN and IQN; None of others.
    """

    q_values: NDArray[np.float32]
    probabilities: NDArray[np.float32] | None = None
    quantiles: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True)
class Agent:
    """A trained network with the settings of its run.

    Attributes:
        network: in evaluation mode, on `device`.
        config: every setting of the run that trained it.
        num_actions: size of the game's minimal action set.
        device: where the network lives.
    """

    network: QNetwork
    config: Config
    num_actions: int
    device: torch.device

    def q_values(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 [batch, num_actions] for uint8 [batch, stack, 84, 84].

        A single observation [stack, 84, 84] gives [num_actions].
        """
        batch = observation[None] if observation.ndim == 3 else observation
        expected = (self.config.frame_stack, 84, 84)
        if batch.dtype != np.uint8 or batch.ndim != 4 or batch.shape[1:] != expected:
            raise UserError(
                f"observation must be uint8 [batch, {', '.join(map(str, expected))}], "
                f"got {observation.dtype} {list(observation.shape)}"
            )
        with torch.inference_mode(), self._autocast():
            values = self.network.q_values(torch.from_numpy(batch).to(self.device)).cpu().numpy()
        return values[0] if observation.ndim == 3 else values

    def outlook(self, observation: NDArray[np.uint8]) -> Outlook:
        """Return the values of one observation, uint8 [stack, 84, 84], and what they are means of.

        They are those of `q_values`, to the bit.
        """
        head = self.network.head
        with torch.inference_mode(), self._autocast():
            features = self.network.features(torch.from_numpy(observation[None]).to(self.device))
            match head:
                case CategoricalHead():
                    log_probabilities = head.log_probabilities(features)
                    q_values = head.mean(log_probabilities)
                    atoms = log_probabilities.exp()[0].cpu().numpy()
                    return Outlook(q_values[0].cpu().numpy(), probabilities=atoms)
                case QuantileHead():
                    quantiles = head.quantiles(features)
                case ImplicitQuantileHead():
                    quantiles = head.quantiles(features, head.acting_fractions)
                case _:
                    return Outlook(head.q_values(features)[0].cpu().numpy())
            q_values = quantiles.mean(dim=-1)
            return Outlook(q_values[0].cpu().numpy(), quantiles=quantiles[0].cpu().numpy())

    def act(
        self,
        observation: NDArray[np.uint8],
        epsilon: float = 0.0,
        generator: np.random.Generator | None = None,
    ) -> NDArray[np.int64]:
        """Choose an action per observation: int64 [batch] for uint8 [batch, stack, 84, 84].

        Args:
            observation: as in `q_values`; a single one gives an array of one action.
            epsilon: chance of a random action.
            generator: of the random actions; None: a fresh one, different every time.
        """
        q_values = np.atleast_2d(self.q_values(observation))
        if epsilon == 0.0:
            return np.asarray(q_values.argmax(axis=1), np.int64)
        return epsilon_greedy(q_values, epsilon, generator or np.random.default_rng())

    def to_torch(self) -> nn.Module:
        """Return a module of plain PyTorch for uint8 [batch, stack, 84, 84], to keep or to export.

        It gives float32 [batch, num_actions], computed in float32; later changes of one of the two
        do not reach the other.
        """
        return _QValues(self.network)

    def _autocast(self) -> torch.autocast:
        """Multiply as in training, so that an agent is judged by the numbers it learned with."""
        enabled = self.config.precision == "bfloat16" and self.device.type != "mps"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=enabled)


class _QValues(nn.Module):
    """A copy of a network as a function of frames, without what only training needs."""

    def __init__(self, network: QNetwork) -> None:
        super().__init__()
        self.network = copy.deepcopy(network)
        self.network.remove_noise()
        for module in list(self.network.modules()):
            if isinstance(module, nn.Conv2d) and parametrize.is_parametrized(module):
                # Spectral norm, which is settled by now.
                weight = nn.Parameter(module.weight.detach().clone())
                # Not `remove_parametrizations`: it changes a class that copies share.
                module.__class__ = parametrize.type_before_parametrizations(module)
                del module.parametrizations
                module.register_parameter("weight", weight)
        self.requires_grad_(False).eval()

    def forward(self, observation: Tensor) -> Tensor:
        """Return float32 [batch, num_actions] for uint8 [batch, stack, 84, 84]."""
        return self.network.q_values(observation)


def build_agent(weights_file: Path, config: Config, *, device: str | torch.device) -> Agent:
    """Build the network of `config` and fill it from a file, names and shapes checked.

    Raises:
        UserError: if the weights are damaged, do not fit, or are of another game.
    """
    weights = load_weights(weights_file)
    game = weights_note(weights_file).get("env")
    if game not in (None, config.env):
        raise UserError(
            f"{weights_file} plays {game}, its settings are of {config.env}: restore config.yml"
        )
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    num_actions = check_shapes(weights_file, shapes, config)
    network = build_network(network_settings(config), num_actions=num_actions, seed=0)
    network.load_state_dict(weights)
    network.requires_grad_(False).to(device)
    return Agent(network, config, num_actions=num_actions, device=torch.device(device))


def check_shapes(file: Path, shapes: Mapping[str, tuple[int, ...]], config: Config) -> int:
    """Compare weights with the network of `config`, without the memory of either.

    Returns:
        The number of actions that they decide among.

    Raises:
        UserError: a name is missing or too many, or has another shape.
    """
    settings = network_settings(config)
    num_actions = count_actions(settings.head, shapes)
    if not num_actions:
        raise UserError(f"{file} does not hold the weights of a network like its run's")
    try:
        network = network_of_shapes(settings, num_actions=num_actions)
    except (RuntimeError, TypeError) as error:  # sizes beyond what a tensor can have
        raise UserError(f"{file}: no network can be so large: {error}") from error
    expected = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    if expected != dict(shapes):
        different = sorted(set(expected.items()) ^ set(shapes.items()))[0]
        raise UserError(f"{file} does not fit the network of its run: {different}")
    return num_actions
