"""What the settings of a run of `ReplayQ` call for: parts, memory, updates, time."""

import math
from collections.abc import Callable

import numpy as np
import torch

from dqn_zoo.algorithms.algorithm import MOST_ACTIONS, Timer, untrained_network
from dqn_zoo.learning.cuda_graph import WARM_UPS, CudaRecorder, RecordedUpdates
from dqn_zoo.learning.learner import Learner
from dqn_zoo.learning.losses import build_loss
from dqn_zoo.learning.online_network import OptimizerSettings
from dqn_zoo.replay.memory import Batch
from dqn_zoo.replay.shape import ReplayShape
from dqn_zoo.replay.transitions import TransitionRule
from dqn_zoo.seeding import stream_seed
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.protocols import protocol_from_config
from dqn_zoo.system.beside import Beside, SecondThread
from dqn_zoo.system.devices import channels_last

MOST_AT_ONCE = 16  # updates in one CUDA graph


def memory_bytes(config: Config) -> int:
    """Return the size of the full replay memory."""
    return replay_shape(config).num_bytes


def updates_owed(config: Config, steps: int) -> int:
    """Return the updates that so many steps call for; any number of environments agrees."""
    learning_steps = max(0, steps - config.learning_starts)
    if config.train_freq_later is None:
        return learning_steps // config.train_freq * config.gradient_steps
    early_steps = min(learning_steps, max(0, config.n_timesteps // 2 - config.learning_starts))
    late_rounds = (learning_steps - early_steps) // config.train_freq_later
    return (early_steps // config.train_freq + late_rounds) * config.gradient_steps


def minibatches_together(config: Config) -> int:
    """Return how many are gathered at once, at most, in a run with this (complete) config."""
    if config.device == "cpu":
        return 1
    period = min(config.train_freq, config.train_freq_later or config.train_freq)
    return min(MOST_AT_ONCE, math.ceil(config.n_envs / period) * config.gradient_steps)


def with_mean_train_freq(config: Config) -> Config:
    """Return settings that make as many updates in each half as both halves of a run together."""
    if config.train_freq_later is None:
        return config
    # A round every a steps and then every b is a + b rounds in 2 * a * b steps.
    rounds = config.train_freq + config.train_freq_later
    steps = 2 * config.train_freq * config.train_freq_later
    common = math.gcd(rounds, steps)
    means = {
        "train_freq": steps // common,
        "train_freq_later": None,
        "gradient_steps": config.gradient_steps * rounds // common,
    }
    return config.model_copy(update=means)


def describe(config: Config) -> dict[str, str]:
    """Return what is learned, from what, and what it takes."""
    updates = updates_owed(config, config.n_timesteps)
    recorded = ", CUDA graph" if uses_cuda_graph(config) else ""
    compiled = ", compiled" if compiles_torso(config) else ""
    ahead = ", targets one ahead" if prepares_ahead(config) else ""
    later = (
        f", every {config.train_freq} steps and every {config.train_freq_later} from step "
        f"{config.n_timesteps // 2:,}"
        if config.train_freq_later is not None
        else ""
    )
    return {
        "algorithm": f"loss {config.loss}, bootstrap {config.bootstrap}, n = {config.n_steps}",
        "learning": f"{updates:,} updates of {config.batch_size}, from step "
        f"{config.learning_starts:,}{later}{recorded}{compiled}{ahead}",
        "replay": f"{config.replay}, {config.buffer_size:,} transitions, "
        f"{replay_shape(config).num_bytes / 1e9:.2f} GB",
    }


def estimate_seconds(config: Config, timer: Timer) -> float:
    """Time a network of its own on made-up data; the run's own is not touched."""
    learner = build_learner(config, num_actions=MOST_ACTIONS)
    recorded = record_updates(config, learner)
    batch = _made_up_batch(config)
    update = _update_of(config, learner, recorded, batch)
    observation = np.zeros((config.n_envs, config.frame_stack, 84, 84), np.uint8)
    # A recording comes after the warm-up; what counts is its repetition.
    num_first = 1 if recorded is None else WARM_UPS + 1
    update_s = timer(update, num_first=num_first)
    act_s = timer(lambda: learner.online.noisy_q_values(observation)) / len(observation)
    learning_steps = max(0, config.n_timesteps - config.learning_starts)
    updates = updates_owed(config, config.n_timesteps)
    return learning_steps * act_s + updates * update_s


def build_learner(config: Config, *, num_actions: int) -> Learner:
    """Build the networks and the optimizer of a run, on its device."""
    assert config.seed is not None
    return Learner(
        untrained_network(config, num_actions=num_actions),
        build_loss(config),
        OptimizerSettings.from_config(config),
        seed=stream_seed(config.seed, "learner"),
        bfloat16=config.precision == "bfloat16",
        compiled_torso=compiles_torso(config),
    )


def record_updates(config: Config, learner: Learner) -> RecordedUpdates | None:
    """Return what records the updates of a learner, where the run wants that."""
    return RecordedUpdates(learner, CudaRecorder()) if uses_cuda_graph(config) else None


def prepares_ahead(config: Config) -> bool:
    """Return whether a run with this (complete) config computes targets an update ahead.

    Noise and spectral norms would change in the midst of a backward pass, and a row that was drawn
    could lose its place in the memory before its priority is known.
    """
    still = config.noisy_sigma is None and not config.spectral_norm
    return (
        config.targets_ahead == "auto"
        and config.device == "cpu"
        and config.replay == "uniform"
        and still
    )


def second_thread(config: Config) -> SecondThread | None:
    """Return what computes ahead; where PyTorch has several threads, these have the cores."""
    return SecondThread() if prepares_ahead(config) and config.num_threads == 1 else None


def uses_cuda_graph(config: Config) -> bool:
    """Return whether a run with this (complete) config tries to record its updates."""
    return config.device == "cuda" and config.cuda_graph == "auto"


def compiles_torso(config: Config) -> bool:
    """Return whether the updates of a run with this (complete) config compile the torso."""
    return (
        config.device == "cuda" and config.network == "impala" and config.compiled_torso == "auto"
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


def transition_rule(config: Config) -> TransitionRule:
    """Return how steps become transitions."""
    return TransitionRule(
        n_steps=config.n_steps,
        gamma=config.gamma,
        clip_reward=config.clip_reward,
        terminal_on_life_loss=protocol_from_config(config).terminal_on_life_loss,
    )


def _update_of(
    config: Config, learner: Learner, recorded: RecordedUpdates | None, batch: Batch
) -> Callable[[], object]:
    """Return an update on a minibatch, made as the run will make it."""
    if prepares_ahead(config):
        thread, ready = second_thread(config), learner.prepare(batch)
        return lambda: learner.step(ready, 1e-9, Beside(lambda: learner.prepare(batch), thread))
    update = learner.update if recorded is None else recorded.update
    return lambda: update(batch, 1e-9)


def _made_up_batch(config: Config) -> Batch:
    """Return a minibatch of black transitions."""
    size = config.batch_size
    pixels = torch.zeros((size, config.frame_stack, 84, 84), dtype=torch.uint8)
    pixels = channels_last(pixels.to(config.device))
    ones = torch.ones(size, device=config.device)
    action = torch.zeros(size, dtype=torch.int64, device=config.device)
    return Batch(pixels, action, ones, ones, pixels, ones, action)
