"""What is settled before a run starts: device, threads, precision, memory, likely duration."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch

from dqn_zoo.algorithms.algorithm import MOST_ACTIONS
from dqn_zoo.algorithms.choice import algorithm_of
from dqn_zoo.algorithms.replay_plan import minibatches_together
from dqn_zoo.errors import UserError
from dqn_zoo.learning.losses import network_settings
from dqn_zoo.networks.shapes import network_of_shapes
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.short_runs import default_save_freq
from dqn_zoo.system import machine
from dqn_zoo.training.rates import about

NOMINAL_START_S = 0.2  # one environment: its ROM is loaded twice, once with its seed
NOMINAL_EMULATOR_S = 4e-4  # one step of one environment on one core: 2,300 to 2,900 a second
BESIDE_BYTES = {"cpu": 500_000_000, "cuda": 1_500_000_000, "mps": 1_000_000_000}
"""The process with all that it imports: 0.43 to 0.5 GB were measured on a CPU; on a GPU there are a
CUDA graph and cuDNN's workspaces; what Metal takes was not measured."""

HOST_BYTES = 2_000_000_000
"""The process beside a CUDA GPU, in the machine's own memory: PyTorch's CUDA libraries and, where
the torso is compiled, the compiler and its helpers. A generous guess, not measured."""

EMULATOR_BYTES = 2_000_000
"""Of one environment, its frames included: 1.7 MB were measured over 32 of them."""

BUSY = 1.5
"""From this factor on a machine counts as busy; clocks and caches alone make less of it."""

SET_FLOAT32 = "set precision: float32 in config.yml"

MANY = 1_000  # more of what decides the memory, to see what each takes


def complete(config: Config, *, may_change: bool = True) -> Config:
    """Settle what the config leaves open: seed, device, threads, precision, checkpoint interval.

    Where its settings may not change, of a run that is resumed, a refusal advises accordingly.

    Raises:
        UserError: the GPU that is asked for is not there, or cannot take the precision.
    """
    device = machine.choose_device(config.device)
    precision = config.precision
    if device == "mps" and precision == "bfloat16":
        raise UserError(
            "precision bfloat16 is not for Apple's GPU, where it was never tried: "
            f"{'give --precision float32' if may_change else SET_FLOAT32}, or give --device cpu"
        )
    if precision == "auto":
        precision = "bfloat16" if machine.supports_bfloat16(device) else "float32"
    save_freq = config.save_freq
    if save_freq is None:
        save_freq = default_save_freq(config.n_timesteps, device)
    seed = config.seed
    if seed is None:
        seed = int(np.random.SeedSequence().generate_state(1)[0] >> 1)
    threads = config.num_threads or machine.default_num_threads(device, machine.usable_cores())
    settled = {"device": device, "precision": precision, "save_freq": save_freq}
    return config.model_copy(update=settled | {"seed": seed, "num_threads": threads})


def remarks(
    asked: Config, settled: Config, *, may_change: bool = True
) -> Iterator[tuple[str, str]]:
    """Yield what the machine has a say in, as `note`, `memory` or `warning` and a line.

    `settled` is what `complete` made of what was asked; `may_change` as there.
    """
    if settled.device == "mps":
        yield "warning", "mps: speed and learning on Apple's GPU were not measured; --device cpu is"
    if settled.device == "cuda":
        on_gpu, beside = memory_bytes(settled) / 1e9, host_memory_bytes(settled) / 1e9
        yield "memory", f"{on_gpu:.1f} GB on the GPU, {beside:.1f} GB beside it"
    if settled.device == "mps" or machine.supports_bfloat16(settled.device):
        return
    lack = {
        "cpu": "this CPU has no bfloat16 instructions",
        "cuda": "this GPU has no bfloat16 units (they come with compute capability 8.0)",
    }[settled.device]
    if asked.precision == "auto":
        yield "note", f"float32: {lack}"
    if settled.precision == "bfloat16":
        remedy = "" if may_change else f": {SET_FLOAT32}"
        yield "warning", f"precision bfloat16: {lack}, so float32 is faster{remedy}"


def memory_bytes(config: Config) -> int:
    """Return what a run with this (complete) config takes on the device where it learns."""
    return sum(memory_parts(config).values())


def host_memory_bytes(config: Config) -> int:
    """Return what a run with this (complete) config takes of the machine's own memory."""
    parts = host_parts(config) if config.device == "cuda" else memory_parts(config)
    return sum(parts.values())


def memory_parts(config: Config) -> dict[str, int]:
    """Return what takes memory where the run learns, in bytes.

    The keys are the settings that decide how much, and `process` for what none decides.
    """
    algorithm = algorithm_of(config)
    network_bytes, example_bytes, waiting_bytes = network_sizes(config)
    is_parallel = config.algorithm == "parallel"
    minibatch = (
        config.rollout_steps * config.n_envs // config.num_minibatches
        if is_parallel
        else config.batch_size
    )
    parts = Counter(process=BESIDE_BYTES[config.device], network=network_bytes)
    parts["num_minibatches" if is_parallel else "batch_size"] += minibatch * example_bytes
    if not is_parallel:
        parts["batch_size"] += (minibatches_together(config) - 1) * minibatch * waiting_bytes
    parts["n_envs"] += config.n_envs * (example_bytes // 4)  # to act on an observation
    has_own_memory = config.device == "cuda"
    if not has_own_memory:
        parts["n_envs"] += config.n_envs * EMULATOR_BYTES
    if not (has_own_memory and is_parallel):  # a rollout lies beside the emulators
        parts[algorithm.size_key] += algorithm.memory_bytes(config)
    return parts


def host_parts(config: Config) -> dict[str, int]:
    """Return what a run on a CUDA GPU takes of the machine's own memory; keys as above."""
    algorithm = algorithm_of(config)
    kept = algorithm.memory_bytes(config)
    parts = Counter(process=HOST_BYTES, n_envs=config.n_envs * EMULATOR_BYTES)
    # Of a replay memory the rows of ids, less than a hundredth, while a save makes three copies.
    parts[algorithm.size_key] += kept if config.algorithm == "parallel" else kept // 40
    return parts


def check_memory(config: Config, *, may_change: bool = True) -> None:
    """Refuse a run that does not fit, with the largest that would, where settings may change.

    Raises:
        UserError: if it does not fit, on the GPU or beside it.
    """
    if config.device == "cpu":
        _check(config, memory_parts, machine.memory_available_bytes(), may_change=may_change)
        return
    free = machine.gpu_memory_available_bytes(config.device)
    _check(config, memory_parts, free, " on the GPU", may_change=may_change)
    if config.device == "cuda":
        beside = machine.memory_available_bytes()
        _check(config, host_parts, beside, " beside the GPU", may_change=may_change)


def _check(
    config: Config,
    parts_of: Callable[[Config], dict[str, int]],
    free: int,
    where: str = "",
    *,
    may_change: bool,
) -> None:
    parts = parts_of(config)
    key = max(parts.keys() - {"process"}, key=lambda key: parts[key])
    needed = sum(parts.values())
    remedies = {"network": "choose a smaller network", "num_minibatches": "choose more of them"}
    remedy = remedies.get(key) if may_change else "free some memory, or resume where there is more"
    if remedy is not None and needed > free:
        raise UserError(
            f"{key} needs {parts[key] / 1e9:.1f} GB of {needed / 1e9:.1f} GB in all and "
            f"{free / 1e9:.1f} GB is free{where}: {remedy}"
        )
    size = getattr(config, key)
    if isinstance(size, str):  # it fits, and no number decides
        return
    larger = config.model_copy(update={key: size + MANY})
    bytes_each = (sum(parts_of(larger).values()) - needed) / MANY
    machine.check_memory(needed, bytes_each, key=key, size=size, available=free, where=where)


def network_sizes(config: Config) -> tuple[int, int, int]:
    """Return the bytes of the networks with their optimizer, of an example, and of one that waits.

    Minibatches that wait for their turn went through the target network's torso all together.
    Nothing is computed and nothing allocated: shapes alone go through the torso.
    """
    settings = network_settings(config)
    activations = widest = 0

    def count(_: object, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        nonlocal activations, widest
        activations += output.numel()
        widest = max(widest, inputs[0].numel() + output.numel())

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
    # Online and target network, gradient, two moments of the optimizer, and the average.
    copies = 6 if config.averaged_weights > 0.0 else 5
    return copies * 4 * parameters, 4 * floats + 2 * pixels, 4 * widest + 2 * pixels


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
    threads = config.num_threads or torch.get_num_threads()
    timed = _estimate(config.model_copy(update={"num_threads": threads}))
    if timed.busy_factor < BUSY:
        return timed
    alone = _estimate(config.model_copy(update={"num_threads": 1}))
    return timed._replace(alone_s=min(timed.alone_s, alone.alone_s))


def _estimate(config: Config) -> Estimate:
    threads_before = torch.get_num_threads()
    torch.set_num_threads(config.num_threads)
    timer = _Timer(config.device)
    try:
        learning_s = algorithm_of(config).estimate_seconds(config, timer)
        if config.device == "cpu" and config.targets_ahead == "auto" and config.num_threads == 1:
            # Waiting for the second thread is no sign of other programs.
            timer = _Timer(config.device)
            without = config.model_copy(update={"targets_ahead": "never"})
            algorithm_of(config).estimate_seconds(without, timer)
    finally:
        torch.set_num_threads(threads_before)
    emulator_s = config.n_envs * NOMINAL_START_S + config.n_timesteps * NOMINAL_EMULATOR_S
    undisturbed = timer.undisturbed if config.device == "cpu" else 1.0
    return Estimate(emulator_s + learning_s, emulator_s + learning_s * undisturbed)


class _Timer:
    """Times work, and notes how much of the time this thread was computing.

    A thread waits for others of its own only while these are kept from computing, too.
    """

    def __init__(self, device: str) -> None:
        self._wait = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(device)
        self._wall_s = self._computing_s = 0.0

    def __call__(self, work: Callable[[], object], *, num_first: int = 1) -> float:
        """Return the seconds of the fastest of three runs after the first; of slow work, fewer."""
        runs: list[tuple[float, float]] = []
        while len(runs) < num_first + 3 and sum(wall for wall, _ in runs[num_first - 1 :]) < 2.0:
            began, computing = time.perf_counter(), time.thread_time()
            work()
            if self._wait is not None:
                self._wait()
            runs.append((time.perf_counter() - began, time.thread_time() - computing))
        wall_s, computing_s = min(runs[num_first:] or runs)
        self._wall_s += wall_s
        self._computing_s += computing_s
        return wall_s

    @property
    def undisturbed(self) -> float:
        """The share of the time in which this thread was computing, at most 1."""
        return min(1.0, self._computing_s / self._wall_s) if self._computing_s > 0 else 1.0
