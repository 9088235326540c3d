"""Q-learning without a memory: PQN, on rollouts of many environments at once.

Gallici et al. (2024), algorithm 1, https://arxiv.org/abs/2407.04811. There is no replay memory and
no target network: normalised layers keep the values stable, parallel games keep them apart.

    rollout_steps x num_envs steps -> lambda-returns -> num_epochs x num_minibatches updates
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from dqn_zoo.algorithms.algorithm import (
    MOST_ACTIONS,
    Files,
    Timer,
    rate_schedule,
    untrained_network,
)
from dqn_zoo.algorithms.exploration import Exploration
from dqn_zoo.algorithms.saved_state import check_parallel_state
from dqn_zoo.envs.environments import EnvStep
from dqn_zoo.learning import value_learning
from dqn_zoo.learning.averaged import PlayedWeights
from dqn_zoo.learning.online_network import OnlineNetwork, OptimizerSettings
from dqn_zoo.networks.network import QNetwork
from dqn_zoo.replay.shape import FRAME_BYTES
from dqn_zoo.seeding import generator_state, restore_generator, stream_generator, stream_seed
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.protocols import protocol_from_config
from dqn_zoo.system.devices import channels_last
from dqn_zoo.system.saved import require, unpack
from dqn_zoo.system.stopwatch import Stopwatch

ROLLOUT_FILE = "rollout.z"


class Rollout:
    """What the environments did since the last round of updates.

    Attributes:
        length: vector steps so far.
        observation: uint8 [steps, num_envs, stack, 84, 84], what was acted on.
        action: int64 [steps, num_envs].
        reward: float32 [steps, num_envs], clipped if the run clips.
        discount: float32 [steps, num_envs], gamma, or 0 where bootstrapping must stop.
        goes_on: bool [steps, num_envs], the next step continues this one.
        next_value: float32 [steps, num_envs], best value of what each step led to.
    """

    COLUMNS = ("observation", "action", "reward", "discount", "goes_on", "next_value")

    def __init__(self, num_steps: int, num_envs: int, stack: int) -> None:
        self.length = 0
        shape = (num_steps, num_envs)
        self.observation = torch.from_numpy(np.zeros((*shape, stack, 84, 84), np.uint8))
        self.action = torch.zeros(shape, dtype=torch.int64)
        self.reward = torch.zeros(shape)
        self.discount = torch.zeros(shape)
        self.goes_on = torch.zeros(shape, dtype=torch.bool)
        self.next_value = torch.zeros(shape)

    @property
    def is_full(self) -> bool:
        """Whether it holds as many steps as it can."""
        return self.length == len(self.action)

    def columns(self) -> dict[str, Tensor]:
        """Return the steps so far, by column."""
        return {name: getattr(self, name)[: self.length] for name in self.COLUMNS}

    def restore(self, columns: Mapping[str, Tensor]) -> None:
        """Continue from what `columns` returned."""
        self.length = len(columns["action"])
        for name in self.COLUMNS:
            getattr(self, name)[: self.length] = columns[name]


class ParallelQ:
    """PQN; see `Algorithm` for what the methods promise."""

    size_key: ClassVar[str] = "n_envs"

    def __init__(self, config: Config, *, num_actions: int, stopwatch: Stopwatch) -> None:
        assert config.seed is not None, "the seed is drawn before the run is built"
        self.steps = 0
        self.updates = 0
        self._config = config
        self._num_actions = num_actions
        self._stopwatch = stopwatch
        self.online = build_online_network(config, num_actions=num_actions)
        self.played = PlayedWeights(self.online, config.averaged_weights)
        self.rollout = Rollout(config.rollout_steps, config.n_envs, config.frame_stack)
        self._terminal_on_life_loss = protocol_from_config(config).terminal_on_life_loss
        self._exploration = Exploration(config)
        self._shuffles = stream_generator(config.seed, "replay")
        self._learning_rate = rate_schedule(config)
        self._acted_on: NDArray[np.uint8] | None = None  # the observation whose step is under way

    @classmethod
    def from_config(
        cls, config: Config, *, num_actions: int, stopwatch: Stopwatch | None = None
    ) -> Self:
        """Build a run's network, optimizer and generators."""
        return cls(config, num_actions=num_actions, stopwatch=stopwatch or Stopwatch())

    # --- The four calls of the loop

    def start(self, observation: NDArray[np.uint8]) -> None:
        """Do nothing: a step brings all that is learned from."""

    def act(self, observation: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Choose epsilon-greedily: int64 [num_envs]; the best values end the step before."""
        rollout = self.rollout
        with self._stopwatch.section("acting"):
            q_values = self.online.q_values(observation)
            if not rollout.is_full:
                if rollout.length > 0:
                    self._value_last_step(q_values)
                self._note_observation(observation)
            self._acted_on = observation
            return self._exploration.choose(q_values, self.steps)

    def learn(self) -> None:
        """Update on the rollout, if it is full, and begin the next one."""
        rollout, config = self.rollout, self._config
        if not rollout.is_full:
            return
        with self._stopwatch.section("update"):
            returns = value_learning.lambda_returns(
                rollout.reward,
                rollout.discount,
                rollout.next_value,
                rollout.goes_on.index_fill(0, torch.tensor(-1), False),
                config.td_lambda,
            ).flatten()
            observation, action = rollout.observation.flatten(0, 1), rollout.action.flatten()
            size = len(returns) // config.num_minibatches
            rate = self._learning_rate(self.steps)
            for _ in range(config.num_epochs):
                order = torch.from_numpy(self._shuffles.permutation(len(returns)))
                for rows in torch.split(order, size):
                    update(self.online, observation[rows], action[rows], returns[rows], rate)
                    self.updates += 1
                    self.played.follow(self.updates)
            rollout.length = 0
            if self._acted_on is not None:  # a run that was resumed at its end acts no more
                self._note_observation(self._acted_on)

    def observe(self, step: EnvStep) -> None:
        """Note one vector step; value the last frames of games that were cut off."""
        rollout, at = self.rollout, self.rollout.length
        with self._stopwatch.section("storing"):
            reward = np.sign(step.reward) if self._config.clip_reward else step.reward
            stops = step.terminated | (step.life_lost & self._terminal_on_life_loss)
            rollout.action[at] = torch.from_numpy(step.action)
            rollout.reward[at] = torch.from_numpy(reward.astype(np.float32))
            discount = np.where(stops, 0.0, self._config.gamma).astype(np.float32)
            rollout.discount[at] = torch.from_numpy(discount)
            rollout.goes_on[at] = torch.from_numpy(~step.restarted)
            cut_off = step.restarted & ~stops
            if cut_off.any():
                values = self.online.q_values(step.next_observation[cut_off]).max(axis=1)
                rollout.next_value[at, torch.from_numpy(cut_off)] = torch.from_numpy(values)
            rollout.length += 1
            self.steps += len(step.action)
            if rollout.is_full:
                self._value_last_step(self.online.q_values(step.observation))

    def _value_last_step(self, q_values: NDArray[np.float32]) -> None:
        """Note the best values of what the last step led to, where its game goes on.

        Where it was cut off, `observe` has valued the true last frame.
        """
        at = self.rollout.length - 1
        best = torch.from_numpy(q_values.max(axis=1))
        own, valued = self.rollout.goes_on[at], self.rollout.next_value[at]
        self.rollout.next_value[at] = torch.where(own, best, valued)

    def _note_observation(self, observation: NDArray[np.uint8]) -> None:
        self.rollout.observation[self.rollout.length] = torch.from_numpy(observation)

    # --- What is learned, and what is told of it

    @property
    def network(self) -> QNetwork:
        """What evaluation, saving and sharing use."""
        return self.played.network

    def q_values(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return its values: float32 [batch, num_actions]."""
        return self.played.q_values(observation)

    def take_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Start from given weights; counters and schedules stay at 0."""
        self.online.load_weights(weights)
        self.played.start()

    @property
    def epsilon(self) -> float:
        """The chance of a random action now."""
        return self._exploration.epsilon(self.steps)

    @property
    def mean_loss(self) -> float:
        """Mean loss since `take_metrics` was called; NaN where no update was made."""
        return self.online.mean_loss

    @property
    def updates_made(self) -> str:
        """How updates are made."""
        return "eager"

    def take_news(self) -> str | None:
        """Return nothing: nothing changes how updates are made."""
        return None

    def take_metrics(self) -> dict[str, float]:
        """Return columns of progress.csv."""
        return self.online.take_metrics() | {"learning_rate": self._learning_rate(self.steps)}

    # --- Checkpoints

    def state(self) -> dict[str, Any]:
        """Return everything small; floats survive JSON exactly."""
        return {
            "counters": {"steps": self.steps, "updates": self.updates},
            "online": self.online.state(),
            **self._exploration.state(),
            "shuffles": generator_state(self._shuffles),
        }

    def files(self, previous: Mapping[str, Any] | None) -> Files:
        """Yield the optimizer and the rollout so far."""
        yield "optimizer.safetensors", self.online.optimizer_bytes()
        columns = {name: column.contiguous() for name, column in self.rollout.columns().items()}
        yield ROLLOUT_FILE, zlib.compress(save_tensors(columns), 1)

    def restore(self, state: Mapping[str, Any], read: Callable[[str], bytes]) -> None:
        """Continue from what `state` and `files` gave."""
        self.steps, self.updates = state["counters"]["steps"], state["counters"]["updates"]
        self.online.restore(
            state["online"],
            weights=load_tensors(read(self.played.online_file)),
            optimizer=read("optimizer.safetensors"),
        )
        self.played.restore(read, self.updates)
        self.rollout.restore(self._read_rollout(read(ROLLOUT_FILE)))
        check_parallel_state(state, self._config, self._num_actions, length=self.rollout.length)
        self._exploration.restore(state)
        restore_generator(self._shuffles, state["shuffles"])

    def _read_rollout(self, content: bytes) -> dict[str, Tensor]:
        """Return the columns of a rollout like this one.

        Raises:
            ValueError: they are damaged, or of other settings.
        """
        whole = {name: getattr(self.rollout, name) for name in Rollout.COLUMNS}
        most_bytes = sum(column.nbytes for column in whole.values()) + 2**16
        try:
            columns = load_tensors(unpack(content, most_bytes, ROLLOUT_FILE))
        except SafetensorError as error:
            raise ValueError(f"{ROLLOUT_FILE} cannot be read: {error}") from error
        if columns.keys() != whole.keys():
            raise ValueError(f"{ROLLOUT_FILE} has other columns than a rollout")
        length = len(columns["action"])
        for name, column in columns.items():
            like = whole[name][:length]
            if column.dtype != like.dtype or column.shape != like.shape:
                raise ValueError(f"{ROLLOUT_FILE} is of another n_envs or rollout_steps")
            require(bool(column.isfinite().all()), ROLLOUT_FILE, name)
        actions = columns["action"]
        num_actions = self._num_actions
        require(bool(((actions >= 0) & (actions < num_actions)).all()), ROLLOUT_FILE, "action")
        return columns

    def check_restored(self, observation: NDArray[np.uint8]) -> None:
        """Do nothing: the environments compare their stacks with the saved ones themselves."""

    # --- Before a run

    @staticmethod
    def memory_bytes(config: Config) -> int:
        """Return the size of a full rollout."""
        row_bytes = config.frame_stack * FRAME_BYTES + 8 + 4 + 4 + 1 + 4
        return config.rollout_steps * config.n_envs * row_bytes

    @staticmethod
    def updates_owed(config: Config, steps: int) -> int:
        """Return the updates that so many steps call for."""
        rollouts = steps // (config.rollout_steps * config.n_envs)
        return rollouts * config.num_epochs * config.num_minibatches

    @staticmethod
    def describe(config: Config) -> dict[str, str]:
        """Return what is learned, from what, and what it takes."""
        rollout = config.rollout_steps * config.n_envs
        updates = ParallelQ.updates_owed(config, config.n_timesteps)
        return {
            "algorithm": f"parallel Q-learning, lambda {config.td_lambda:g}, no replay memory, no "
            "target network",
            "learning": f"{updates:,} updates of {rollout // config.num_minibatches}: "
            f"{config.num_epochs} passes over each {rollout:,} steps",
            "rollout": f"{config.rollout_steps} steps of {config.n_envs} environments, "
            f"{ParallelQ.memory_bytes(config) / 1e9:.2f} GB",
        }

    @staticmethod
    def estimate_seconds(config: Config, timer: Timer) -> float:
        """Time a network of its own on made-up data; the run's own is not touched."""
        online = build_online_network(config, num_actions=MOST_ACTIONS)
        size = config.rollout_steps * config.n_envs // config.num_minibatches
        pixels = torch.zeros((size, config.frame_stack, 84, 84), dtype=torch.uint8)
        observation = np.zeros((config.n_envs, config.frame_stack, 84, 84), np.uint8)
        action, returns = torch.zeros(size, dtype=torch.int64), torch.zeros(size)
        update_s = timer(lambda: update(online, pixels, action, returns, 1e-9))
        act_s = timer(lambda: online.q_values(observation)) / config.n_envs
        updates = ParallelQ.updates_owed(config, config.n_timesteps)
        return config.n_timesteps * act_s + updates * update_s


def update(
    online: OnlineNetwork, observation: Tensor, action: Tensor, returns: Tensor, rate: float
) -> None:
    """Take one gradient step on half the squared error.

    Args:
        online: network and optimizer.
        observation: uint8 [batch, stack, 84, 84], of any layout, on the CPU.
        action: int64 [batch].
        returns: float32 [batch], what Q(observation, action) should be.
        rate: learning rate.
    """
    device = online.device
    frames = channels_last(observation).to(device)
    with online.computing() as network:
        q_selected = value_learning.select(network.q_values(frames), action.to(device))
        error = value_learning.td_error(q_selected, returns.to(device))
        loss = 0.5 * value_learning.squared(error).mean()
    online.step(loss, q_selected.detach().mean(), rate)


def build_online_network(config: Config, *, num_actions: int) -> OnlineNetwork:
    """Build the network and the optimizer of a run, on its device."""
    assert config.seed is not None
    return OnlineNetwork(
        untrained_network(config, num_actions=num_actions),
        OptimizerSettings.from_config(config),
        seed=stream_seed(config.seed, "learner"),
        bfloat16=config.precision == "bfloat16",
    )
