"""Q-learning from a replay memory, with a target network: DQN and its family.

Mnih et al. (2015), algorithm 1, https://www.nature.com/articles/nature14236. The environments are
stepped by the training loop; what each step and each update does is here.
"""

import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from dqn_zoo.algorithms import replay_plan
from dqn_zoo.algorithms.algorithm import Files, Timer, rate_schedule
from dqn_zoo.algorithms.exploration import Exploration
from dqn_zoo.algorithms.saved_minibatch import READY, minibatch_bytes, read_minibatch
from dqn_zoo.algorithms.saved_state import check_replay_state
from dqn_zoo.envs.environments import EnvStep
from dqn_zoo.learning.averaged import PlayedWeights
from dqn_zoo.learning.losses import Minibatch
from dqn_zoo.networks.network import QNetwork, weights_on_cpu
from dqn_zoo.replay.frame_files import compressed_frames, restore_frames
from dqn_zoo.replay.memory import Batch, Replay
from dqn_zoo.replay.samplers import Draw, build_sampler
from dqn_zoo.replay.saved_rows import read_rows
from dqn_zoo.replay.transitions import TransitionAccumulator
from dqn_zoo.seeding import generator_state, restore_generator, stream_generator
from dqn_zoo.settings.config import Config
from dqn_zoo.system.beside import Beside
from dqn_zoo.system.devices import channels_last
from dqn_zoo.system.stopwatch import Stopwatch


class ReplayQ:
    """The DQN family; see `Algorithm` for what the methods promise.

    Attributes:
        learner: online and target network, optimizer.
        replay: the memory.
        accumulator: makes transitions of steps.
    """

    size_key: ClassVar[str] = "buffer_size"

    def __init__(self, config: Config, *, num_actions: int, stopwatch: Stopwatch) -> None:
        assert config.seed is not None, "the seed is drawn before the run is built"
        self.steps = 0
        self.updates = 0
        self._target_copies = 0
        self._config = config
        self._num_actions = num_actions
        self._stopwatch = stopwatch
        self.learner = replay_plan.build_learner(config, num_actions=num_actions)
        self.played = PlayedWeights(self.learner.online, config.averaged_weights)
        self._recorded = replay_plan.record_updates(config, self.learner)
        self._prepares_ahead = replay_plan.prepares_ahead(config)
        self._second_thread = replay_plan.second_thread(config)
        self._ready: Minibatch | None = None
        device = self.learner.online.device
        shape, rule = replay_plan.replay_shape(config), replay_plan.transition_rule(config)
        self.replay = Replay(shape, build_sampler(config, device), device)
        self.accumulator = TransitionAccumulator(
            config.n_envs, config.frame_stack, rule, self.replay.frames.append
        )
        self._exploration = Exploration(config, random_steps=config.learning_starts)
        self._replay_draws = stream_generator(config.seed, "replay")
        self._learning_rate = rate_schedule(config)

    @classmethod
    def from_config(
        cls, config: Config, *, num_actions: int, stopwatch: Stopwatch | None = None
    ) -> Self:
        """Build a run's networks, memory and generators."""
        return cls(config, num_actions=num_actions, stopwatch=stopwatch or Stopwatch())

    # --- The four calls of the loop

    def start(self, observation: NDArray[np.uint8]) -> None:
        """Store the first frames."""
        self.accumulator.reset(observation)

    def act(self, observation: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Choose epsilon-greedily: int64 [num_envs]."""
        with self._stopwatch.section("acting"):
            if self.steps < self._config.learning_starts:
                # The values play no part yet; the draws are the same as ever.
                q_values = np.zeros((len(observation), self._num_actions), np.float32)
            else:
                q_values = self.learner.online.noisy_q_values(observation)
            return self._exploration.choose(q_values, self.steps)

    def learn(self) -> None:
        """Copy the target network and make updates: those that the steps so far are owed.

        All minibatches are drawn before the first update, and all priorities are set after the
        last, so that eager and recorded updates agree.
        """
        config = self._config
        target_copies = self.steps // config.target_update_interval
        if target_copies > self._target_copies:
            self._target_copies = target_copies
            self.learner.sync_target()
        due = replay_plan.updates_owed(config, self.steps) - self.updates
        if due == 0 or len(self.replay) == 0:
            return
        size, rate = config.batch_size, self._learning_rate(self.steps)
        count = due + 1 if self._prepares_ahead and self._ready is None else due
        with self._stopwatch.section("sampling"):
            draw = self.replay.draw(size, self._replay_draws, step=self.steps, num_batches=count)
        priorities: list[Tensor] = []
        if self._prepares_ahead:
            self._learn_ahead(draw, rate)
        else:
            for part in draw.split(self._most_at_once * size):
                with self._stopwatch.section("sampling"):
                    batch = self._gather(part)
                with self._stopwatch.section("update"):
                    if self._most_at_once == 1:
                        priorities.append(self.learner.step(self.learner.prepare(batch), rate))
                    else:
                        updated = self._update(batch, rate, len(part.rows) // size)
                        priorities += torch.split(updated, size)
            with self._stopwatch.section("sampling"):
                for rows, priority in zip(torch.split(draw.rows, size), priorities, strict=True):
                    self.replay.update_priorities(rows, priority)
        self.updates += due
        self.played.follow(self.updates)

    def _learn_ahead(self, draw: Draw, rate: float) -> None:
        """Learn from each minibatch while the next one is made ready; the last one stays over.

        Deviation: a minibatch is drawn an update before its turn, and its targets come from the
        networks as they were then (as in Daley and Amato, 2021, https://arxiv.org/abs/2111.01264).
        """
        for part in draw.split(self._config.batch_size):
            with self._stopwatch.section("update"):
                if self._ready is None:
                    self._ready = self._prepare(part)
                else:
                    following = Beside(partial(self._prepare, part), self._second_thread)
                    self.learner.step(self._ready, rate, following)
                    self._ready = following.result()

    def _prepare(self, draw: Draw) -> Minibatch:
        return self.learner.prepare(self._gather(draw))

    def observe(self, step: EnvStep) -> None:
        """Make transitions of one vector step and put them into the memory."""
        with self._stopwatch.section("storing"):
            self.replay.add(self.accumulator.add(step))
            self.steps += len(step.action)

    @property
    def _most_at_once(self) -> int:
        """Minibatches whose next observations go through the target network together.

        The convolutions of a GPU take many as fast as one. A CPU computes with pixels that are
        still in its cache.
        """
        alone = self.learner.online.device.type == "cpu" and self._recorded is None
        return 1 if alone else replay_plan.MOST_AT_ONCE

    @property
    def _update(self) -> Callable[[Batch, float, int], Tensor]:
        return self.learner.update if self._recorded is None else self._recorded.update

    def _gather(self, draw: Draw) -> Batch:
        """Return drawn minibatches, laid out as the convolutions take them."""
        batch = self.replay.gather(draw)
        return batch._replace(
            observation=channels_last(batch.observation),
            next_observation=channels_last(batch.next_observation),
        )

    # --- What is learned, and what is told of it

    @property
    def network(self) -> QNetwork:
        """What evaluation, saving and sharing use."""
        return self.played.network

    def q_values(self, observation: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return its values without noise: float32 [batch, num_actions]."""
        return self.played.q_values(observation)

    def take_weights(self, weights: Mapping[str, Tensor]) -> None:
        """Start from given weights in both networks; counters and schedules stay at 0."""
        self.learner.load_weights(online=weights, target=weights)
        self.played.start()

    @property
    def epsilon(self) -> float:
        """The chance of a random action now: 1 until learning starts, then the schedule."""
        return self._exploration.epsilon(self.steps)

    @property
    def mean_loss(self) -> float:
        """Mean loss since `take_metrics` was called; NaN where no update was made."""
        return self.learner.online.mean_loss

    @property
    def updates_made(self) -> str:
        """How updates are made now."""
        return "eager" if self._recorded is None else self._recorded.status

    def take_news(self) -> str | None:
        """Return one line for the user if it changed how updates are made, once."""
        return None if self._recorded is None else self._recorded.take_news()

    def take_metrics(self) -> dict[str, float]:
        """Return columns of progress.csv."""
        return self.learner.online.take_metrics() | {
            "learning_rate": self._learning_rate(self.steps),
            "replay_size": len(self.replay),
        }

    # --- Checkpoints

    def state(self) -> dict[str, Any]:
        """Return everything small; floats survive JSON exactly."""
        return {
            "counters": {
                "steps": self.steps,
                "updates": self.updates,
                "target_copies": self._target_copies,
            },
            "accumulator": self.accumulator.state(),
            "learner": self.learner.online.state(),
            "replay": self.replay.state(),
            **self._exploration.state(),
            "replay_draws": generator_state(self._replay_draws),
            "ready": [] if self._ready is None else list(self._ready.targets.shape),
        }

    def files(self, previous: Mapping[str, Any] | None) -> Files:
        """Yield the target network, the optimizer, and the memory: its rows and its frames."""
        yield "target.safetensors", save_tensors(weights_on_cpu(self.learner.target))
        yield "optimizer.safetensors", self.learner.online.optimizer_bytes()
        yield "rows.z", zlib.compress(save_tensors(self.replay.rows()), 1)
        if self._ready is not None:
            yield READY, minibatch_bytes(self._ready)
        written_before = 0 if previous is None else previous["replay"]["frames_written"]
        yield from compressed_frames(self.replay.frames, written_before)

    def restore(self, state: Mapping[str, Any], read: Callable[[str], bytes]) -> None:
        """Continue from what `state` and `files` gave."""
        check_replay_state(state, self._config, self._num_actions, self.replay.frames.ring_size)
        counters = state["counters"]
        self.steps, self.updates = counters["steps"], counters["updates"]
        self._target_copies = counters["target_copies"]
        self.learner.restore(
            state["learner"],
            online=load_tensors(read(self.played.online_file)),
            target=load_tensors(read("target.safetensors")),
            optimizer=read("optimizer.safetensors"),
        )
        self.played.restore(read, self.updates)
        saved = state["replay"]
        rows = read_rows(read("rows.z"), self.replay, saved, num_actions=self._num_actions)
        self.replay.restore(saved, rows)
        restore_frames(self.replay.frames, read)
        if self._prepares_ahead and state.get("ready"):
            self._ready = read_minibatch(
                read(READY), state["ready"], self._config, num_actions=self._num_actions
            )
        self.accumulator.restore(state["accumulator"])
        self._exploration.restore(state)
        restore_generator(self._replay_draws, state["replay_draws"])

    def check_restored(self, observation: NDArray[np.uint8]) -> None:
        """Compare what the emulators show after the replay with the frames in the memory."""
        ids = torch.from_numpy(self.accumulator.observation).to(self.learner.online.device)
        if not np.array_equal(self.replay.frames.gather(ids).cpu().numpy(), observation):
            raise ValueError(
                "the emulators did not arrive at the stored frames after replaying their actions; "
                "another version of ale-py or another machine type?"
            )

    # --- Before a run: see `replay_plan.py`

    @staticmethod
    def memory_bytes(config: Config) -> int:
        """Return the size of the full replay memory."""
        return replay_plan.memory_bytes(config)

    @staticmethod
    def describe(config: Config) -> dict[str, str]:
        """Return what is learned, from what, and what it takes."""
        return replay_plan.describe(config)

    @staticmethod
    def estimate_seconds(config: Config, timer: Timer) -> float:
        """Time a network of its own on made-up data."""
        return replay_plan.estimate_seconds(config, timer)
