"""Draw the learning curve of a run: training returns and evaluations over steps.

python scripts/plot_run.py logs/dqn/SpaceInvaders_1 curve.png
"""

import argparse
import csv
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

from dqn_zoo.games import random_score
from dqn_zoo.recipes import load_config
from dqn_zoo.runs import find_run


def column(path: Path, name: str) -> list[float]:
    """Return one column of a CSV file; empty cells are NaN."""
    with path.open() as file:
        return [float(row[name] or "nan") for row in csv.DictReader(file)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("picture", type=Path)
    arguments = parser.parse_args()
    run = find_run(arguments.run.parent, run=arguments.run)
    config = load_config(run.config_file)

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    axes.plot(
        column(run.episodes_file, "steps"),
        column(run.episodes_file, "return"),
        ".",
        color="0.75",
        markersize=4,
        label="training games",
    )
    axes.plot(
        column(run.progress_file, "steps"),
        column(run.progress_file, "return_mean"),
        color="tab:blue",
        label="mean of the last 100 training games",
    )
    axes.errorbar(
        column(run.evaluations_file, "steps"),
        column(run.evaluations_file, "mean"),
        column(run.evaluations_file, "std"),
        fmt="o",
        color="tab:orange",
        capsize=3,
        label=f"evaluations: mean and deviation of {config.eval_episodes} games",
    )
    random = random_score(config.env)
    if random is not None:
        axes.axhline(random, color="0.3", linestyle="--", linewidth=1, label="random play")
    axes.axvline(config.learning_starts, color="0.3", linestyle=":", linewidth=1)
    axes.annotate(
        " learning starts",
        (config.learning_starts, 0.02),
        xycoords=axes.get_xaxis_transform(),
        fontsize=8,
    )
    axes.set_xlabel("steps (4 frames each)")
    axes.set_ylabel("raw score")
    axes.set_title(f"{config.algo} on {config.env}, protocol {config.protocol}, seed {config.seed}")
    axes.legend(fontsize=8)
    figure.savefig(arguments.picture, dpi=110)


if __name__ == "__main__":
    main()
