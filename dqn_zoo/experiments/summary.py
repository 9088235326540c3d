"""The table of a sweep: what every variant scored on every game, and over all of them."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from dqn_zoo.experiments.aggregates import (
    AGGREGATES,
    Estimate,
    Scores,
    estimate,
    performance_profile,
    probability_of_improvement,
)
from dqn_zoo.experiments.plan import Job, Sweep, WhichWeights
from dqn_zoo.experiments.references import Reference
from dqn_zoo.play.results_file import read_results
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.games import human_normalized_score
from dqn_zoo.settings.protocols import protocol_from_config, rules_in_words
from dqn_zoo.system.documents import DocumentError

PROFILE_THRESHOLDS = np.linspace(0.0, 2.0, 41)


class RunScore(NamedTuple):
    """What a run scored at its end.

    Attributes:
        last: mean raw score of the full games of its last weights.
        best: of the weights of its best evaluation.
        online: of the last weights that learned, where the others are averaged.
    """

    last: float
    best: float
    online: float | None = None

    def by_weights(self) -> dict[str, float]:
        """Return the scores of the weights that it has."""
        return {which: score for which, score in self._asdict().items() if score is not None}


class Conditions(NamedTuple):
    """What has to be equal for scores to compare.

    Attributes:
        rules: that the games are played by, in words.
        steps: of training.
    """

    rules: str = ""
    steps: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """The runs of a variant on a game.

    Attributes:
        runs: scores by seed, of the runs that are done.
        planned: runs of the plan.
        has_human: the game is played as the human tester played it, in no mode of its own.
        conditions: of its runs.
    """

    runs: dict[int, RunScore]
    planned: int
    has_human: bool = True
    conditions: Conditions = field(default_factory=Conditions)

    def scores(self, which: WhichWeights) -> Scores:
        """Return the raw score of every run that has such weights: float64 [num_runs]."""
        scores = [getattr(run, which) for run in self.runs.values()]
        return np.array([score for score in scores if score is not None])


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a sweep found.

    Attributes:
        cells: by variant and game.
        aggregates: of the human-normalised scores of the last weights: variant, then statistic.
        profiles: variant, then share of runs above `PROFILE_THRESHOLDS` and its interval.
        improvement: how likely a run of the first variant beats one of the second.
        incomplete: variants without aggregates, and why.
    """

    cells: dict[str, dict[str, Cell]]
    aggregates: dict[str, dict[str, Estimate]]
    profiles: dict[str, tuple[Scores, Scores, Scores]]
    improvement: dict[tuple[str, str], Estimate]
    incomplete: dict[str, str]


def summarize_sweep(sweep: Sweep) -> Summary:
    """Read the results of the runs that are done and compute what they say together.

    A variant gets aggregates once every planned run of it is done: a few fast games must not stand
    for all. Games without a human score count in the table of scores alone.
    """
    cells: dict[str, dict[str, Cell]] = {variant.name: {} for variant in sweep.plan.variants}
    for (variant, game), jobs in itertools.groupby(
        sorted(sweep.plan.jobs()), key=lambda job: (job.variant, job.game)
    ):
        planned = list(jobs)
        runs = {job.seed: read_score(sweep, job) for job in planned if sweep.is_done(job)}
        config = sweep.config(planned[0])
        cells[variant][game] = Cell(
            runs=runs,
            planned=len(planned),
            has_human=protocol_from_config(config).is_usual_game,
            conditions=conditions_of(config),
        )
    normalised, incomplete = {}, {}
    for variant, games in cells.items():
        missing = sum(cell.planned - len(cell.runs) for cell in games.values())
        strata = _normalised(games)
        if missing:
            incomplete[variant] = f"{missing} of its runs are not done"
        elif not strata:
            incomplete[variant] = "none of its games has a human score"
        else:
            normalised[variant] = strata
    return Summary(
        cells=cells,
        aggregates={
            variant: {
                name: estimate(statistic, list(strata.values()))
                for name, statistic in AGGREGATES.items()
            }
            for variant, strata in normalised.items()
        },
        profiles={
            variant: performance_profile(list(strata.values()), PROFILE_THRESHOLDS)
            for variant, strata in normalised.items()
        },
        improvement=_improvements(normalised),
        incomplete=incomplete,
    )


def read_score(sweep: Sweep, job: Job) -> RunScore:
    """Return what a run that is done has scored.

    Raises:
        UserError: a file of results is damaged.
    """
    means = {}
    for which in sweep.weights(job):
        file = sweep.results_file(job, which)
        try:
            means[which] = float(read_results(file)["mean_reward"])
        except DocumentError as error:
            raise DocumentError(
                f"{error}; remove it, and {sweep.command} plays the games again"
            ) from error
    return RunScore(**means)


def conditions_of(config: Config) -> Conditions:
    """Return the conditions of a run."""
    protocol = protocol_from_config(config)
    rules = f"{rules_in_words(protocol)}, epsilon {protocol.eval_epsilon:g}"
    return Conditions(rules, config.n_timesteps)


def differences(conditions: Mapping[tuple[str, str], Conditions]) -> Iterator[str]:
    """Say who plays by which rules, where not all do by the same, and who learns for more steps.

    Args:
        conditions: by variant and game.
    """
    rules_of: dict[str, set[str]] = {}
    for (variant, _), each in conditions.items():
        rules_of.setdefault(variant, set()).add(each.rules)
    by_rules: dict[str, dict[str, None]] = {}
    for (variant, game), each in conditions.items():
        who = f"`{variant}`" if len(rules_of[variant]) == 1 else f"`{variant}` on {game}"
        by_rules.setdefault(each.rules, {})[who] = None
    if len(by_rules) > 1:
        said = "; ".join(f"{', '.join(who)}: {rules}" for rules, who in by_rules.items())
        yield f"Not all play by the same rules, and such scores do not compare: {said}."
    by_steps: dict[str, list[str]] = {}
    for game in dict.fromkeys(game for _, game in conditions):
        steps = {name: each.steps for (name, at), each in conditions.items() if at == game}
        if len(set(steps.values())) > 1:
            said = ", ".join(f"`{variant}` {number:,}" for variant, number in steps.items())
            by_steps.setdefault(said, []).append(game)
    for said, names in by_steps.items():
        yield f"Not all learn for the same number of steps on {', '.join(names)}: {said}."


def as_markdown(summary: Summary, references: Sequence[Reference] = ()) -> str:
    """Return the tables as Markdown, published numbers beside ours where there are any."""
    return "\n".join(_markdown_lines(summary, references)) + "\n"


def as_json(summary: Summary) -> dict[str, Any]:
    """Return everything, for other programs."""
    return {
        "scores": {
            variant: {
                game: {str(seed): run.by_weights() for seed, run in cell.runs.items()}
                for game, cell in games.items()
            }
            for variant, games in summary.cells.items()
        },
        "conditions": {
            variant: {game: cell.conditions._asdict() for game, cell in games.items()}
            for variant, games in summary.cells.items()
        },
        "human_normalised": {
            variant: {name: value._asdict() for name, value in statistics.items()}
            for variant, statistics in summary.aggregates.items()
        },
        "profiles": {
            "thresholds": PROFILE_THRESHOLDS.tolist(),
            **{
                variant: dict(zip(("share", "low", "high"), map(list, profile), strict=True))
                for variant, profile in summary.profiles.items()
            },
        },
        "probability_of_improvement": [
            {"first": first, "second": second, **value._asdict()}
            for (first, second), value in summary.improvement.items()
        ],
        "incomplete": summary.incomplete,
    }


def _normalised(games: dict[str, Cell]) -> dict[str, Scores]:
    """Return the human-normalised scores of the last weights, by game."""
    found = {}
    for game, cell in games.items():
        scores = [human_normalized_score(game, score) for score in cell.scores("last")]
        if scores and None not in scores and cell.has_human:
            found[game] = np.array(scores, np.float64)
    return found


def _improvements(
    normalised: Mapping[str, Mapping[str, Scores]],
) -> dict[tuple[str, str], Estimate]:
    """Return the probability of improvement of all ordered pairs; one is 1 minus its reverse."""
    found = {
        (first, second): probability_of_improvement(normalised[first], normalised[second])
        for first, second in itertools.combinations(normalised, 2)
    }
    reverse = {
        (second, first): Estimate(1 - value, 1 - high, 1 - low)
        for (first, second), (value, low, high) in found.items()
    }
    return {pair: (found | reverse)[pair] for pair in itertools.permutations(normalised, 2)}


def _markdown_lines(summary: Summary, references: Sequence[Reference]) -> Iterator[str]:
    yield from _score_lines(summary, references)
    conditions = {
        (variant, game): cell.conditions
        for variant, games in summary.cells.items()
        for game, cell in games.items()
    }
    for difference in differences(conditions):
        yield from ("", difference)
    if summary.aggregates:
        yield from ("", *_aggregate_lines(summary))
    if summary.improvement:
        yield from ("", *_improvement_lines(summary))
    for variant, reason in summary.incomplete.items():
        yield from ("", f"No aggregates of `{variant}`: {reason}.")
    for reference in references:
        yield from ("", reference.footnote)


def _score_lines(summary: Summary, references: Sequence[Reference]) -> Iterator[str]:
    """Yield the table of raw scores: mean and deviation over runs, for each kind of weights."""
    published = [(each, agent) for each in references for agent in each.agents]
    heads = [(variant, head) for variant, games in summary.cells.items() for head in _heads(games)]
    yield markdown_row(
        "game",
        *(f"{variant}: {head}" if head == "last" else head for variant, head in heads),
        *(f"{each.name} {agent}" for each, agent in published),
    )
    yield markdown_row(*["---"] * (1 + len(heads) + len(published)))
    for game in dict.fromkeys(game for games in summary.cells.values() for game in games):
        cells = {
            (variant, head): text
            for variant, games in summary.cells.items()
            for head, text in _cell_texts(game, games.get(game)).items()
        }
        yield markdown_row(
            game,
            *(cells.get(each, "-") for each in heads),
            *(each.text(agent, game) for each, agent in published),
        )


def _heads(games: Mapping[str, Cell]) -> tuple[str, ...]:
    averages = any(cell.scores("online").size for cell in games.values())
    return ("last", "best", *(["online"] if averages else []), "human = 1")


def _cell_texts(game: str, cell: Cell | None) -> dict[str, str]:
    if cell is None or not cell.runs:
        return {}
    runs = len(cell.runs)
    of_all = "" if runs == cell.planned else f" ({runs} of {cell.planned} runs)"
    last, online = cell.scores("last"), cell.scores("online")
    human = human_normalized_score(game, float(last.mean())) if cell.has_human else None
    return {
        "last": f"{last.mean():,.1f} +/- {last.std():,.1f}{of_all}",
        "best": f"{cell.scores('best').mean():,.1f}",
        "online": f"{online.mean():,.1f}" if online.size else "-",
        "human = 1": "-" if human is None else f"{human:.2f}",
    }


def _aggregate_lines(summary: Summary) -> Iterator[str]:
    yield markdown_row("human-normalised, 95 % interval", *AGGREGATES)
    yield markdown_row(*["---"] * (1 + len(AGGREGATES)))
    for variant, statistics in summary.aggregates.items():
        yield markdown_row(f"`{variant}`", *map(_interval, statistics.values()))
    counted = [summary.cells[variant] for variant in summary.aggregates]
    without = {game for games in counted for game in games.keys() - _normalised(games).keys()}
    if without:
        yield from ("", f"Without what has no human score: {', '.join(sorted(without))}.")


def _improvement_lines(summary: Summary) -> Iterator[str]:
    yield markdown_row("a run of", "beats one of", "with probability")
    yield markdown_row("---", "---", "---")
    for (first, second), value in summary.improvement.items():
        yield markdown_row(f"`{first}`", f"`{second}`", _interval(value))


def _interval(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"


def markdown_row(*cells: str) -> str:
    """Return a row of a table in Markdown."""
    return f"| {' | '.join(cells)} |"
