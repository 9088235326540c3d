"""Draw the training returns of several runs on one plot, runs of one kind in one colour.

python scripts/plot_runs.py curves.png logs/dqn/Pong_1 logs/dqn/Pong_2 logs/iqn/Pong_1

A point is the mean return of the training games that ended in 10,000 steps; a thin line is a run, a
thick one the mean of the runs of a recipe, or of those with one value of `--by KEY`. A table of the
same numbers is printed.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")
from matplotlib import pyplot

from dqn_zoo.games import random_score
from dqn_zoo.learning_curve import column
from dqn_zoo.recipes import load_config
from dqn_zoo.runs import Run, find_run

BIN_STEPS = 10_000


def binned_returns(run: Run, num_bins: int) -> NDArray[np.float64]:
    """Return the mean return of the games that ended in each bin; NaN where none did."""
    place = (np.array(column(run.episodes_file, "steps")) - 1) // BIN_STEPS
    returns = np.array(column(run.episodes_file, "return"))
    games = [returns[place == number] for number in range(num_bins)]
    return np.array([some.mean() if len(some) else np.nan for some in games])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument(
        "--by", default="algo", metavar="KEY", help="one colour for each value (default: algo)"
    )
    arguments = parser.parse_args()
    groups: dict[str, list[Run]] = defaultdict(list)
    titles = set()
    for path in arguments.runs:
        run = find_run(path.parent, run=str(path))
        config = load_config(run.config_file)
        groups[str(getattr(config, arguments.by))].append(run)
        titles.add((config.env, config.protocol, config.network, config.n_timesteps))
    if len(titles) > 1:
        parser.error(f"the runs differ in game, protocol, network or steps: {sorted(titles)}")
    [(game, protocol, network, n_timesteps)] = titles
    num_bins = max(1, n_timesteps // BIN_STEPS)
    steps = (np.arange(num_bins) + 0.5) * BIN_STEPS

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    quarter = max(1, num_bins // 4)
    print(f"| {arguments.by} | runs | last {quarter * BIN_STEPS:,} steps | each run | all steps |")
    print("| --- | --- | --- | --- | --- |")
    for number, (value, runs) in enumerate(groups.items()):
        curves = np.stack([binned_returns(run, num_bins) for run in runs])
        label = value if arguments.by == "algo" else f"{arguments.by} {value}"
        for curve in curves:
            axes.plot(steps, curve, color=f"C{number}", linewidth=0.7, alpha=0.5)
        axes.plot(steps, np.nanmean(curves, axis=0), color=f"C{number}", linewidth=2, label=label)
        last = np.nanmean(curves[:, -quarter:], axis=1)
        each = ", ".join(f"{mean:.0f}" for mean in last)
        print(
            f"| `{value}` | {len(runs)} | {last.mean():.0f} | {each} | {np.nanmean(curves):.0f} |"
        )
    random = random_score(game)
    if random is not None:
        axes.axhline(random, color="0.3", linestyle="--", linewidth=1, label="random play")
    axes.set_xlabel("steps (4 frames each)")
    axes.set_ylabel("mean return of training games (raw score)")
    axes.set_title(f"{game}, protocol {protocol}, network {network}")
    axes.legend(fontsize=8)
    figure.savefig(arguments.picture, dpi=110)


if __name__ == "__main__":
    main()
