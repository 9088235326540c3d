"""The seam: what the training loop, its logs, evaluations and checkpoints know of an algorithm."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dqn_zoo.envs.environments import EnvStep
from dqn_zoo.learning.averaged import PlayedWeights
from dqn_zoo.learning.losses import network_settings
from dqn_zoo.networks.network import QNetwork, build_network
from dqn_zoo.schedules import LinearSchedule
from dqn_zoo.seeding import stream_seed
from dqn_zoo.settings.config import Config, initial_learning_rate
from dqn_zoo.system.devices import let_cuda_be_fast
from dqn_zoo.system.stopwatch import Stopwatch

MOST_ACTIONS = 18
"""Of any game; for an estimate the exact number does not matter."""

Timer = Callable[..., float]
"""timer(work, num_first=1): the seconds that a call of `work` takes, after the first calls."""

Files = Iterator[tuple[str, bytes | None]]
"""Name and content of what a checkpoint keeps; None: unchanged since the one before."""


class Algorithm(Protocol):
    """Chooses actions, takes note of what came of them, and learns.

    Attributes:
        size_key: the setting that decides how much memory a run takes.
        steps: decisions so far, summed over environments.
        updates: gradient steps so far.
        played: what of the network is judged, shown and shared.
    """

    size_key: ClassVar[str]
    steps: int
    updates: int
    played: PlayedWeights

    # --- Before a run: what a config calls for

    @staticmethod
    def memory_bytes(config: Config) -> int:
        """Return what the run keeps in memory, beside the process, networks and workspaces."""
        ...

    @staticmethod
    def describe(config: Config) -> dict[str, str]:
        """Return lines for the preview, by a word that says what each is about."""
        ...

    @staticmethod
    def estimate_seconds(config: Config, timer: Timer) -> float:
        """Return what choosing actions and learning will take in all; a few of each are timed."""
        ...

    @classmethod
    def from_config(
        cls, config: Config, *, num_actions: int, stopwatch: Stopwatch | None = None
    ) -> Self:
        """Build what the settings of a run describe; everything random follows from its seed."""
        ...

    # --- The four calls of the loop

    def start(self, observation: NDArray[np.uint8]) -> None:
        """Begin a new run with its first observations, uint8 [num_envs, stack, 84, 84]."""
        ...

    def act(self, observation: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Choose an action per environment, int64 [num_envs], exploring."""
        ...

    def learn(self) -> None:
        """Do whatever the steps so far call for; the emulators compute meanwhile.

        It is called after every `act`, and once more when the run has made its last step.
        """
        ...

    def observe(self, step: EnvStep) -> None:
        """Take note of what the emulators answered, and count the steps.

        `step.action` is what was executed: FIRE may stand in for what `act` chose. The arrays are
        not written to afterwards.
        """
        ...

    # --- What is learned

    @property
    def network(self) -> QNetwork:
        """The weights that evaluation, saving and sharing use."""
        ...

    def q_values(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return values without exploration, float32 [batch, num_actions]; threads may share it."""
        ...

    def take_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Start from given weights.

        Raises:
            RuntimeError: if they do not fit the network.
        """
        ...

    # --- What is told of it

    @property
    def epsilon(self) -> float:
        """The chance of a random action now, on average over the environments."""
        ...

    @property
    def mean_loss(self) -> float:
        """Mean loss since `take_metrics` was called; NaN where no update was made."""
        ...

    @property
    def updates_made(self) -> str:
        """How updates are made now: `eager`, `CUDA graph`, or `eager` and why."""
        ...

    def take_news(self) -> str | None:
        """Return one line for the user if something changed, once."""
        ...

    def take_metrics(self) -> dict[str, float]:
        """Return columns of progress.csv, means over what came since the last call.

        `loss` and `q_mean` are among them, and only columns that `runs/metrics.py` lists.
        """
        ...

    # --- Checkpoints

    def state(self) -> dict[str, Any]:
        """Return everything small that a checkpoint keeps, as JSON.

        `counters` holds at least `steps` and `updates`. The snapshot adds to it, and beside it, its
        own: see `training/snapshot.py` for the keys.
        """
        ...

    def files(self, previous: Mapping[str, Any] | None) -> Files:
        """Yield everything else that a checkpoint keeps.

        Args:
            previous: what `state` returned for the checkpoint before, if there is one.
        """
        ...

    def restore(self, state: Mapping[str, Any], read: Callable[[str], bytes]) -> None:
        """Continue from what `state` and `files` gave.

        Args:
            state: of the whole checkpoint.
            read: returns a file by its name; the snapshot has written the weights of `network` as
                `model.safetensors` and, where they are an average, those that learn beside it.
        """
        ...

    def check_restored(self, observation: NDArray[np.uint8]) -> None:
        """Compare what the restored emulators show with what was seen before.

        Raises:
            ValueError: if they differ.
        """
        ...


# --- What the settings say in the same way for all


def untrained_network(config: Config, *, num_actions: int) -> QNetwork:
    """Build the network of a run on its device, with the weights that its seed gives."""
    assert config.seed is not None
    let_cuda_be_fast(config.device)
    seed = stream_seed(config.seed, "network")
    network = build_network(network_settings(config), num_actions=num_actions, seed=seed)
    return network.to(config.device)


def rate_schedule(config: Config) -> LinearSchedule:
    """Return the learning rate as a function of the step: a constant, or `lin_X` falling to 0."""
    rate = initial_learning_rate(config)
    falls = isinstance(config.learning_rate, str)
    return LinearSchedule(rate, 0.0 if falls else rate, config.n_timesteps)
