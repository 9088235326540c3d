"""What is settled before a run starts: device, threads, precision, memory, likely duration."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from dqn_zoo.algorithms.algorithm import MOST_ACTIONS
from dqn_zoo.algorithms.choice import algorithm_of
from dqn_zoo.errors import UserError
from dqn_zoo.learning.losses import network_settings
from dqn_zoo.networks.shapes import network_of_shapes
from dqn_zoo.settings.config import Config
from dqn_zoo.system import machine
from dqn_zoo.training.rates import about

NOMINAL_START_S = 0.2  # one environment: its ROM is loaded twice, once with its seed
NOMINAL_EMULATOR_S = 4e-4  # one step of one environment on one core: 2,300 to 2,900 a second
BESIDE_BYTES = {"cpu": 500_000_000, "cuda": 1_500_000_000}
"""The process with all that it imports: 0.43 to 0.5 GB were measured on a CPU; on a GPU there are a
CUDA graph and cuDNN's workspaces."""

EMULATOR_BYTES = 2_000_000
"""Of one environment, its frames included: 1.7 MB were measured over 32 of them."""

BUSY = 1.5
"""From this factor on a machine counts as busy; clocks and caches alone make less of it."""

MANY = 1_000  # more of what decides the memory, to see what each takes


def complete(config: Config) -> Config:
    """Settle what the config leaves open: seed, device, threads, precision, checkpoint interval.

    Raises:
        UserError: if the device is cuda and there is none.
    """
    device = machine.choose_device(config.device)
    precision = config.precision
    if precision == "auto":
        precision = "bfloat16" if machine.supports_bfloat16(device) else "float32"
    save_freq = config.save_freq
    if save_freq is None:
        save_freq = _default_save_freq(config.n_timesteps, device)
    seed = config.seed
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0] >> 1)
    threads = config.num_threads or machine.default_num_threads(device, machine.usable_cores())
    settled = {"device": device, "precision": precision, "save_freq": save_freq}
    return config.model_copy(update=settled | {"seed": seed, "num_threads": threads})


def _default_save_freq(n_timesteps: int, device: str) -> int:
    """Return the steps between checkpoints, rarer where steps are fast and the run is long."""
    return min(1_000_000, max(100_000, n_timesteps // 10)) if device == "cuda" else 100_000


def memory_bytes(config: Config) -> int:
    """Return what a run with this (complete) config takes on the device where it learns."""
    return BESIDE_BYTES[config.device] + sum(memory_parts(config).values())


def memory_parts(config: Config) -> dict[str, int]:
    """Return what takes memory, in bytes, by the setting that decides how much."""
    algorithm = algorithm_of(config)
    network_bytes, example_bytes = network_sizes(config)
    is_parallel = config.algorithm == "parallel"
    minibatch = (
        config.rollout_steps * config.n_envs // config.num_minibatches
        if is_parallel
        else config.batch_size
    )
    return {
        algorithm.size_key: algorithm.memory_bytes(config),
        "num_minibatches" if is_parallel else "batch_size": minibatch * example_bytes,
        # What is computed of an observation to act on it, and the emulator itself.
        "n_envs": config.n_envs * (example_bytes // 4 + EMULATOR_BYTES),
        "network": network_bytes,
    }


def check_memory(config: Config) -> None:
    """Refuse a run that does not fit, with the largest that would.

    Raises:
        UserError: if it does not fit.
    """
    parts = memory_parts(config)
    key = max(parts, key=lambda key: parts[key])
    needed, free = memory_bytes(config), _free_memory_bytes(config.device)
    if key in ("network", "num_minibatches") and needed > free:
        choose = {"network": "a smaller network", "num_minibatches": "more of them"}[key]
        raise UserError(
            f"{key} needs {parts[key] / 1e9:.1f} GB of {needed / 1e9:.1f} GB in all and "
            f"{free / 1e9:.1f} GB is free: choose {choose}"
        )
    size = getattr(config, key)
    if isinstance(size, str):  # it fits, and no number decides
        return
    larger = config.model_copy(update={key: size + MANY})
    machine.check_memory(
        needed,
        (memory_bytes(larger) - needed) / MANY,
        key=key,
        size=size,
        available=free,
    )


def network_sizes(config: Config) -> tuple[int, int]:
    """Return the bytes of the networks with their optimizer, and of an example in a minibatch.

    Nothing is computed and nothing allocated: shapes alone go through the torso.
    """
    settings = network_settings(config)
    activations = 0

    def count(_: object, __: object, output: torch.Tensor) -> None:
        nonlocal activations
        activations += output.numel()

    network = network_of_shapes(settings, num_actions=MOST_ACTIONS)
    for layer in network.torso.modules():
        if not list(layer.children()):
            layer.register_forward_hook(count)
    device = next(network.parameters()).device
    with torch.no_grad():
        features = network.torso(torch.zeros(1, config.frame_stack, 84, 84, device=device))
    parameters = sum(value.numel() for value in network.parameters())
    pixels = config.frame_stack * 84 * 84
    # Kept for the gradient, and the gradient itself; the target network's go as they come.
    floats = 3 * (activations + _head_floats(config, features.shape[1])) + 2 * pixels
    # Online and target network, gradient, and two moments of the optimizer.
    return 5 * 4 * parameters, 4 * floats + 2 * pixels


def _head_floats(config: Config, num_features: int) -> int:
    """Return the numbers that a head computes of one example, those of its loss included."""
    hidden = 512
    outputs = {
        "c51": config.num_atoms, "qrdqn": config.num_quantiles, "iqn": config.num_quantiles,
    }.get(config.loss, 1)  # fmt: skip
    samples = {
        "c51": config.num_atoms, "qrdqn": config.num_quantiles, "iqn": config.num_target_quantiles,
    }.get(config.loss, 0)  # fmt: skip
    pairs = outputs * samples
    if config.loss == "iqn":
        embedded = 2 * num_features + config.num_cosines + 2 * hidden
        return outputs * (embedded + MOST_ACTIONS) + 3 * pairs
    return 2 * hidden + 2 * MOST_ACTIONS * outputs + 3 * pairs


class Estimate(NamedTuple):
    """Roughly how long a run will take.

    Attributes:
        seconds: as busy as the machine is now.
        alone_s: if it were not, at most; on a GPU the same as `seconds`.
    """

    seconds: float
    alone_s: float

    @property
    def busy_factor(self) -> float:
        """How many times as long it takes because of other programs, at least."""
        return self.seconds / self.alone_s

    @property
    def busy_note(self) -> str | None:
        """One line where the machine is busy, else None."""
        if self.busy_factor < BUSY:
            return None
        return (
            f"other programs slow this down at least {self.busy_factor:.1f} times; alone on the "
            f"machine it would take about {about(self.alone_s)}"
        )


def estimate(config: Config) -> Estimate:
    """Estimate the duration of a run from a few updates on made-up data.

    A network of its own is timed, with the threads of the run; the run's own networks and
    generators are not touched. Where other programs are in the way, one thread is timed as well:
    its time on the processor does not depend on them.
    """
    timed = _estimate(config, config.num_threads or torch.get_num_threads())
    if timed.busy_factor < BUSY:
        return timed
    return timed._replace(alone_s=min(timed.alone_s, _estimate(config, 1).alone_s))


def _estimate(config: Config, num_threads: int) -> Estimate:
    threads_before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    timer = _Timer()
    try:
        learning_s = algorithm_of(config).estimate_seconds(config, timer)
    finally:
        torch.set_num_threads(threads_before)
    emulator_s = config.n_envs * NOMINAL_START_S + config.n_timesteps * NOMINAL_EMULATOR_S
    undisturbed = 1.0 if config.device == "cuda" else timer.undisturbed
    return Estimate(emulator_s + learning_s, emulator_s + learning_s * undisturbed)


class _Timer:
    """Times work, and notes how much of the time this thread was computing.

    A thread waits for others of its own only while these are kept from computing, too.
    """

    def __init__(self) -> None:
        self._wall_s = self._computing_s = 0.0

    def __call__(self, work: Callable[[], object], *, num_first: int = 1) -> float:
        """Return the seconds of the fastest of three runs after the first; of slow work, fewer."""
        runs: list[tuple[float, float]] = []
        while len(runs) < num_first + 3 and sum(wall for wall, _ in runs[num_first - 1 :]) < 2.0:
            began, computing = time.perf_counter(), time.thread_time()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            runs.append((time.perf_counter() - began, time.thread_time() - computing))
        wall_s, computing_s = min(runs[num_first:] or runs)
        self._wall_s += wall_s
        self._computing_s += computing_s
        return wall_s

    @property
    def undisturbed(self) -> float:
        """The share of the time in which this thread was computing, at most 1."""
        return min(1.0, self._computing_s / self._wall_s) if self._computing_s > 0 else 1.0


def _free_memory_bytes(device: str) -> int:
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return machine.memory_available_bytes()
