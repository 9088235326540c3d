"""Measure training: steps per second while learning, of dqn_zoo and of its peers.

    python scripts/benchmark_training.py --json training.json
    python scripts/benchmark_training.py --vary num_threads=0,1,2 --recipe laptop --beside 1
    python scripts/benchmark_training.py --device cuda

A step is one decision in one environment, summed over environments. All do the same work: DQN on
Space Invaders with RL-Zoo's values, the Nature network, an update of 32 transitions every 4 steps,
epsilon 0.01, and as many transitions in memory; only named recipes learn in their own way.
Each is measured for so many seconds, some steps after its first update. dqn_zoo is the command that
a user types, with its logs; the peers run in a virtual environment of their own. On two cores this
takes about eight minutes. On a GPU the only peer is Stable-Baselines3.
"""

import argparse
import contextlib
import csv
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import benchmarking
import yaml
from benchmarking import Benchmark, Contender, Measurement
from peers import environment as peers

from dqn_zoo.runs.finding import find_run
from dqn_zoo.settings.recipes import resolve
from dqn_zoo.system.machine import default_num_threads, supports_bfloat16, usable_cores
from dqn_zoo.training.invocation import EXIT_CODES
from dqn_zoo.training.preparation import complete

BASELINE = "stable-baselines3, 1 env"


class Pace(NamedTuple):
    """What depends on how fast a device is.

    Attributes:
        warm_up: steps of learning before the measured span; CUDA graphs are recorded in them.
        peer_warm_up: the same for the peers, which record nothing.
        before_s: for all that comes before the span.
        log_interval: steps between two rows of the log, of which the span is made.
    """

    warm_up: int
    peer_warm_up: int
    before_s: float
    log_interval: int


TRYING_S = 4.0  # how many threads are best, where the command chooses
PACES = {"cpu": Pace(200, 200, 4.0, 200), "cuda": Pace(10_000, 500, 18.0, 4_000)}


def measure_run(
    algo: str, settings: dict[str, Any], *, first_step: int, seconds: float, before_s: float
) -> Measurement:
    """Train with the command until the time is up, and read the speed from the run's log."""
    with tempfile.TemporaryDirectory(prefix="dqn_zoo-benchmark-") as folder:
        command = [sys.executable, "-m", "dqn_zoo.cli.train", "--env", "SpaceInvaders"]
        command += ["--algo", algo, "--log-folder", folder, "--no-progress"]
        command += ["--time-limit", f"{seconds + before_s}s"]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        done = subprocess.run(command, capture_output=True, text=True, env=_without_limit())
        if done.returncode != EXIT_CODES["time_limit"]:
            raise RuntimeError(f"dqn-train ended with {done.returncode}: {done.stderr[-500:]}")
        progress = find_run(Path(folder)).progress_file.read_text()
    steps, passed = learning_span(progress, first_step=first_step, seconds=seconds)
    return Measurement(steps / passed, {"steps": steps, "seconds": passed})


def _without_limit() -> dict[str, str]:
    """Return the environment in which the command chooses its threads where none are set."""
    return {key: value for key, value in os.environ.items() if key != "OMP_NUM_THREADS"}


@contextlib.contextmanager
def busy_programs(number: int) -> Iterator[None]:
    """Have so many programs compute meanwhile that do nothing else."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def learning_span(progress: str, *, first_step: int, seconds: float) -> tuple[int, float]:
    """Return steps and seconds between two rows of a progress.csv.

    Args:
        progress: its text.
        first_step: of the first row that counts.
        seconds: the last row is the last one so many seconds after the first one, or before.

    Raises:
        RuntimeError: there are no two such rows.
    """
    rows = [
        (int(row["steps"]), float(row["time_s"])) for row in csv.DictReader(progress.splitlines())
    ]
    rows = [row for row in rows if row[0] >= first_step]
    rows = [row for row in rows if row[1] <= rows[0][1] + seconds]
    if len(rows) < 2:
        raise RuntimeError(f"learning was seen {len(rows)} times; more --seconds are needed")
    return rows[-1][0] - rows[0][0], rows[-1][1] - rows[0][1]


def own_contenders(arguments: argparse.Namespace) -> Iterator[Contender]:
    """Yield dqn_zoo in its variants."""
    pace = PACES[arguments.device]
    variants = VARIANTS[arguments.device]()
    if arguments.vary:
        variants = _variants_of(arguments.vary, arguments.recipe)
    for name, algo, changes in variants:
        settings = {
            "device": arguments.device,
            "num_threads": arguments.num_threads,
            "buffer_size": arguments.buffer_size,
            "learning_starts": arguments.learning_starts,
            "exploration_initial_eps": 0.01,
            "exploration_final_eps": 0.01,
            "eval_freq": 0,
            "save_freq": 0,
            "log_interval": pace.log_interval,
            "seed": 1,
            **changes,
        }
        config = complete(resolve(env="SpaceInvaders", algo=algo, overrides=settings).config)

        def measure(algo: str = algo, settings: dict[str, Any] = settings) -> Measurement:
            return measure_run(
                algo,
                settings,
                first_step=arguments.learning_starts + pace.warm_up,
                seconds=arguments.seconds,
                before_s=pace.before_s + (0 if settings["num_threads"] else TRYING_S),
            )

        yield Contender(
            name,
            _traits(config.n_envs, settings["num_threads"] or "tried", config.precision),
            measure,
        )


Variants = list[tuple[str, str, dict[str, Any]]]  # name, recipe, settings


def _variants_on_cpu() -> Variants:
    # Without an instruction for it bfloat16 is many times slower than float32.
    bfloat16 = {"n_envs": 8, "precision": "bfloat16"}
    return [
        ("dqn_zoo, 1 env", "dqn", {"n_envs": 1, "precision": "float32"}),
        ("dqn_zoo, 8 envs", "dqn", {"n_envs": 8, "precision": "float32"}),
        *([("dqn_zoo, 8 envs, bfloat16", "dqn", bfloat16)] if supports_bfloat16("cpu") else []),
        ("dqn_zoo, recipe laptop", "laptop", {}),
        ("dqn_zoo, recipe laptop-qrdqn", "laptop-qrdqn", {}),
    ]


def _variants_on_gpu() -> Variants:
    return [
        ("dqn_zoo, 64 envs", "dqn", {"n_envs": 64, "precision": "float32"}),
        ("dqn_zoo, 64 envs, bfloat16", "dqn", {"n_envs": 64, "precision": "bfloat16"}),
        ("dqn_zoo, recipe iqn-impala", "iqn-impala", {}),
    ]


VARIANTS = {"cpu": _variants_on_cpu, "cuda": _variants_on_gpu}


def _variants_of(vary: str, recipe: str) -> Variants:
    """Return a recipe with each value of KEY=VALUE,VALUE,..."""
    key, _, values = vary.partition("=")
    auto = {"n_envs": 8, "precision": "auto"}
    return [
        (f"{recipe}, {key} {value}", recipe, auto | {key: yaml.safe_load(value)})
        for value in values.split(",")
    ]


PEERS: dict[str, list[tuple[str, str, int, list[str]]]] = {  # name, program, environments, flags
    "cpu": [
        (BASELINE, "sb3.py", 1, []),
        ("stable-baselines3, 8 envs", "sb3.py", 8, []),
        ("tianshou, its trainer", "tianshou_dqn.py", 8, ["--trainer"]),
        ("tianshou, plain loop", "tianshou_dqn.py", 8, []),
        ("plain loop over EnvPool", "envpool_loop.py", 8, []),
    ],
    "cuda": [
        (BASELINE, "sb3.py", 1, []),
        ("stable-baselines3, 64 envs", "sb3.py", 64, []),
    ],
}


def peer_contenders(python: Path, arguments: argparse.Namespace) -> Iterator[Contender]:
    """Yield the peers."""
    common = {
        "num-threads": arguments.num_threads,
        "buffer-size": arguments.buffer_size,
        "learning-starts": arguments.learning_starts,
        "warm-up": PACES[arguments.device].peer_warm_up,
        "seconds": arguments.seconds,
        "device": arguments.device,
    }
    for name, program, num_envs, flags in PEERS[arguments.device]:
        words = [f"--{key}={value}" for key, value in common.items()]
        words += [f"--num-envs={num_envs}", *flags]

        def measure(program: str = program, words: list[str] = words) -> Measurement:
            timeout_s = 120 + 10 * arguments.seconds
            span = peers.run_peer(python, peers.HERE / program, words, timeout_s=timeout_s)
            return Measurement(span["steps"] / span["seconds"], span)

        yield Contender(name, _traits(num_envs, arguments.num_threads, "float32"), measure)


def _traits(num_envs: int, num_threads: int | str, precision: str) -> dict[str, str | int]:
    return {"envs": num_envs, "threads": num_threads, "precision": precision}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--num-threads",
        type=int,
        default=0,
        help="of PyTorch (default: as dqn-train, all cores up to 8, 1 beside a GPU)",
    )
    parser.add_argument("--device", choices=list(VARIANTS), default="cpu", help="(default: cpu)")
    parser.add_argument(
        "--seconds", type=float, default=8.0, help="measured each time (default: 8)"
    )
    parser.add_argument(
        "--buffer-size", type=int, default=10_000, help="transitions in memory (default: 10,000)"
    )
    parser.add_argument(
        "--learning-starts", type=int, default=1_000, help="steps before it (default: 1,000)"
    )
    parser.add_argument(
        "--vary",
        metavar="KEY=VALUE,VALUE,...",
        help="measure only dqn_zoo, 8 envs, precision auto, with each value of this key",
    )
    parser.add_argument("--recipe", default="dqn", help="the one that --vary varies (default: dqn)")
    parser.add_argument(
        "--beside",
        type=int,
        default=0,
        metavar="N",
        help="so many busy programs compute meanwhile (default: 0)",
    )
    parser.add_argument(
        "--only",
        metavar="TEXT",
        default="",
        help="measure only those with this text in their name, beside the baseline",
    )
    benchmarking.add_arguments(parser, repetitions=3)
    peers.add_arguments(parser)
    arguments = parser.parse_args()
    threads = arguments.num_threads or default_num_threads(arguments.device, usable_cores())
    arguments.num_threads = threads
    # An inherited limit would hold for some of them and not for others.
    os.environ["OMP_NUM_THREADS"] = str(arguments.num_threads)
    contenders = list(own_contenders(arguments))
    settings = {
        key: getattr(arguments, key)
        for key in ("device", "num_threads", "seconds", "buffer_size", "learning_starts", "beside")
    }
    python = None if arguments.vary else peers.find_python(arguments)
    if python is not None:
        contenders += peer_contenders(python, arguments)
        settings["peers"] = peers.versions(python)
    contenders = [c for c in contenders if arguments.only in c.name or c.name == BASELINE]
    with busy_programs(arguments.beside):
        return benchmarking.run(
            Benchmark(
                name="training",
                unit="steps/s",
                baseline=None if python is None else BASELINE,
                settings=settings,
            ),
            contenders,
            repetitions=arguments.repetitions,
            json_file=arguments.json,
        )


if __name__ == "__main__":
    sys.exit(main())
