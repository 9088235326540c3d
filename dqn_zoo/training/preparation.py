"""What is settled before a run starts: device, threads, precision, memory, likely duration."""

import time
from collections.abc import Callable

import numpy as np
import torch

from dqn_zoo.algorithms.choice import algorithm_of
from dqn_zoo.settings.config import Config
from dqn_zoo.system import machine

NOMINAL_EMULATOR_S = 4e-4  # one step of one environment on one core: 2,300 to 2,900 a second
BESIDE_BYTES = {"cpu": 500_000_000, "cuda": 1_500_000_000}
"""Everything of a run but what its algorithm keeps: 0.43 to 0.5 GB were measured on a CPU; on a GPU
it is networks, minibatches, a CUDA graph and cuDNN's workspaces."""

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
    return BESIDE_BYTES[config.device] + algorithm_of(config).memory_bytes(config)


def check_memory(config: Config) -> None:
    """Refuse a run that does not fit, with the largest that would.

    Raises:
        UserError: if it does not fit.
    """
    key = algorithm_of(config).size_key
    size: int = getattr(config, key)
    larger = config.model_copy(update={key: size + MANY})
    needed = memory_bytes(config)
    machine.check_memory(
        needed,
        (memory_bytes(larger) - needed) / MANY,
        key=key,
        size=size,
        available=_free_memory_bytes(config.device),
    )


def estimate_seconds(config: Config) -> float:
    """Return roughly how long the run will take, from a few updates on made-up data.

    A network of its own is timed, with the threads of the run; the run's own networks and
    generators are not touched.
    """
    threads_before = torch.get_num_threads()
    torch.set_num_threads(config.num_threads or threads_before)
    try:
        return _estimate_seconds(config)
    finally:
        torch.set_num_threads(threads_before)


def _estimate_seconds(config: Config) -> float:
    learning_s = algorithm_of(config).estimate_seconds(config, _fastest)
    return config.n_timesteps * NOMINAL_EMULATOR_S + learning_s


def _fastest(work: Callable[[], object], *, num_first: int = 1) -> float:
    """Return the seconds of the fastest of three runs after the first ones; of slow work, fewer."""
    seconds: list[float] = []
    while len(seconds) < num_first + 3 and sum(seconds[num_first - 1 :]) < 2.0:
        began = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds[num_first:] or seconds)


def _free_memory_bytes(device: str) -> int:
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return machine.memory_available_bytes()
