"""Everything a run is made of, and how it is saved and restored.

`training.py` decides when things happen; this module is what they happen to.
"""

import json
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from dqn_zoo.envs.environments import Environments, EnvSettings, EnvStep, make_envs
from dqn_zoo.errors import UserError
from dqn_zoo.learning.cuda_graph import CudaRecorder
from dqn_zoo.learning.learner import Learner, OptimizerSettings
from dqn_zoo.learning.losses import build_loss
from dqn_zoo.networks.network import (
    NetworkSettings,
    build_network,
    channels_last,
    with_current_names,
)
from dqn_zoo.play.agent import weights_bytes
from dqn_zoo.replay.memory import Batch, Replay, ReplayShape
from dqn_zoo.replay.samplers import Draw, build_sampler
from dqn_zoo.replay.transitions import TransitionAccumulator, TransitionRule
from dqn_zoo.runs.checkpoint import Checkpoint, DamagedError
from dqn_zoo.runs.metrics import EpisodeStatistics, FinishedEpisode
from dqn_zoo.schedules import LinearSchedule, epsilon_greedy
from dqn_zoo.seeding import generator_state, restore_generator, stream_generator, stream_seed
from dqn_zoo.settings.config import Config, initial_learning_rate
from dqn_zoo.settings.games import protocol_from_config
from dqn_zoo.system.machine import usable_cores
from dqn_zoo.system.stopwatch import Stopwatch, timed

FRAMES_FILE = "frames_{:05d}.z"
MOST_COMPRESSORS = 8


@dataclass
class Counters:
    """What has been done so far.

    What is *due* follows from `steps` alone (steps // period), so a period fires at the first
    vector step whose count passes a multiple, and nothing depends on when a run was interrupted.
    """

    steps: int = 0
    updates: int = 0
    target_copies: int = 0
    log_rows: int = 0
    evaluations: int = 0


@dataclass
class Best:
    """The best evaluation so far and the weights that played it."""

    score: float | None = None
    steps: int = 0
    weights: dict[str, torch.Tensor] = field(default_factory=dict)


class Trainer:
    """A run in memory: environments, replay, learner, generators and counters.

    Args:
        config: complete; `seed`, `device`, `num_threads` and `precision` are resolved.
        stopwatch: counts where the time goes; None: one of its own.
    """

    def __init__(self, config: Config, stopwatch: Stopwatch | None = None) -> None:
        assert config.seed is not None, "the seed is drawn before the run is built"
        self.config = config
        self.counters = Counters()
        self.best = Best()
        self.stopwatch = stopwatch or Stopwatch()
        self._elapsed_before_s = 0.0
        self._began = time.monotonic()
        self.envs = _build_envs(config)
        self.learner = build_learner(config, num_actions=self.envs.num_actions)
        self.replay = Replay(
            replay_shape(config), build_sampler(config, self.learner.device), self.learner.device
        )
        self.accumulator = TransitionAccumulator(
            config.n_envs, config.frame_stack, _transition_rule(config), self.replay.frames.append
        )
        self.statistics = EpisodeStatistics(config.n_envs)
        self.exploration = stream_generator(config.seed, "exploration")
        self.replay_draws = stream_generator(config.seed, "replay")
        self.epsilon = epsilon_schedule(config)
        self.learning_rate = learning_rate_schedule(config)
        self.observation: NDArray[np.uint8] | None = None

    @property
    def elapsed_s(self) -> float:
        """Seconds of wall-clock time of the run so far, summed over resumes."""
        return self._elapsed_before_s + time.monotonic() - self._began

    def close(self) -> None:
        """Close the emulators."""
        self.envs.close()

    def take_weights(self, weights: dict[str, torch.Tensor]) -> None:
        """Start from given weights in both networks; counters and schedules stay at 0.

        Raises:
            UserError: if they do not fit the network.
        """
        try:
            self.learner.load_weights(online=weights, target=weights)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"the given weights do not fit this game's network: {reason}"
            ) from error

    def start(self) -> None:
        """Reset the environments; the run begins at step 0."""
        self.observation = self.envs.reset()
        self.accumulator.reset(self.observation)

    # --- Sampling: act, and store what the emulators answer

    def current_epsilon(self) -> float:
        """Return the chance of a random action now: 1 until learning starts, then the schedule."""
        steps = self.counters.steps
        return 1.0 if steps < self.config.learning_starts else self.epsilon(steps)

    @timed("acting")
    def choose_actions(self) -> NDArray[np.int64]:
        """Choose an action per environment: int64 [num_envs]."""
        assert self.observation is not None, "start or restore comes first"
        if self.counters.steps < self.config.learning_starts:
            # The values play no part before learning starts; the draws are the same as ever.
            q_values = np.zeros((self.envs.num_envs, self.envs.num_actions), np.float32)
        else:
            q_values = self.learner.noisy_q_values(self.observation)
        return epsilon_greedy(q_values, self.current_epsilon(), self.exploration)

    @timed("storing")
    def store(self, step: EnvStep) -> list[FinishedEpisode]:
        """Put one vector step into the memory and return the games that ended in it."""
        self.replay.add(self.accumulator.add(step))
        self.observation = step.observation
        self.counters.steps += self.envs.num_envs
        return self.statistics.add(step)

    # --- Training: minibatches and updates

    def updates_due(self) -> int:
        """Return how many updates the steps so far are owed; any number of environments agrees."""
        owed = updates_owed(self.config, self.counters.steps)
        return owed - self.counters.updates if len(self.replay) > 0 else 0

    @timed("update")
    def learn(self, num_updates: int) -> None:
        """Make updates: first all minibatches are drawn, at the end all priorities are set."""
        steps, size = self.counters.steps, self.config.batch_size
        with self.stopwatch.section("sampling"):
            draws = [
                self.replay.draw(size, self.replay_draws, step=steps, num_batches=number)
                for number in self._shares(num_updates)
            ]
        batches = (batch for draw in draws for batch in self._gather(draw))
        priorities = self.learner.updates(batches, self.learning_rate(steps))
        with self.stopwatch.section("sampling"):
            drawn = (rows for draw in draws for rows in torch.split(draw.rows, size))
            for rows, priority in zip(drawn, priorities, strict=True):
                self.replay.update_priorities(rows, priority)
        self.counters.updates += num_updates

    def _shares(self, num_updates: int) -> list[int]:
        """Return how many minibatches are gathered at once, adding up to all of them."""
        most = self.learner.most_at_once
        return [min(most, num_updates - done) for done in range(0, num_updates, most)]

    @timed("sampling")
    def _gather(self, draw: Draw) -> list[Batch]:
        """Return the minibatches of a draw, laid out as the convolutions take them."""
        batch = self.replay.gather(draw)
        batch = batch._replace(
            observation=channels_last(batch.observation),
            next_observation=channels_last(batch.next_observation),
        )
        return batch.split(self.config.batch_size)

    # --- Saving and restoring

    def note_best(self, score: float) -> None:
        """Keep the weights of now as the best."""
        self.best = Best(score, self.counters.steps, _on_cpu(self.learner.online))

    def best_bytes(self) -> bytes:
        """Return the best weights as safetensors, with what they are in the header."""
        return self._weights_bytes(self.best.weights, self.best.steps)

    def weights_bytes(self) -> bytes:
        """Return the online weights as safetensors, with what they are in the header."""
        return self._weights_bytes(_on_cpu(self.learner.online), self.counters.steps)

    def _weights_bytes(self, weights: dict[str, torch.Tensor], steps: int) -> bytes:
        config = self.config
        about = {"env": config.env, "algo": config.algo, "protocol": config.protocol}
        return weights_bytes(weights, about | {"steps": steps})

    def _state_bytes(self, log_offsets: dict[str, int]) -> bytes:
        """Return everything small that a checkpoint keeps; floats survive JSON exactly."""
        state = {
            "counters": asdict(self.counters),
            "best": {"score": self.best.score, "steps": self.best.steps},
            "elapsed_s": self.elapsed_s,
            "environments": self.envs.state(),
            "accumulator": self.accumulator.state(),
            "statistics": self.statistics.state(),
            "learner": self.learner.state(),
            "replay": self.replay.state(),
            "exploration": generator_state(self.exploration),
            "replay_draws": generator_state(self.replay_draws),
            "log_offsets": log_offsets,
        }
        return json.dumps(state).encode()

    def files(
        self, log_offsets: dict[str, int], previous: Checkpoint | None
    ) -> Iterator[tuple[str, bytes | None]]:
        """Yield name and content of every file of a checkpoint; None: as in `previous`."""
        yield "state.json", self._state_bytes(log_offsets)
        yield "model.safetensors", self.weights_bytes()
        yield "target.safetensors", save_tensors(_on_cpu(self.learner.target))
        yield "optimizer.pt", self.learner.optimizer_bytes()
        if self.best.score is not None:
            yield "best.safetensors", self.best_bytes()
        yield "rows.z", zlib.compress(save_tensors(self.replay.rows()), 1)
        yield from self._frame_files(previous)

    def _frame_files(self, previous: Checkpoint | None) -> Iterator[tuple[str, bytes | None]]:
        frames = self.replay.frames
        written_before = 0
        if previous is not None:
            written_before = json.loads(previous.read("state.json"))["replay"]["frames_written"]

        def compressed(number: int, changed: bool) -> bytes | None:
            return zlib.compress(frames.read_chunk(number), 1) if changed else None

        # zlib releases the interpreter lock. Few chunks are under way, since a slow disk would let
        # them pile up in memory; those that are not wanted any more are not compressed.
        workers = min(usable_cores(), MOST_COMPRESSORS)
        pool = ThreadPoolExecutor(workers)
        under_way: deque[tuple[int, Future[bytes | None]]] = deque()
        try:
            for number, changed in frames.chunks(written_before):
                under_way.append((number, pool.submit(compressed, number, changed)))
                if len(under_way) > workers:
                    first, content = under_way.popleft()
                    yield FRAMES_FILE.format(first), content.result()
            for first, content in under_way:
                yield FRAMES_FILE.format(first), content.result()
        finally:
            pool.shutdown(cancel_futures=True)

    def restore(
        self, checkpoint: Checkpoint, on_progress: Callable[[int, int], None] | None = None
    ) -> dict[str, int]:
        """Continue from a checkpoint and return the byte offsets of the logs.

        Args:
            checkpoint: verified.
            on_progress: told (done, total) while the emulators replay their actions.

        Raises:
            DamagedError: if the emulators do not arrive at the frames that were stored.
        """
        state: dict[str, Any] = json.loads(checkpoint.read("state.json"))
        self.counters = Counters(**state["counters"])
        self._elapsed_before_s = state["elapsed_s"]
        self._began = time.monotonic()
        self.best = Best(**state["best"])
        if self.best.score is not None:
            self.best.weights = _weights(checkpoint, "best.safetensors")
        self.learner.restore(
            state["learner"],
            online=_weights(checkpoint, "model.safetensors"),
            target=_weights(checkpoint, "target.safetensors"),
            optimizer=checkpoint.read("optimizer.pt"),
        )
        self.replay.restore(
            state["replay"], load_tensors(zlib.decompress(checkpoint.read("rows.z")))
        )
        for number, _ in self.replay.frames.chunks(0):
            pixels = zlib.decompress(checkpoint.read(FRAMES_FILE.format(number)))
            self.replay.frames.write_chunk(number, pixels)
        self.accumulator.restore(state["accumulator"])
        self.statistics.restore(state["statistics"])
        restore_generator(self.exploration, state["exploration"])
        restore_generator(self.replay_draws, state["replay_draws"])
        self.observation = self.envs.restore(state["environments"], on_progress)
        self._check_observation()
        offsets: dict[str, int] = state["log_offsets"]
        return offsets

    def _check_observation(self) -> None:
        """Compare what the emulators show after the replay with the frames in the memory."""
        ids = torch.from_numpy(self.accumulator.observation).to(self.learner.device)
        stored = self.replay.frames.gather(ids).cpu().numpy()
        if self.observation is None or not np.array_equal(stored, self.observation):
            raise DamagedError(
                "the emulators did not arrive at the stored frames after replaying their actions; "
                "another version of ale-py or another machine type?"
            )


def replay_shape(config: Config) -> ReplayShape:
    """Return what decides the size of the memory."""
    return ReplayShape(
        config.buffer_size,
        config.n_envs,
        config.n_steps,
        config.frame_stack,
        prioritized=config.replay == "prioritized",
    )


def updates_owed(config: Config, steps: int) -> int:
    """Return the updates that so many steps call for."""
    learning_steps = max(0, steps - config.learning_starts)
    return learning_steps // config.train_freq * config.gradient_steps


def epsilon_schedule(config: Config) -> LinearSchedule:
    """Return epsilon as a function of the step (Mnih et al., 2015, Methods)."""
    horizon = int(config.exploration_fraction * config.n_timesteps)
    return LinearSchedule(config.exploration_initial_eps, config.exploration_final_eps, horizon)


def learning_rate_schedule(config: Config) -> LinearSchedule:
    """Return the learning rate as a function of the step: a constant, or `lin_X` falling to 0."""
    rate = initial_learning_rate(config)
    falls = isinstance(config.learning_rate, str)
    return LinearSchedule(rate, 0.0 if falls else rate, config.n_timesteps)


def _build_envs(config: Config) -> Environments:
    assert config.seed is not None
    return make_envs(
        config.env,
        config.n_envs,
        settings=EnvSettings.from_config(config),
        seed=stream_seed(config.seed, "environments"),
    )


def build_learner(config: Config, *, num_actions: int) -> Learner:
    """Build the networks and the optimizer of a run, on its device."""
    assert config.seed is not None
    if config.device == "cuda":
        # Tried out once per shape: cuDNN's own choice can take twice as long for few channels.
        torch.backends.cudnn.benchmark = True
        # What PyTorch does in convolutions anyway: multiply float32 with 10 bits of mantissa.
        torch.backends.cuda.matmul.allow_tf32 = True
    network = build_network(
        NetworkSettings.from_config(config),
        num_actions=num_actions,
        seed=stream_seed(config.seed, "network"),
    )
    return Learner(
        network.to(config.device),
        build_loss(config),
        OptimizerSettings(config.optimizer, config.optimizer_eps, config.max_grad_norm),
        seed=stream_seed(config.seed, "learner"),
        bfloat16=config.precision == "bfloat16",
        recorder=CudaRecorder() if uses_cuda_graph(config) else None,
        compiled_torso=compiles_torso(config),
    )


def uses_cuda_graph(config: Config) -> bool:
    """Return whether a run with this (complete) config tries to record its updates."""
    return config.device == "cuda" and config.cuda_graph == "auto"


def compiles_torso(config: Config) -> bool:
    """Return whether the updates of a run with this (complete) config compile the torso."""
    return (
        config.device == "cuda" and config.network == "impala" and config.compiled_torso == "auto"
    )


def _transition_rule(config: Config) -> TransitionRule:
    return TransitionRule(
        n_steps=config.n_steps,
        gamma=config.gamma,
        clip_reward=config.clip_reward,
        terminal_on_life_loss=protocol_from_config(config).terminal_on_life_loss,
    )


def _weights(checkpoint: Checkpoint, name: str) -> dict[str, torch.Tensor]:
    return with_current_names(load_tensors(checkpoint.read(name)))


def _on_cpu(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return a copy of the weights on the CPU."""
    return {
        name: value.detach().cpu().clone().contiguous()
        for name, value in network.state_dict().items()
    }
