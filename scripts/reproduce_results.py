"""Train and measure what docs/results.md reports: tables, curves, manifests.

    python scripts/reproduce_results.py --suite laptop              # two CPU cores, hours
    python scripts/reproduce_results.py --suite gpu --only Pong
    python scripts/reproduce_results.py --suite parity --preview    # what it would do, and how long

Runs go one after another, since they are timed; give them the machine alone. Each is trained for
its time from the command, then 100 full games are played with its last weights and with those of
its best evaluation. Ctrl-C, SIGTERM and crashes lose nothing: the same command goes on where it
was, with the time that is left. Everything lies in the results folder (-f): the run folders with
their manifests, last.json, best.json, and for the suite results.md and a picture for each game.
"""

import argparse
import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from peers import environment

from dqn_zoo.runs.learning_curve import column, new_figure
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.games import COURSE_GAME, COURSE_PASS_MARK, random_score
from dqn_zoo.system.machine import default_num_threads, usable_cores
from dqn_zoo.training.invocation import EXIT_CODES

SB3 = "stable-baselines3"
LEAST_S = 5.0  # a run with less time left is over


class Job(NamedTuple):
    """A run that is trained for so long.

    Attributes:
        game: that is played.
        recipe: that it is trained with, or `SB3` for the peer.
        seed: of the run.
        minutes: from the command.
        changes: of the recipe, each a `key=value`; the peer has RL-Zoo's values.
    """

    game: str
    recipe: str
    seed: int
    minutes: float
    changes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the job's folder."""
        own = f"{self.game}-{self.recipe}-{self.minutes:g}min-seed{self.seed}"
        return "-".join([own, *self.changes])

    @property
    def title(self) -> str:
        """The recipe and what is changed of it."""
        return ", ".join([self.recipe, *self.changes])


SPACE_INVADERS_HOUR = (
    "n_timesteps=1_300_000",
    "learning_rate=lin_3e-4",
    "train_freq=4",
    "target_update_interval=2_000",
    "exploration_fraction=0.046",
)
SPACE_INVADERS_TWICE_THE_HALF_HOUR = ("n_timesteps=2_000_000", "exploration_fraction=0.03")
PONG_HALF_HOUR = ("n_timesteps=480_000", "exploration_fraction=0.125")
PONG_HOUR_UNNORMED = (
    "n_timesteps=1_000_000",
    "exploration_fraction=0.06",
    "layer_norm=false",
)
SUITES = {
    "laptop": [
        *(Job("SpaceInvaders", "laptop", seed, 30) for seed in (1, 2, 3)),
        Job("SpaceInvaders", SB3, 1, 30),
        Job("SpaceInvaders", "laptop", 4, 60, SPACE_INVADERS_HOUR),
        Job("SpaceInvaders", "laptop", 4, 60, SPACE_INVADERS_TWICE_THE_HALF_HOUR),
        *(Job("Pong", "laptop", seed, 60) for seed in (1, 2)),
        *(Job("Pong", "laptop", seed, 30, PONG_HALF_HOUR) for seed in (1, 2)),
        Job("Pong", "laptop", 1, 60, PONG_HOUR_UNNORMED),
        Job("Pong", "laptop", 2, 30, (*PONG_HALF_HOUR, "layer_norm=false")),
        Job("Boxing", "laptop", 1, 60),
        Job("Breakout", "laptop", 1, 60),
    ],
    "gpu": [
        Job("SpaceInvaders", "iqn-impala", 1, 10, ("n_timesteps=2_500_000",)),
        Job("SpaceInvaders", "iqn-impala", 1, 30, ("n_timesteps=7_500_000",)),
        Job("Pong", "iqn-impala", 1, 3, ("n_timesteps=750_000", "learning_starts=20_000")),
        Job("Breakout", "iqn-impala", 1, 10, ("n_timesteps=2_500_000",)),
    ],
    "parity": [Job("SpaceInvaders", "dqn", 1, 30, ("n_envs=64",))],
}


def preview(jobs: Sequence[Job], folder: Path) -> str:
    """Say what is left to do, and how long it takes."""
    lines, total = [], 0.0
    width = max((len(job.name) for job in jobs), default=0)
    for job in jobs:
        left = 0.0 if is_measured(folder / job.name) else left_s(job, folder) / 60 + 3
        lines.append(f"  {job.name:<{width}} {f'{left:.0f} min left' if left else 'done'}")
        total += left
    return "\n".join([*lines, f"  {'all':<{width}} {total:.0f} min left"])


def run_of(job: Job, folder: Path) -> Run:
    """Return the run of a job, whether it exists or not."""
    recipe = "dqn" if job.recipe == SB3 else job.recipe
    return Run(folder / job.name / recipe / f"{job.game}_1")


def is_measured(folder: Path) -> bool:
    """Return whether the games of a job were played."""
    return all((folder / f"{which}.json").exists() for which in ("last", "best"))


def left_s(job: Job, folder: Path) -> float:
    """Return for how long a run has still to be trained: 0 when it is over."""
    run = run_of(job, folder)
    if not run.manifest_file.exists():
        return 60 * job.minutes
    ends = json.loads(run.manifest_file.read_text())["invocations"]
    if ends[-1]["end_reason"] in ("finished", "arrived", "time_limit"):
        return 0.0
    # A run that was killed says no seconds; its log does.
    logged = column(run.progress_file, "time_s") if run.progress_file.exists() else []
    left = 60 * job.minutes - max(logged, default=0.0)
    return left if left >= LEAST_S else 0.0


def train(job: Job, folder: Path) -> None:
    """Train a run to its end, or to the end of its time."""
    run = run_of(job, folder)
    command = [sys.executable, "-m", "dqn_zoo.cli.train"]
    if run.manifest_file.exists():
        command += ["--resume", str(run.path)]
    else:
        command += ["--env", job.game, "--algo", job.recipe, "--seed", str(job.seed)]
        command += ["-f", str(folder / job.name)]
        command += [word for change in job.changes for word in ("--set", change)]
    command += ["--time-limit", f"{left_s(job, folder):.0f}s"]
    _run(command, allowed=(0, EXIT_CODES["time_limit"]))


def train_sb3(job: Job, folder: Path, python: Path) -> None:
    """Train the peer from its beginning, since it cannot be resumed, and import its agent."""
    place, game = folder / job.name, f"{job.game}NoFrameskip-v4"
    shutil.rmtree(place, ignore_errors=True)
    command = [str(python), str(environment.HERE / "sb3_train.py"), "--env", game]
    command += ["--seed", str(job.seed), "--minutes", str(job.minutes), "--output", str(place)]
    _run([*command, "--num-threads", str(default_num_threads("cpu", usable_cores()))], allowed=(0,))
    imported = [sys.executable, "-m", "dqn_zoo.cli.import_sb3", str(place / "model.zip")]
    _run([*imported, "--env", job.game, "-f", str(place)], allowed=(0,))
    shutil.copyfile(place / "progress.csv", run_of(job, folder).progress_file)


def measure(job: Job, folder: Path, episodes: int) -> None:
    """Play the games of a run with both of its weights."""
    run = run_of(job, folder)
    for which in ("last", "best"):
        output = folder / job.name / f"{which}.json"
        has_best = run.best_model_file.exists()
        flag = "--load-best" if which == "best" and has_best else "--load-last"
        command = [sys.executable, "-m", "dqn_zoo.cli.enjoy", "--run", str(run.path), flag]
        command += ["--episodes", str(episodes), "--no-render", "--output", str(output)]
        if job.recipe == SB3:  # by the rules and the epsilon of the others
            command += ["--protocol", "zoo", "--epsilon", "0.01"]
        if not output.exists():
            _run(command, allowed=(0,))


def minutes_to_pass(run: Run) -> float | None:
    """Return the minutes to the first evaluation that passes the course's mark."""
    if not run.evaluations_file.exists():
        return None
    logged = column(run.progress_file, "steps"), column(run.progress_file, "time_s")
    times = dict(zip(*logged, strict=True))
    results = column(run.evaluations_file, "mean_minus_std")
    for step, result in zip(column(run.evaluations_file, "steps"), results, strict=True):
        if result >= COURSE_PASS_MARK and step in times:
            return times[step] / 60
    return None


def table(jobs: Sequence[Job], folder: Path) -> str:
    """Return the results so far, as Markdown."""
    lines = [
        "| game | recipe | seed | steps | minutes | last: mean +/- std | mean - std "
        "| best: mean +/- std | mean - std | first passes after |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for job in jobs:
        if not is_measured(folder / job.name):
            lines.append(f"| {job.game} | `{job.title}` | {job.seed} | not yet measured |||||||")
            continue
        run = run_of(job, folder)
        cells = [job.game, f"`{job.title}`", str(job.seed)]
        cells.append(f"{column(run.progress_file, 'steps')[-1]:,.0f}")
        cells.append(f"{column(run.progress_file, 'time_s')[-1] / 60:.1f}")
        for which in ("last", "best"):
            result: dict[str, Any] = json.loads((folder / job.name / f"{which}.json").read_text())
            mean, std = result["mean_reward"], result["std_reward"]
            cells += [f"{mean:.1f} +/- {std:.1f}", f"{mean - std:.1f}"]
        passed = minutes_to_pass(run) if job.game == COURSE_GAME else None
        cells.append("" if passed is None else f"{passed:.1f} min")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(game: str, jobs: Sequence[Job], folder: Path) -> None:
    """Draw the training returns of all runs of a game over minutes."""
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    for job in jobs:
        run = run_of(job, folder)
        if not run.progress_file.exists():
            continue
        minutes = [seconds / 60 for seconds in column(run.progress_file, "time_s")]
        label = f"{job.title}, seed {job.seed}"
        axes.plot(minutes, column(run.progress_file, "return_mean"), label=label)
    random = random_score(game)
    if random is not None:
        axes.axhline(random, color="0.3", linestyle="--", linewidth=1, label="random play")
    if game == COURSE_GAME:
        axes.axhline(
            COURSE_PASS_MARK, color="tab:red", linestyle=":", linewidth=1, label="pass mark"
        )
    axes.set_xlabel("minutes from the command")
    axes.set_ylabel("raw score, mean of the last 100 training games")
    axes.set_title(game)
    axes.legend(fontsize=8)
    figure.savefig(folder / f"{game}.png", dpi=110)


def _run(command: list[str], allowed: Sequence[int]) -> None:
    """Run a command before the user's eyes, and wait until it has saved what a signal stops."""
    process = subprocess.Popen(command)
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches the command itself
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    code = process.wait()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if code not in allowed:
        sys.exit(code if code > 0 else 1)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog="\n".join(__doc__.splitlines()[2:]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--suite", choices=list(SUITES), required=True)
    parser.add_argument("--only", metavar="TEXT", default="", help="jobs with this in their name")
    parser.add_argument("--episodes", type=int, default=100, help="full games (default: 100)")
    parser.add_argument("-f", "--folder", type=Path, default=Path("results"))
    parser.add_argument("--preview", action="store_true", help="say what is left to do, and end")
    environment.add_arguments(parser)
    arguments = parser.parse_args()
    folder = arguments.folder / arguments.suite
    jobs = [job for job in SUITES[arguments.suite] if arguments.only in job.name]
    print(preview(jobs, folder), flush=True)
    if arguments.preview:
        return 0
    folder.mkdir(parents=True, exist_ok=True)
    for job in jobs:
        if not is_measured(folder / job.name):
            if job.recipe == SB3 and not run_of(job, folder).progress_file.exists():
                python = environment.find_python(arguments)
                if python is None:
                    continue
                train_sb3(job, folder, python)
            elif left_s(job, folder) > 0:
                train(job, folder)
            measure(job, folder, arguments.episodes)
        (folder / "results.md").write_text(table(jobs, folder))
        draw(job.game, [each for each in jobs if each.game == job.game], folder)
    print(table(jobs, folder), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
