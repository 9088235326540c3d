"""Search spaces: which settings are tried, and between which values, as a YAML file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, Protocol

from dqn_zoo.errors import UserError
from dqn_zoo.settings.config import Config, nearest_key
from dqn_zoo.settings.recipe_files import LOCAL_FOLDER, packaged_folder
from dqn_zoo.settings.yaml_reader import Entry, read_entries

SUBFOLDER = "search"
_NOT_SEARCHED = ("env", "algo", "seed", "n_timesteps", "eval_freq")  # what every trial has alike
KINDS = ("choices", "uniform", "log", "whole")


class Suggest(Protocol):
    """The part of an Optuna trial that draws values."""

    def suggest_categorical(self, name: str, choices: list[Any]) -> Any:
        """Draw one of the choices."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool) -> float:
        """Draw a number."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Draw a whole number."""


@dataclass(frozen=True, slots=True)
class Range:
    """The values that a setting may take.

    Attributes:
        kind: how they are drawn.
        values: the choices, or the lowest and the highest.
    """

    kind: Literal["choices", "uniform", "log", "whole"]
    values: tuple[Any, ...]

    def draw(self, trial: Suggest, key: str) -> Any:
        """Return a value that a trial suggests for a setting."""
        if self.kind == "choices":
            return trial.suggest_categorical(key, list(self.values))
        low, high = self.values
        if self.kind == "whole":
            return trial.suggest_int(key, low, high)
        return trial.suggest_float(key, low, high, log=self.kind == "log")


@dataclass(frozen=True, slots=True)
class SearchSpace:
    """Ranges by setting.

    Attributes:
        name: what messages call it.
        ranges: by key.
    """

    name: str
    ranges: Mapping[str, Range]

    def draw(self, trial: Suggest) -> dict[str, Any]:
        """Return settings that a trial suggests."""
        return {key: each.draw(trial, key) for key, each in self.ranges.items()}

    def fingerprint(self) -> str:
        """Return the ranges as text that is equal for equal spaces."""
        return json.dumps({key: [each.kind, each.values] for key, each in self.ranges.items()})


def find_space(name: str) -> Path:
    """Return the file of a search space: a path, or a name in hyperparams/search/.

    Raises:
        UserError: there is none, with those there are.
    """
    if name.endswith((".yml", ".yaml")):
        return Path(name)
    folders = (packaged_folder() / SUBFOLDER, LOCAL_FOLDER / SUBFOLDER)
    spaces = {path.stem: path for folder in folders for path in sorted(folder.glob("*.yml"))}
    if name in spaces:
        return spaces[name]
    near = get_close_matches(name, spaces, n=1)
    raise UserError(
        f"unknown search space {name!r}: {f'did you mean {near[0]}? ' if near else ''}there are "
        f"{', '.join(sorted(spaces))}; a file ends in .yml"
    )


def read_space(path: Path) -> SearchSpace:
    """Read a search space.

    Raises:
        UserError: not readable, an unknown setting, or a range that is none; with the line.
    """
    entries = read_entries(path, name=str(path))
    if not entries:
        raise UserError(f"{path} searches nothing: expected lines like gamma: {{choices: [..]}}")
    return SearchSpace(path.stem, {key: _range(key, entry) for key, entry in entries.items()})


def _range(key: str, entry: Entry) -> Range:
    if key not in Config.model_fields or key in _NOT_SEARCHED:
        hint = "it is not for search" if key in Config.model_fields else nearest_key(key)
        raise UserError(f"{entry.origin}: cannot search {key!r}; {hint}")
    if not isinstance(entry.value, dict) or len(entry.value) != 1:
        raise _no_range(key, entry.origin)
    [(kind, said)] = entry.value.items()
    values, origin = said.value, said.origin
    if kind not in KINDS or not isinstance(values, list) or not values:
        raise _no_range(key, origin)
    if kind != "choices":
        numbers = int if kind == "whole" else (int, float)
        if len(values) != 2 or not all(isinstance(value, numbers) for value in values):
            raise UserError(f"{origin}: {kind} takes two numbers, the lowest and the highest")
        if not values[0] < values[1] or (kind == "log" and values[0] <= 0):
            raise UserError(
                f"{origin}: expected the lower number first"
                + (", above 0" if kind == "log" else "")
                + f", got {values}"
            )
    return Range(kind, tuple(values))


def _no_range(key: str, origin: str) -> UserError:
    return UserError(
        f"{origin}: expected {key}: {{choices: [..]}}, or uniform, log or whole: [low, high]"
    )
