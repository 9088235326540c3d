"""The curves of several runs, by groups that share a value of a setting, as in `dqn-plot`."""

import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dqn_zoo.errors import UserError
from dqn_zoo.experiments.curves import Band, Curve, group_name, overlay
from dqn_zoo.runs.learning_curve import columns
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.watching.runs import EVALUATIONS, PROGRESS, stamp_of, stamp_of_file

MOST_DRAWN = 24
"""Runs over each other; the page has as many kinds of lines."""

REST = 10
"""Times as long as an answer took until curves are grouped again: most of a core is the run's."""


class Groups:
    """Answers `read_groups`, and rests after each answer as its cost demands."""

    def __init__(self) -> None:
        self._free_s = 0.0

    def read(self, runs: Mapping[str, Run], by: str, since: str) -> dict[str, Any]:
        """Return what `read_groups` does; while it rests, nothing new to who has an answer."""
        begun = time.monotonic()
        if since and begun < self._free_s:
            return {"stamp": since}
        answer = read_groups(runs, by, since)
        now = time.monotonic()
        self._free_s = now + REST * (now - begun)
        return answer


def settings_that_differ(runs: Mapping[str, Run]) -> list[str]:
    """Return the keys of the settings in which runs differ, in the order of a recipe."""
    configs = _configs(runs).values()
    return [
        key for key in Config.model_fields if len({str(getattr(each, key)) for each in configs}) > 1
    ]


def read_groups(runs: Mapping[str, Run], by: str, since: str) -> dict[str, Any]:
    """Return the curves of runs on one grid for each panel, and the mean of each group.

    Args:
        runs: by their keys; one that is damaged is left out.
        by: key of the settings.
        since: the `stamp` of an earlier answer; where nothing was added, the stamp is all.

    Raises:
        UserError: there is no such setting.
    """
    if by not in Config.model_fields:
        raise UserError(f"the settings of a run have no key {by!r}")
    stamp = "-".join(stamp_of(run) for run in runs.values())
    if stamp and stamp == since:
        return {"stamp": stamp}
    configs = _configs(runs)
    has_one_game = len({config.env for config in configs.values()}) == 1
    names = {
        key: ("" if has_one_game or by == "env" else f"{config.env}, ") + group_name(config, by)
        for key, config in configs.items()
    }
    kept = {key: run for key, run in runs.items() if key in names}
    panels = {}
    for wanted, of_evaluations in ((PROGRESS, False), (EVALUATIONS, True)):
        files = {
            key: run.evaluations_file if of_evaluations else run.progress_file
            for key, run in kept.items()
        }
        tables = {
            key: _table(file, stamp_of_file(file), wanted)
            for key, file in files.items()
            if file.exists()
        }
        for place, column in enumerate(wanted[1:], 1):
            curves = [
                _curve(kept[key], names[key], configs[key], table[[0, place]])
                for key, table in tables.items()
            ]
            panels[column] = _panel([curve for curve in curves if len(curve.steps)])
    return {"stamp": stamp, "groups": list(dict.fromkeys(names.values())), "panels": panels}


def _configs(runs: Mapping[str, Run]) -> dict[str, Config]:
    configs = {}
    for key, run in runs.items():
        try:
            configs[key] = _config(run.config_file, stamp_of_file(run.config_file))
        except (UserError, OSError):  # its row says what is wrong with it
            continue
    return configs


@lru_cache(maxsize=2 * MOST_DRAWN)
def _config(file: Path, _stamp: str) -> Config:
    return load_config(file)


@lru_cache(maxsize=2 * MOST_DRAWN)
def _table(file: Path, _stamp: str, names: Sequence[str]) -> NDArray[np.float64]:
    return np.array(columns(file, *names))


def _curve(run: Run, group: str, config: Config, table: NDArray[np.float64]) -> Curve:
    steps, values = table[:, np.isfinite(table).all(axis=0)]
    return Curve(
        source=run.path,
        game=config.env,
        group=group,
        seed=config.seed,
        steps=steps,
        seconds=np.full(len(steps), np.nan),
        scores=values,
    )


def _panel(curves: list[Curve]) -> dict[str, Any]:
    bands = overlay(curves, "steps", smoothing=1) if curves else []
    at = _numbers(bands[0].at) if bands else []
    return {"at": at, "groups": [_group(band) for band in bands]}


def _group(band: Band) -> dict[str, Any]:
    lines = {name: _numbers(getattr(band, name)) for name in ("mean", "low", "high")}
    return {"name": band.group, **lines, "runs": [_numbers(run) for run in band.runs]}


def _numbers(values: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(value) else float(f"{value:.6g}") for value in values]
