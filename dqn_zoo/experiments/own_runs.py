"""The table of the runs in a log folder, beside the scores of others."""

from collections.abc import Callable, Sequence
from pathlib import Path

from dqn_zoo.errors import UserError
from dqn_zoo.experiments.references import Reference
from dqn_zoo.experiments.summary import markdown_row
from dqn_zoo.play.measurements import Measured, read_measured
from dqn_zoo.runs.finding import check_log_folder, list_runs
from dqn_zoo.runs.manifest import read_manifest
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.games import human_normalized_score
from dqn_zoo.settings.protocols import published_scores, rules_in_words
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.system import shell

_HEADS = ("game", "run", "steps", "games", "score", "human = 1", "random", "human")


def own_runs_as_markdown(
    log_folder: Path, references: Sequence[Reference], warn: Callable[[str], None]
) -> str:
    """Return a table with a row for every run that was trained here and played, by games and runs.

    Its score is the one that the run is known by: that of its results.json. A published one that
    was played by other rules is marked.

    Raises:
        UserError: there is no run, or none was played.
    """
    published = [(each, agent) for each in references for agent in each.agents]
    heads = (*_HEADS, *(f"{each.name} {agent}" for each, agent in published), "protocol")
    rows = []
    check_log_folder(log_folder)
    for run in list_runs(log_folder):
        if not run.results_file.is_file():
            continue
        try:
            if "origin" in read_manifest(run):
                continue
            rows.append(_cells(run, read_measured(run.results_file), references))
        except UserError as error:
            warn(f"{run.path} is left out: {error}")
    if not rows:
        plays = shell.command("dqn-enjoy", "-f", log_folder, "--episodes", "100", "--no-render")
        raise UserError(f"no run in {log_folder} was played yet: {plays} plays the latest")
    lines = [markdown_row(*heads), markdown_row(*["---"] * len(heads))]
    lines += [markdown_row(*cells) for cells in sorted(rows, key=_place)]
    if any(cell.endswith("*") for cells in rows for cell in cells):
        lines += ["", "\\* played by other rules than the run in this row: they do not compare"]
    for reference in references:
        lines += ["", reference.footnote]
    return "\n".join(lines) + "\n"


def _place(cells: tuple[str, ...]) -> tuple[str, int, str]:
    """Sort by games, and Pong_2 before Pong_10."""
    game, run, *_ = cells
    return game, len(run), run


def _cells(run: Run, sample: Measured, references: Sequence[Reference]) -> tuple[str, ...]:
    game, weights = load_config(run.config_file).env, sample.content.get("weights") or {}
    known, steps = published_scores(game, sample.rules), weights.get("steps")
    human = None if known is None else human_normalized_score(game, sample.mean)
    rules = rules_in_words(sample.rules)
    return (
        game,
        str(run.path),
        "-" if steps is None else f"{steps:,}",
        str(sample.num_games),
        f"{sample.mean:,.1f} +/- {sample.std:,.1f}",
        "-" if human is None else f"{human:.2f}",
        *(["-"] * 2 if known is None else [f"{known.random:,.1f}", f"{known.human:,.1f}"]),
        *(_published(each, agent, game, rules) for each in references for agent in each.agents),
        f"{rules}, epsilon {sample.rules.eval_epsilon:g}",
    )


def _published(reference: Reference, agent: str, game: str, rules: str) -> str:
    """Return a published score, marked where it was played by other rules than the run's."""
    text = reference.text(agent, game)
    return text if text == "-" or rules == reference.protocol else f"{text} *"
