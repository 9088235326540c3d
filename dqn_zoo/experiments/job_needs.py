"""What a job takes: cores, memory and time; and how many fit on this machine at once."""

import math
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from dqn_zoo.errors import UserError
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.recipes import dump_config
from dqn_zoo.system.machine import (
    choose_device,
    default_num_threads,
    memory_available_bytes,
    usable_cores,
)
from dqn_zoo.training.preparation import HOST_BYTES, complete, estimate, host_memory_bytes


class Needs(NamedTuple):
    """What one job takes.

    Attributes:
        cores: threads of PyTorch; the emulators share them.
        gpus: 0 or 1.
        memory_bytes: of the machine.
        seconds: from its start to its last step, roughly, with a core for each thread; NaN where
            there is nothing to time it on.
        busy_note: where the machine is busy now, what that makes of it.
    """

    cores: int
    gpus: int
    memory_bytes: int
    seconds: float
    busy_note: str | None = None


def machine_settings(num_jobs: int) -> dict[str, Any]:
    """Return the settings that a plan takes from this machine: threads that keep its cores busy.

    They become part of the plan, since the bits of a run depend on them. Beside a GPU a run chooses
    by itself.
    """
    if choose_device("auto") == "cuda":
        return {}
    return {"num_threads": default_num_threads("cpu", usable_cores() // num_jobs)}


def needs_of_jobs(configs: Mapping[tuple[str, str], Config]) -> dict[tuple[str, str], Needs]:
    """Return what a job takes, by variant and game as its settings; a few updates are timed for it.

    Jobs whose settings differ in nothing but the game are timed once: what is left is the number
    of actions.
    """
    known: dict[str, Needs] = {}
    found = {}
    for place, config in configs.items():
        alike = dump_config(config.model_copy(update={"env": "", "algo": ""}))
        if alike not in known:
            known[alike] = _needs_of(config)
        found[place] = known[alike]
    return found


def jobs_at_once(needs: Collection[Needs], asked: int | None, *, num_left: int) -> int:
    """Return how many jobs this machine takes at once, of those that are left to run.

    Where nobody has asked for a number: as many as fit, by the largest, and one where there is a
    GPU.

    Raises:
        UserError: not even one fits, or not as many as asked for.
    """
    largest, free = max(need.memory_bytes for need in needs), memory_available_bytes()
    fitting = free // largest
    wanted = min(asked or 1, num_left)
    if fitting < wanted:
        raise UserError(
            f"{wanted} job{'s' if wanted > 1 else ''} of this plan at once need "
            f"{wanted * largest / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free: "
            "set a smaller buffer_size"
            + (", or fewer --jobs" if wanted > 1 else "")
            + ", or wait until more is free"
        )
    if asked is not None:
        return wanted
    if any(need.gpus for need in needs):
        return 1
    return side_by_side(needs, min(num_left, fitting))


def side_by_side(needs: Collection[Needs], at_once: int) -> int:
    """Return how many jobs compute at a time, if so many are started: those with cores."""
    cores = max(need.cores for need in needs)
    return max(1, min(at_once, usable_cores() // cores))


def _needs_of(config: Config) -> Needs:
    if config.device == "cuda" and choose_device("auto") == "cpu":  # for a GPU elsewhere
        return Needs(max(1, config.num_threads), 1, HOST_BYTES, math.nan)
    settled = complete(config)
    has_gpu = settled.device != "cpu"
    estimated = estimate(settled)
    return Needs(
        cores=settled.num_threads,
        gpus=int(has_gpu),
        memory_bytes=host_memory_bytes(settled),
        seconds=estimated.seconds,
        busy_note=estimated.busy_note,
    )
