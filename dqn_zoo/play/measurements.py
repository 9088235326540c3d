"""All that was measured of the agents of a run: samples of games of some weights by some rules.

    results.json         the sample that the run is known by: the largest by the run's own rules and
                         epsilon, of weights that it still has; of equal ones the newest
    results/*.json       the largest sample of any other weights, rules or epsilon, and of games
                         until a number of steps was reached
    results-*.json       those that a sweep ends with
    hub/*/results.json   those that were published

A file holds what `results.results` returns.
"""

import json
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dqn_zoo.play.results_file import Results, read_results, rules_of
from dqn_zoo.runs.manifest import read_manifest
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.protocols import Protocol, protocol_from_config, rules_in_words
from dqn_zoo.system.documents import DocumentError, checked
from dqn_zoo.system.files import digest, move, replace_file

FEWEST_GAMES = 10
"""That a mean is compared by; of fewer, a lucky one decides."""

PLACES = ("results/*.json", "results-*.json", "hub/*/results.json")
"""Beside results.json, in a run folder."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A sample of games.

    Attributes:
        file: that it lies in.
        content: of the file.
        num_games: how many there are.
        mean: of their raw scores.
        std: of the population.
        sha256: of the weights.
        rules: that were played, epsilon included.
    """

    file: Path
    content: Results
    num_games: int
    mean: float
    std: float
    sha256: str
    rules: Protocol

    @property
    def is_by_steps(self) -> bool:
        """Whether steps decided how many games there are: then long ones are too rare."""
        return self.content.get("n_timesteps") is not None

    @property
    def subject(self) -> tuple[object, ...]:
        """What was measured: samples of the same are of one size or another, and no more."""
        return (self.sha256, self.rules, self.content.get("env"), self.is_by_steps)

    @property
    def name(self) -> str:
        """Name of a file in results/."""
        rules = re.sub(r"[^\w.]+", "-", rules_in_words(self.rules))
        by_steps = "-by-steps" if self.is_by_steps else ""
        return f"{self.sha256[:8]}-{rules}-epsilon-{self.rules.eval_epsilon:g}{by_steps}.json"


def measured(run: Run, warn: Callable[[str], None] = lambda reason: None) -> list[Measured]:
    """Return every sample of a run that was measured here, not what its publisher claims.

    `warn` takes why a file is left out.

    Raises:
        UserError: the manifest is damaged.
    """
    claim = _claim(run)
    found = []
    for file in _files(run):
        try:
            sample = read_measured(file)
        except DocumentError as error:
            warn(str(error))
            continue
        if sample.content != claim:
            found.append(sample)
    return found


def has_any(run: Run) -> bool:
    """Return whether anything was measured in a run folder, readable or not."""
    return next(_files(run), None) is not None


def read_measured(file: Path) -> Measured:
    """Read a sample.

    Raises:
        DocumentError: the file holds none.
    """
    return _measured(file, read_results(file))


def largest(
    samples: list[Measured], *, sha256: str, rules: Protocol, seed: int | None = None
) -> Measured | None:
    """Return the largest sample of some weights by some rules; of one seed, where it is given."""
    fitting = [
        sample
        for sample in samples
        if (sample.sha256, sample.rules) == (sha256, rules)
        and seed in (None, sample.content.get("seed"))
    ]
    return max(fitting, key=lambda sample: sample.num_games, default=None)


def is_current(run: Run, sample: Measured) -> bool:
    """Return whether a run still has the weights of a sample."""
    weights = run.path / str((sample.content.get("weights") or {}).get("file"))
    return weights.is_file() and digest(weights) == sample.sha256


def record(run: Run, config: Config, content: Mapping[str, Any]) -> Measured:
    """Keep a new sample; results.json stays with what the run is known by.

    `config` is the run's own, without what a command line changed of it.

    Returns:
        The sample that is kept: the new one, or a larger one of the same weights by the same rules.

    Raises:
        OSError: the file cannot be written.
    """
    new = _measured(
        run.results_file, checked(json.loads(json.dumps(content)), Results, str(run.results_file))
    )
    known = _read(run.results_file)
    beside = run.path / "results" / new.name
    if known is None and run.results_file.exists():
        _put_aside(run)
    claim = _claim(run)  # a publisher's games are none that were played here
    same = [
        each
        for each in (known, _read(beside))
        if each and each.subject == new.subject and each.content != claim
    ]
    kept = max([new, *same], key=lambda sample: sample.num_games)  # of equal ones the new one
    if kept is known:
        return kept

    def worth(sample: Measured) -> tuple[bool, bool, bool, int]:
        own = sample.rules == protocol_from_config(config)
        return is_current(run, sample), own, not sample.is_by_steps, sample.num_games

    if known is None or worth(kept) >= worth(known):
        if known is not None and known.subject != kept.subject:
            _write(run.path / "results" / known.name, known.content)
        _write(run.results_file, kept.content)
        beside.unlink(missing_ok=True)
        return replace(kept, file=run.results_file)
    if kept is new:
        _write(beside, new.content)
    return replace(kept, file=beside)


def _claim(run: Run) -> Any:
    """Return what the publisher of a run says of its games; None of a run from here."""
    return (read_manifest(run).get("origin") or {}).get("results")


def _put_aside(run: Run) -> None:
    """Keep a results.json that cannot be read, which somebody may have edited."""
    folder = run.path / "results"
    folder.mkdir(exist_ok=True)
    number = 1
    while (aside := folder / f"damaged-{number}.txt").exists():
        number += 1
    move(run.results_file, aside)
    warnings.warn(f"{run.results_file} could not be read and is {aside} now", stacklevel=3)


def _files(run: Run) -> Iterator[Path]:
    """Yield the files of samples; what the run is known by comes first."""
    if run.results_file.exists():
        yield run.results_file
    for place in PLACES:
        yield from sorted(run.path.glob(place))


def _measured(file: Path, content: Results) -> Measured:
    rules = rules_of(content, where=str(file))
    sha256 = (content.get("weights") or {}).get("sha256")
    if sha256 is None:
        raise DocumentError(f"{file} does not say which weights played")
    if content.get("epsilon") != rules.eval_epsilon:
        raise DocumentError(
            f"{file}: epsilon {content.get('epsilon')} beside {rules.eval_epsilon} in its protocol"
        )
    number, mean, std = content["n_eval_episodes"], content["mean_reward"], content["std_reward"]
    return Measured(file, content, number, mean, std, sha256, rules)


def _read(file: Path) -> Measured | None:
    try:
        return read_measured(file)
    except DocumentError:
        return None


def _write(file: Path, content: Mapping[str, Any]) -> None:
    file.parent.mkdir(exist_ok=True)
    replace_file(file, json.dumps(content, indent=2).encode())
