"""What of a network that learns is judged, shown and shared: its weights, or an average of them.

The last gradient steps leave noise in the weights, and an average over many steps has less of it
(Polyak and Juditsky, 1992; Morales-Brotons et al., 2024, https://arxiv.org/abs/2411.18704). The
average takes no part in learning: it is neither a target nor chooses actions in training.
"""

import copy
from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from torch import Tensor
from torch.nn.utils.parametrize import ParametrizationList

from dqn_zoo.learning.mixed_precision import WorkingNetwork
from dqn_zoo.learning.online_network import OnlineNetwork
from dqn_zoo.networks.network import QNetwork

EVERY_UPDATES = 8  # weights are looked at: to read and write them all costs a tenth of an update

ONLINE_FILE = "online_model.safetensors"
"""Of the weights that learn, where `model.safetensors` holds their average."""


class PlayedWeights:
    """The weights that evaluation, saving and sharing use.

    An exponential moving average: of two looks at the weights that lie k updates apart, the earlier
    one counts decay**k as much as the later one. The shares of all looks add up to 1, which is the
    bias correction of Kingma and Ba (2015), section 3, https://arxiv.org/abs/1412.6980. So the
    random first weights have no part in it, however young the run is; without the correction they
    would have e**-1 of it after 1 / (1 - decay) updates.

    What the average is follows from the weights at each look, and the looks from the number of
    updates alone: a resumed run goes on exactly.

    Args:
        online: the network that learns.
        decay: per update; 0: no average, what learns is what plays.

    Attributes:
        online: as given.
        network: what plays: in float32, with the names of the online network.
    """

    def __init__(self, online: OnlineNetwork, decay: float) -> None:
        self.online = online
        self._decay = decay
        self._looks = 0
        self.network: QNetwork = online.weights
        if self.is_averaged:
            self.network = copy.deepcopy(online.weights).requires_grad_(False)
            self.network.remove_noise()
        self._working = WorkingNetwork(self.network, bfloat16=online.bfloat16 and self.is_averaged)
        self._norms = [
            module for module in self.network.modules() if isinstance(module, ParametrizationList)
        ]

    @property
    def is_averaged(self) -> bool:
        """Whether what plays is another network than what learns."""
        return self._decay > 0.0

    @property
    def online_file(self) -> str:
        """The file of a checkpoint that the online weights are in."""
        return ONLINE_FILE if self.is_averaged else "model.safetensors"

    def have_learned(self, updates: int) -> bool:
        """Return whether what plays is no longer the network that the run began with."""
        return updates >= (EVERY_UPDATES if self.is_averaged else 1)

    def follow(self, updates: int) -> None:
        """Look at the online weights if `EVERY_UPDATES` are over; call it after updates."""
        looks = updates // EVERY_UPDATES
        if not self.is_averaged or looks == self._looks:
            return
        kept = self._decay**EVERY_UPDATES
        share = (1.0 - kept ** (looks - self._looks)) / (1.0 - kept**looks)
        self._looks = looks
        with torch.no_grad():
            average, weights = self.network.parameters(), self.online.weights.parameters()
            torch._foreach_lerp_(list(average), list(weights), share)
            for norm in self._norms:  # only in training mode do they follow the weights
                norm.train()
                norm()
                norm.eval()
        self._working.take_weights()

    def q_values(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return values without noise, float32 [batch, num_actions]; threads may share it."""
        if not self.is_averaged:
            return self.online.q_values(observation)
        return self.online.values_of(self._working.network, observation)

    def start(self) -> None:
        """Play with the online weights until the first look; call it when they were given."""
        if self.is_averaged:
            self._take(self.online.weights.state_dict())

    def restore(self, read: Callable[[str], bytes], updates: int) -> None:
        """Continue from a checkpoint, of which `read` returns a file by its name."""
        self._looks = updates // EVERY_UPDATES
        if self.is_averaged:
            self._take(load_tensors(read("model.safetensors")))

    def _take(self, weights: Mapping[str, Tensor]) -> None:
        self.network.load_state_dict(weights)
        self._working.take_weights()
