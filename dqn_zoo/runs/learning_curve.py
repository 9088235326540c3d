"""The learning curve of a run as a picture: training returns and evaluations over steps."""

import csv
import math
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from dqn_zoo.runs.run import Run
from dqn_zoo.settings.checks import without_effect
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.protocols import protocol_from_config, published_scores, rules_in_words

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def column(path: Path, name: str) -> list[float]:
    """Return one column of a CSV file; empty cells are NaN."""
    return columns(path, name)[0]


def columns(path: Path, *names: str) -> list[list[float]]:
    """Return some columns of a CSV file, of one length even while rows are added to it.

    Rows that are damaged are left out, with one warning.
    """
    text = path.read_bytes().decode(errors="replace").replace("\0", "?")
    read: list[list[float]] = []
    damaged = 0
    try:
        for row in csv.DictReader(text.splitlines()):
            try:
                read.append([_cell(row[name]) for name in names])
            except (KeyError, ValueError):
                damaged += 1
    except csv.Error:  # a cell without end
        damaged += 1
    if damaged:
        warnings.warn(f"{path}: {damaged} damaged rows are left out", stacklevel=2)
    return [[row[place] for row in read] for place in range(len(names))]


def _cell(text: str | None) -> float:
    if text is None:
        raise ValueError("the row is cut off")
    number = float(text or "nan")
    if math.isinf(number):
        raise ValueError("no number of a log is infinite")
    return number


def last_row(file: Path) -> dict[str, str]:
    """Return the last whole row of a CSV file, read from its end; {} where none can be read."""
    try:
        with file.open("rb") as stream:
            header = stream.readline()
            stream.seek(max(len(header), file.stat().st_size - 4096))
            lines = stream.read().split(b"\n")[:-1]
    except OSError:
        return {}
    if not lines:
        return {}
    try:
        names, values = (next(csv.reader([line.decode()])) for line in (header, lines[-1]))
    except (ValueError, StopIteration, csv.Error):
        return {}
    return dict(zip(names, values, strict=False))


def number_of(cell: str | None) -> float | None:
    """Return the finite number in a cell of a row; None where there is none."""
    try:
        number = float(cell or "nan")
    except ValueError:  # the row is damaged
        return None
    return number if math.isfinite(number) else None


def new_figure(width: float, height: float) -> "Figure":
    """Return an empty figure, in inches: no window, no state shared with anybody's pyplot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def draw_learning_curve(run: Run, config: Config, picture: Path) -> bool:
    """Draw the curve of a run and return whether it has one to draw."""
    if not (run.episodes_file.exists() and run.progress_file.exists()):
        return False
    figure = new_figure(8, 4.5)
    axes = figure.add_subplot()
    axes.plot(
        *columns(run.episodes_file, "steps", "return"),
        ".",
        color="0.75",
        markersize=4,
        label="training games",
    )
    axes.plot(
        *columns(run.progress_file, "steps", "return_mean"),
        color="tab:blue",
        label="mean of the last 100 training games",
    )
    at, mean, std = (
        columns(run.evaluations_file, "steps", "mean", "std")
        if run.evaluations_file.exists()
        else ([], [], [])
    )
    if at:
        axes.errorbar(
            at,
            mean,
            std,
            fmt="o",
            color="tab:orange",
            capsize=3,
            label=f"evaluations: mean and deviation of {config.eval_episodes} games",
        )
    protocol = protocol_from_config(config)
    scores = published_scores(config.env, protocol)
    if scores is not None:
        axes.axhline(scores.random, color="0.3", linestyle="--", linewidth=1, label="random play")
    if "learning_starts" not in without_effect(config):
        axes.axvline(config.learning_starts, color="0.3", linestyle=":", linewidth=1)
        axes.annotate(
            " learning starts",
            (config.learning_starts, 0.02),
            xycoords=axes.get_xaxis_transform(),
            fontsize=8,
        )
    axes.set_xlabel("steps (4 frames each)")
    axes.set_ylabel("raw score")
    rules = rules_in_words(protocol)
    axes.set_title(f"{config.algo} on {config.env}, protocol {rules}, seed {config.seed}")
    axes.legend(fontsize=8)
    figure.savefig(picture, dpi=110)
    return True
