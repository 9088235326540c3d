"""One page about runs: curves, results, settings, film and manifest, in one file."""

import base64
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from dqn_zoo.errors import UserError
from dqn_zoo.experiments.curves import (
    KINDS,
    SMOOTHING,
    Axis,
    Curve,
    Floats,
    Kind,
    Warn,
    overlay,
    random_of,
    read_curve,
)
from dqn_zoo.experiments.plan import PLAN_FILE, Sweep
from dqn_zoo.experiments.summary import as_json, summarize_sweep
from dqn_zoo.play.measurements import is_current, read_measured
from dqn_zoo.play.results_file import read_results
from dqn_zoo.runs.elsewhere import instead_of_missing
from dqn_zoo.runs.html_page import with_data
from dqn_zoo.runs.learning_curve import last_row, number_of
from dqn_zoo.runs.manifest import read_manifest
from dqn_zoo.runs.run import Run, is_unfinished
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.protocols import protocol_from_config, rules_in_words
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.system.documents import DocumentError

MOST_FILM_BYTES = 8_000_000  # a page is sent by mail
NUM_POINTS = 120
OF_THE_MACHINE = {"env", "seed", "device", "num_threads", "log_interval", "save_freq"}


@dataclass(frozen=True, slots=True)
class Described:
    """A run with its settings, its row of results and its curves."""

    run: Run
    config: Config
    result: dict[str, Any]
    curves: dict[Kind, Curve]


def find_runs(paths: Iterable[Path], *, warn: Warn) -> list[Described]:
    """Return the runs at or below the given folders; `warn` takes a line for each left out.

    Raises:
        UserError: a folder holds none, or none can be read.
    """
    found: dict[Path, Run] = {}  # a run that is named twice is one run
    for path in paths:
        files = [file for file in sorted(path.rglob("config.yml")) if not is_unfinished(file, path)]
        runs = [Run(file.parent) for file in files if Run(file.parent).manifest_file.exists()]
        if not runs:
            expected = "expected a config.yml in it or below"
            instead = instead_of_missing(path) or expected
            raise UserError(f"{path} holds no run of dqn-train: {instead}")
        # What dqn-enjoy has unpacked to be watched is nobody's run, unless it is asked for.
        for run in (run for run in runs if run.path == path or not _is_packaged(run)):
            found.setdefault(run.path.resolve(), run)
    described = []
    for run in found.values():
        try:
            described.append(_describe(run))
        except UserError as error:
            if len(found) == 1:
                raise
            warn(f"left out: {error}")
    if not described:
        raise UserError("no run is left to report on: the lines above say why")
    return described


def _is_packaged(run: Run) -> bool:
    try:
        return "pretrained" in (read_manifest(run).get("origin") or {})
    except UserError:  # who describes the run says what is wrong with it
        return False


def make_report(paths: Sequence[Path], title: str, *, warn: Warn) -> str:
    """Return a page about all runs that `find_runs` finds; a sweep's table is shown, too.

    Raises:
        UserError: a folder holds no run, or none can be read.
    """
    described = find_runs(paths, warn=warn)
    tables = []
    for path in (path for path in paths if (path / PLAN_FILE).is_file()):
        try:
            tables.append(as_json(summarize_sweep(Sweep.open(path))))
        except UserError as error:
            warn(f"the table of {path} is left out: {error}")
    page = resources.files("dqn_zoo.experiments").joinpath("report.html")
    data = {
        "title": title,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "curves": _curves(described),
        "results": [each.result for each in described],
        "aggregates": tables,
        "settings": _settings(described),
        "films": _films(described),
    }
    return with_data(page.read_text(encoding="utf-8"), data)


def _describe(run: Run) -> Described:
    config = load_config(run.config_file)
    curves = {kind: curve for kind in KINDS if (curve := read_curve(run.path, kind))}
    return Described(run, config, _result(run, config), curves)


def _curves(described: Sequence[Described]) -> list[dict[str, Any]]:
    """Return for each game and kind the groups' means, intervals and runs over steps and time."""
    panels = []
    for kind in KINDS:
        curves = [each.curves[kind] for each in described if kind in each.curves]
        for game in dict.fromkeys(curve.game for curve in curves):
            of_game = [curve for curve in curves if curve.game == game]
            panels.append(
                {
                    "game": game,
                    "kind": kind,
                    "random": random_of(of_game),
                    "steps": _bands(of_game, "steps", kind),
                    "time": _bands(of_game, "time", kind),
                }
            )
    return panels


def _bands(curves: Sequence[Curve], axis: Axis, kind: Kind) -> list[dict[str, Any]]:
    return [
        {
            "group": band.group,
            "at": _numbers(band.at),
            "mean": _numbers(band.mean),
            "low": _numbers(band.low),
            "high": _numbers(band.high),
            "runs": [_numbers(run) for run in band.runs],
        }
        for band in overlay(curves, axis, smoothing=SMOOTHING[kind], num_points=NUM_POINTS)
    ]


def _result(run: Run, config: Config) -> dict[str, Any]:
    """Return the row of a run: how far it came, and what it scored."""
    last = last_row(run.progress_file)
    seconds = number_of(last.get("time_s"))
    row: dict[str, Any] = {
        "run": str(run.path),
        "game": config.env,
        "algo": config.algo,
        "seed": config.seed,
        "protocol": rules_in_words(protocol_from_config(config)),
        "steps": number_of(last.get("steps")),
        "minutes": None if seconds is None else seconds / 60,
        "training": number_of(last.get("return_mean")),
        "played": [],
        "manifest": read_manifest(run),
    }
    # What the run is known by comes first.
    for file in [*sorted(run.path.glob("results*.json")), *sorted(run.path.glob("results/*.json"))]:
        try:
            played = read_results(file)
        except DocumentError as error:
            raise DocumentError(f"{error}; remove it, or play again with dqn-enjoy") from error
        row["played"].append(
            {
                "weights": (played.get("weights") or {}).get("name") or "weights",
                "games": played["n_eval_episodes"],
                "mean": played["mean_reward"],
                "std": played["std_reward"],
                "interval": played.get("confidence_95"),
                "apart": _apart(run, config, file),
            }
        )
    return row


def _apart(run: Run, config: Config, file: Path) -> list[str]:
    """Return what sets games apart from those of the run's own weights by its own rules."""
    try:
        sample = read_measured(file)
    except DocumentError:
        return ["neither its rules nor its weights are known"]
    own, rules, apart = protocol_from_config(config), sample.rules, []
    if rules_in_words(rules) != rules_in_words(own):
        apart.append(f"protocol {rules_in_words(rules)}")
    if rules.eval_epsilon != own.eval_epsilon:
        apart.append(f"epsilon {rules.eval_epsilon:g}")
    if not is_current(run, sample):
        apart.append("weights that the run no longer has")
    return apart


def _settings(described: Sequence[Described]) -> dict[str, Any]:
    """Return the settings that differ between runs, and those that all share."""
    dumped = [each.config.model_dump(mode="json") for each in described]
    keys = list(dumped[0])
    differing = [
        key
        for key in keys
        if key not in OF_THE_MACHINE and any(one[key] != dumped[0][key] for one in dumped)
    ]
    # One column for all runs that agree in what differs.
    columns: dict[str, dict[str, Any]] = {}
    for each, one in zip(described, dumped, strict=True):
        values = {key: one[key] for key in differing}
        entry = columns.setdefault(json.dumps(values), {"values": values, "runs": []})
        entry["runs"].append(f"{each.config.algo}/{each.run.name}")
    return {
        "differing": differing,
        "columns": list(columns.values()),
        "shared": {key: dumped[0][key] for key in keys if key not in {*differing, *OF_THE_MACHINE}},
    }


def _films(described: Sequence[Described]) -> list[dict[str, str]]:
    """Return the newest film of each run, as long as the page stays small enough to send."""
    films, left = [], MOST_FILM_BYTES
    for each in described:
        found = sorted(each.run.path.rglob("*.mp4"), key=lambda file: file.stat().st_mtime)
        if found and found[-1].stat().st_size <= left:
            content = found[-1].read_bytes()
            left -= len(content)
            films.append(
                {
                    "name": f"{each.config.algo} on {each.config.env}, seed {each.config.seed}",
                    "data": f"data:video/mp4;base64,{base64.b64encode(content).decode()}",
                }
            )
    return films


def _numbers(values: Floats) -> list[float | None]:
    """Return numbers that JSON has, to four digits."""
    return [None if np.isnan(value) else float(f"{value:.4g}") for value in values]
