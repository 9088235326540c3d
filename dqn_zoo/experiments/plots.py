"""Pictures of many runs: learning curves by game, what a sweep says over all games, a search."""

import contextlib
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dqn_zoo.experiments.curves import SMOOTHING, Axis, Band, Curve, Kind, overlay, random_of
from dqn_zoo.experiments.summary import PROFILE_THRESHOLDS, Summary
from dqn_zoo.runs.learning_curve import new_figure

if TYPE_CHECKING:
    import optuna
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMNS = 3
AXIS_LABELS: dict[Axis, str] = {
    "steps": "steps (4 frames each)",
    "frames": "frames",
    "time": "minutes",
}
KIND_LABELS: dict[Kind, str] = {
    "training": "raw score, training games",
    "evaluation": "raw score, evaluations",
}


def draw_curves(
    curves: Sequence[Curve],
    picture: Path,
    *,
    kind: Kind,
    axis: Axis = "steps",
    smoothing: int | None = None,
    marks: Sequence[float] = (),
) -> None:
    """Draw the curves, a panel for each game, a colour for each group.

    A thin line is a run, a thick one the mean of its group's runs with the 95 % bootstrap interval
    over them. A point of a run is the mean of `smoothing` hundredths of the axis; None: of what
    suits the kind.
    """
    games = list(dict.fromkeys(curve.game for curve in curves))
    groups = list(dict.fromkeys(curve.group for curve in curves))
    colours = {group: f"C{number}" for number, group in enumerate(groups)}
    columns = min(COLUMNS, len(games))
    figure = _panels(columns, math.ceil(len(games) / columns))
    panels = figure.subplots(math.ceil(len(games) / columns), columns, squeeze=False).flat
    for game, panel in zip(games, panels, strict=False):
        of_game = [curve for curve in curves if curve.game == game]
        for band in overlay(of_game, axis, smoothing=smoothing or SMOOTHING[kind]):
            _draw_band(panel, band, colours[band.group])
        for mark in marks:
            panel.axhline(mark, color="tab:red", linestyle=":", linewidth=1, label=f"{mark:g}")
        _finish(panel, of_game, axis, kind)
    for panel in list(panels):
        panel.set_visible(False)
    figure.savefig(picture, dpi=110)


def draw_aggregates(summary: Summary, picture: Path) -> bool:
    """Draw aggregates with their intervals and the performance profiles; False: there are none."""
    if not summary.aggregates:
        return False
    figure = _panels(2, 1)
    left, right = figure.subplots(1, 2)
    names = list(next(iter(summary.aggregates.values())))
    for number, (variant, statistics) in enumerate(summary.aggregates.items()):
        shift = 0.15 * (number - (len(summary.aggregates) - 1) / 2)
        values = np.array([statistics[name] for name in names])  # [statistics, value, low, high]
        errors = np.abs(values[:, 1:].T - values[:, 0])
        left.errorbar(
            np.arange(len(names)) + shift, values[:, 0], errors, fmt="o", capsize=3, label=variant
        )
        share, low, high = summary.profiles[variant]
        right.plot(PROFILE_THRESHOLDS, share, color=f"C{number}", label=variant)
        right.fill_between(
            PROFILE_THRESHOLDS, low, high, color=f"C{number}", alpha=0.15, linewidth=0
        )
    left.set_xticks(range(len(names)), names)
    left.set_ylabel("human-normalised score")
    left.set_title("over all games and runs, 95 % intervals")
    right.set_xlabel("human-normalised score")
    right.set_ylabel("share of runs above it")
    right.set_ylim(0, 1.02)
    right.set_title("performance profile")
    left.legend(fontsize=8)
    figure.savefig(picture, dpi=110)
    return True


def draw_study(study: "optuna.Study", folder: Path) -> list[Path]:
    """Draw history, importances and parallel coordinates; return the pictures that could be made.

    Importances need trials that differ in their value, and in some versions of Optuna scikit-learn.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from optuna.visualization import matplotlib as pictures

    drawn = []
    for name, draw in (
        ("history", pictures.plot_optimization_history),
        ("importances", pictures.plot_param_importances),
        ("parallel-coordinates", pictures.plot_parallel_coordinate),
    ):
        with (
            contextlib.suppress(ValueError, RuntimeError, ZeroDivisionError, ImportError, OSError),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # Optuna calls its pictures experimental
            draw(study)
            pyplot.gcf().set_size_inches(10, 5)
            pyplot.gcf().savefig(folder / f"{name}.png", dpi=110, bbox_inches="tight")
            drawn.append(folder / f"{name}.png")
        pyplot.close("all")
    return drawn


def _panels(columns: int, rows: int) -> "Figure":
    return new_figure(1 + 5.5 * columns, 0.5 + 4 * rows)


def _draw_band(panel: "Axes", band: Band, colour: str) -> None:
    num_runs = len(band.runs)
    for run in band.runs if num_runs > 1 else ():
        known = ~np.isnan(run)
        panel.plot(band.at[known], run[known], color=colour, linewidth=0.6, alpha=0.5)
    known = ~np.isnan(band.mean)
    at, mean, low, high = (each[known] for each in (band.at, band.mean, band.low, band.high))
    label = f"{band.group} ({num_runs} run{'s' if num_runs > 1 else ''})"
    panel.plot(at, mean, color=colour, linewidth=2, label=label)
    panel.fill_between(at, low, high, color=colour, alpha=0.15, linewidth=0)


def _finish(panel: "Axes", curves: Sequence[Curve], axis: Axis, kind: Kind) -> None:
    random = random_of(curves)
    if random is not None:
        panel.axhline(random, color="0.3", linestyle="--", linewidth=1, label="random play")
    panel.set_title(curves[0].game)
    panel.set_xlabel(AXIS_LABELS[axis])
    panel.set_ylabel(KIND_LABELS[kind])
    panel.legend(fontsize=8)
