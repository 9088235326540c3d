"""The machine under a run: what memory is left, what it can do, and what it is.

psutil knows the memory of the system and of the process; the limit of a container, which is what
ends a run there, is read from the kernel's own files.
"""

import ctypes
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from dqn_zoo.errors import UserError

PACKAGES = (
    "dqn-zoo-atari", "torch", "numpy", "gymnasium", "ale-py", "opencv-python", "safetensors",
)  # fmt: skip
"""Distributions whose versions are recorded; the bits of a run depend on them."""

MAX_DEFAULT_THREADS = 8


def memory_available_bytes() -> int:
    """Return how much more memory this process can use.

    The smallest of: what the system has available, what the container (cgroup v1 or v2, every level
    of it) leaves, what RLIMIT_AS leaves.
    """
    limits = [psutil.virtual_memory().available, *_container_headrooms(), *_address_space_left()]
    return max(0, min(limits))


def gpu_memory_available_bytes(device: str) -> int:
    """Return how much more of a GPU's memory this process can use.

    Apple's GPU shares the memory of the machine, of which it takes no more than Metal recommends.
    """
    import torch

    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    left = torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return max(0, min(left, memory_available_bytes()))


def flush_denormals() -> None:
    """Count denormal numbers as 0; to be called before anything else computes with PyTorch.

    Its threads inherit this when the first parallel work starts them, and keep to it for good.

    Adam's averages of units that stay at 0 fade to denormal numbers, a third of them after 200,000
    steps of Pong, and a processor takes a hundred cycles for each. The units are done for either
    way; what they would add to a weight is far below its last digit.
    """
    import torch

    torch.set_flush_denormal(True)


def keep_freed_memory() -> bool:
    """Let the C library keep freed memory for the next tensors; return whether it does.

    By default glibc gives every large block back to the system when it is freed, and every update
    frees and takes the same ones: the pages are cleared and mapped anew each time, which takes a
    third of an update of a small network. Results do not depend on it; other systems ignore it.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    return _keep_freed_memory(ctypes.CDLL(None).mallopt)


def _keep_freed_memory(mallopt: Callable[[int, int], int]) -> bool:
    # From malloc.h. A replay memory stays a map, so that it takes only the pages that were written.
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3
    # Older versions of glibc take no more than 32 MB. Where one takes neither, nothing is set: any
    # option ends glibc's own adaptation.
    if not any(mallopt(mmap_threshold, size) == 1 for size in (256 * 2**20, 32 * 2**20)):
        return False
    return mallopt(trim_threshold, 2**31 - 1) == 1 and mallopt(top_pad, 64 * 2**20) == 1


def process_memory_bytes() -> int:
    """Return the resident memory of this process."""
    return int(psutil.Process().memory_info().rss)


def check_memory(
    needed_bytes: int,
    bytes_each: float,
    *,
    key: str,
    size: int,
    available: int,
    where: str = "",
) -> None:
    """Refuse a run that would not fit, before it starts.

    Memory is handed out when it is first written, so without this check a replay memory that is too
    large ends the run hours later.

    Args:
        needed_bytes: What the run will occupy, all of it.
        bytes_each: The part of them that each one of `size` adds.
        key: The setting that decides how much it is.
        size: Its value, such as the transitions of `buffer_size`.
        available: Bytes from `memory_available_bytes`, or of a GPU.
        where: Whose memory it is, such as ` on the GPU`, where there is more than one.

    Raises:
        UserError: It does not fit; the message names the largest value that would.
    """
    if needed_bytes <= available:
        return
    fixed_bytes = needed_bytes - bytes_each * size
    largest = _two_digits(int((available - fixed_bytes) / bytes_each))
    mend = (
        f"the largest that fits is {largest:_}: --set {key}={largest}"
        if largest > 0
        else "not even the smallest fits: free some memory"
    )
    needed, free = f"{needed_bytes / 1e9:.1f} GB", f"{available / 1e9:.1f} GB"
    raise UserError(f"{key} needs {needed} and {free} is free{where}; {mend}")


def usable_cores() -> int:
    """Return the processor cores this process may use, a container's quota included."""
    if sys.platform == "darwin":
        cores = os.cpu_count() or 1
    else:
        cores = len(psutil.Process().cpu_affinity())
    return max(1, min([cores, *(math.ceil(quota) for quota in _cpu_quotas())]))


def threads_of_environment() -> int | None:
    """Return the threads that OMP_NUM_THREADS asks for; None if it does not say."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(asked) if asked.isdecimal() and int(asked) > 0 else None


def default_num_threads(device: str, cores: int) -> int:
    """Return how many threads PyTorch gets beside a device on this many cores, at most.

    On a CPU all of them up to 8: the network is too small to keep dozens busy. Beside a GPU there
    is nothing to compute for more than one, and those that wait for work take the cores from the
    emulators. `OMP_NUM_THREADS` decides where it is set.
    """
    asked = threads_of_environment()
    if asked is not None:
        return asked
    return max(1, min(cores, MAX_DEFAULT_THREADS)) if device == "cpu" else 1


def choose_device(asked: str) -> str:
    """Return the device that is meant by auto, cpu, cuda or mps.

    Auto never means mps: no run was ever timed on an Apple GPU, nor shown to learn there.

    Raises:
        UserError: the GPU that is asked for is not there.
    """
    import torch

    if asked == "cuda" and not torch.cuda.is_available():
        raise UserError("--device cuda: PyTorch finds no CUDA device here; use --device cpu")
    if asked == "mps" and not torch.backends.mps.is_available():
        raise UserError("--device mps: PyTorch finds no Apple GPU here; use --device cpu")
    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return asked


def supports_bfloat16(device: str) -> bool:
    """Return whether a device multiplies in bfloat16, so that it is faster than float32.

    A GPU does from compute capability 8.0 on; older ones, such as the T4 of free notebooks, take
    longer for it. Of a CPU torch is asked; where torch does not know (it looks at x86 only), the
    kernel's list of processor flags decides, and where there is none (macOS, Windows on ARM) the
    answer is no, as it is for Apple's GPU, where nothing was measured.
    """
    import torch

    if device == "mps":
        return False
    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    try:
        if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
            return True
    except AttributeError:  # private functions, free to go
        pass
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & _cpu_flags())


def describe_machine() -> dict[str, Any]:
    """Return what the numbers of a run depend on, as JSON; no host name, no path."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": platform.machine(),
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_bytes": psutil.virtual_memory().total,
        "versions": {package: _version(package) for package in PACKAGES},
        "git": _git_revision(Path(__file__).resolve().parents[2]),
    }


PROC = Path("/proc")
CGROUPS = Path("/sys/fs/cgroup")
# limit, usage and, in memory.stat, the file cache that the kernel gives up when memory is short
CGROUP_MEMORY_FILES = (
    ("memory.max", "memory.current", "inactive_file"),  # version 2
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),  # version 1
)


def _container_headrooms(proc: Path = PROC, cgroups: Path = CGROUPS) -> Iterator[int]:
    for folder in _cgroup_folders("memory", proc, cgroups):
        for limit_file, usage_file, cache_key in CGROUP_MEMORY_FILES:
            limit = _number(_text(folder / limit_file))
            usage = _number(_text(folder / usage_file))
            if limit is not None and usage is not None:
                cache = _number(_fields(folder / "memory.stat").get(cache_key)) or 0
                yield limit - (usage - cache)


def _cpu_quotas(proc: Path = PROC, cgroups: Path = CGROUPS) -> Iterator[float]:
    """Cores that each level of the container grants, where it limits them."""
    for folder in _cgroup_folders("cpu", proc, cgroups):
        version_2 = _text(folder / "cpu.max").split()
        version_1 = [_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period")]
        for pair in (version_2, version_1):
            numbers = [_number(word) for word in pair]
            if len(numbers) == 2 and numbers[0] and numbers[1] and numbers[0] > 0:
                yield numbers[0] / numbers[1]


def _cgroup_folders(controller: str, proc: Path, cgroups: Path) -> Iterator[Path]:
    """Every level of this process's control group; inside a container only the top may exist."""
    for line in _text(proc / "self/cgroup").splitlines():
        _, controllers, name = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = cgroups / controller if controllers else cgroups
        folder = top / name.strip("/")
        yield folder
        yield from (parent for parent in folder.parents if parent.is_relative_to(top))


def _address_space_left() -> Iterator[int]:
    if sys.platform != "linux":
        return
    process = psutil.Process()
    limit, _ = process.rlimit(psutil.RLIMIT_AS)
    if limit != psutil.RLIM_INFINITY:
        yield limit - process.memory_info().vms


def _cpu_model() -> str:
    if sys.platform == "darwin":
        return _output(["sysctl", "-n", "machdep.cpu.brand_string"]) or platform.processor()
    return _fields(PROC / "cpuinfo").get("model name") or platform.processor()


def _cpu_flags(proc: Path = PROC) -> set[str]:
    fields = _fields(proc / "cpuinfo")
    return set((fields.get("flags") or fields.get("Features") or "").split())


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _git_revision(root: Path) -> dict[str, Any] | None:
    """Commit of the checkout the package runs from, and whether tracked files differ from it."""
    if not (root / ".git").exists():  # an installed package inside somebody else's checkout
        return None
    git = ["git", "--no-optional-locks", "-C", str(root)]
    revision = _output([*git, "rev-parse", "HEAD"])
    changes = _output([*git, "status", "--porcelain", "--untracked-files=no"])
    dirty = None if changes is None else bool(changes)
    return {"revision": revision, "dirty": dirty} if revision else None


def _output(command: list[str]) -> str | None:
    """What a command prints, or None where it is missing or fails."""
    # GIT_DIR and its like, set in a hook, would lead git to another repository.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True, env=environment
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _fields(path: Path) -> dict[str, str]:
    """First value of each key in the kernel's `key: value` and `key value` files."""
    fields: dict[str, str] = {}
    for line in _text(path).splitlines():
        key, _, value = line.partition(":" if ":" in line else " ")
        fields.setdefault(key.strip(), value.strip())
    return fields


def _number(text: str | None) -> int | None:
    """The number a text begins with; `max`, which is no number, is None."""
    match = re.match(r"-?\d+", (text or "").strip())
    return int(match[0]) if match else None


def _two_digits(number: int) -> int:
    """Round down to two significant digits: easier to read, and a little room besides."""
    unit = int(10 ** max(len(str(number)) - 2, 0))
    return number // unit * unit
