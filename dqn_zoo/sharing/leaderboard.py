"""A leaderboard of a game: everybody's cards on the Hub and one's own runs, by mean minus std.

The Hugging Face course ranked its students' agents so; its leaderboard is no longer operated. Cards
are written by anybody, so of each only what has the expected form is taken, and none is checked.
"""

import csv
import math
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from importlib import resources
from io import StringIO
from pathlib import Path

from dqn_zoo.errors import UserError
from dqn_zoo.play.by_hand import FOLDER, HumanScores, folder_of, human_scores
from dqn_zoo.play.measurements import FEWEST_GAMES, Measured, has_any, is_current, measured
from dqn_zoo.play.results_file import LARGEST_SCORE
from dqn_zoo.play.statistics import summarize
from dqn_zoo.runs.html_page import with_data
from dqn_zoo.runs.manifest import read_manifest
from dqn_zoo.runs.run import Run
from dqn_zoo.settings.games import COURSE_GAME, COURSE_PASS_MARK
from dqn_zoo.settings.protocols import PROTOCOLS, rules_in_words
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.sharing import hub
from dqn_zoo.sharing.card import CardScore, env_tags, read_score
from dqn_zoo.sharing.hub_answers import Model
from dqn_zoo.system.documents import DocumentError

SB3, CLEANRL, OURS = "stable-baselines3", "cleanrl", "dqn-zoo"

_LIBRARIES = {
    "sb3": SB3,
    "stablebaselines3": SB3,
    "rl-zoo": SB3,
    "rl-zoo3": SB3,
    "rl-baselines3-zoo": SB3,
    "clean-rl": CLEANRL,
    "dqnzoo": OURS,
}

UNKNOWN = "unknown"
"""What a card does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One agent, or a person; what is not given is as of a run on this computer.

    Attributes:
        rank: from 1; agents with equal results share one; None: of too few games for a rank.
        name: repository, or folder of a run or of the games of a person.
        owner: of the repository; `you` for a run.
        library: that trained it; `human` where a person played.
        mean: of the raw scores.
        std: of the population.
        result: mean minus std.
        num_games: None where the card does not say.
        protocol: rules of play in words, with the epsilon.
        is_same_protocol: whether it is the protocol that the leaderboard compares with.
        updated: date, as 2026-11-26; empty where unknown.
        url: page of the repository; empty for a run.
        is_own: a run on this computer, or a person at it.
    """

    rank: int | None = None
    name: str
    owner: str = "you"
    library: str
    mean: float
    std: float
    result: float
    num_games: int | None
    protocol: str
    is_same_protocol: bool
    updated: str
    url: str = ""
    is_own: bool = True

    @property
    def has_few_games(self) -> bool:
        """Whether its mean is known to be of fewer games than one is compared by."""
        return self.num_games is not None and self.num_games < FEWEST_GAMES


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaderboard:
    """The agents of a game, the best first.

    Attributes:
        game: name of the game.
        protocol: name of the protocol that rows are compared with.
        pass_mark: result that passes the course, in its game only.
        rows: ranked.
        num_cards: cards that were read.
        num_unreadable: those of them without a score that can be read.
        made: when, in UTC, to the minute.
        is_offline: the Hub was not asked.
    """

    game: str
    protocol: str
    pass_mark: float | None
    rows: tuple[Row, ...]
    num_cards: int
    num_unreadable: int
    made: str
    is_offline: bool


def make_leaderboard(
    game: str,
    protocol: str,
    *,
    log_folder: Path,
    offline: bool = False,
    library: str | None = None,
    on_card: Callable[[int], None] = lambda count: None,
    warn: Callable[[str], None] = print,
) -> Leaderboard:
    """Read the cards of a game and one's own runs, and rank them.

    `library`, a name in use such as `sb3`, filters the cards, not one's own runs; `on_card` is
    called with the number of cards read so far.

    Raises:
        hub.UnreachableError: the Hub does not answer.
        UserError: the Hub refuses.
    """
    rows = list(own_rows(game, protocol, log_folder, warn))
    rows += human_rows(game, protocol, log_folder, warn)
    num_cards = num_unreadable = 0
    wanted = None if library is None else library_name(library)
    libraries = set()
    if not offline:
        hub.check_reachable()
    for model in () if offline else _models(game):
        num_cards += 1
        on_card(num_cards)
        row = None if model is None else _card_row(model, protocol)
        if row is None:
            num_unreadable += 1
            continue
        libraries.add(row.library)
        if wanted in (None, library_name(row.library)):
            rows.append(row)
    if wanted is not None and wanted not in map(library_name, libraries) and not offline:
        found = ", ".join(sorted(libraries)) or "none"
        warn(f"no card of {game} is by the library {library}; there are cards by: {found}")
    return Leaderboard(
        game=game,
        protocol=protocol,
        pass_mark=COURSE_PASS_MARK if game == COURSE_GAME else None,
        rows=tuple(ranked(rows)),
        num_cards=num_cards,
        num_unreadable=num_unreadable,
        made=f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        is_offline=offline,
    )


def library_name(name: str) -> str:
    """Return the one name of a library that cards and people call by several."""
    folded = re.sub(r"[ _]", "-", name.strip().lower())
    return _LIBRARIES.get(folded, folded)


def own_rows(
    game: str, protocol: str, log_folder: Path, warn: Callable[[str], None]
) -> Iterator[Row]:
    """Yield a row for every run of a game that was trained here and played.

    `warn` takes a line about one that cannot be read.
    """
    for path in sorted(log_folder.glob(f"*/{game}_*")):
        run, reasons = Run(path), list[str]()
        if not re.fullmatch(rf"{re.escape(game)}_[1-9][0-9]*", path.name) or not has_any(run):
            continue
        try:
            if "origin" in read_manifest(run):
                continue
            samples = measured(run, reasons.append)
            if samples:
                yield _own_row(run, game, protocol, samples)
        except UserError as error:
            samples, reasons = [], [str(error)]
        if not samples:
            warn(f"{run.path} is left out: {' '.join(reasons[0].split())[:200]}")


def human_rows(
    game: str, protocol: str, log_folder: Path, warn: Callable[[str], None]
) -> list[Row]:
    """Return a row for all that a person played of a game by the same rules.

    `warn` takes a line about a game that cannot be read.
    """
    found = human_scores(folder_of(log_folder, game), lambda why: warn(f"{why}: it is left out"))
    return [_human_row(scores, protocol) for scores in found if scores.scores]


def ranked(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield rows with their ranks, the best result first; the name decides a tie's order.

    Those that are known to be of fewer games than a mean is compared by come last, without one.
    """
    ordered = sorted(rows, key=lambda row: (row.has_few_games, -row.result, row.name))
    rank = 0
    for place, row in enumerate(ordered, start=1):
        if place == 1 or row.result < ordered[place - 2].result:
            rank = place
        yield replace(row, rank=None if row.has_few_games else rank)


def as_csv(board: Leaderboard) -> str:
    """Return all rows as a CSV file, with the attributes of `Row` as its header."""
    text = StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in board.rows)
    return text.getvalue()


def as_html(board: Leaderboard) -> str:
    """Return all rows as one page that sorts and filters, and that loads nothing from anywhere."""
    page = resources.files("dqn_zoo.sharing").joinpath("leaderboard.html")
    return with_data(page.read_text(encoding="utf-8"), asdict(board))


def _models(game: str) -> Iterator[Model | None]:
    """Yield every public repository once that carries one of the ids of a game.

    One that cannot be understood is None.
    """
    seen = set()
    for tag in env_tags(game):
        for model in hub.list_models(tag):
            if model is None:
                yield None
            elif not model.private and model.id not in seen:
                seen.add(model.id)
                yield model


def _card_row(model: Model, protocol: str) -> Row | None:
    """Return the row of a card; None where it has no score that can be read."""
    try:
        score = read_score(model.card or {})
    except OverflowError:  # a whole number on the card that no float holds
        return None
    if score is None or not _is_plausible(score.mean, score.std):
        return None
    library = _library(score, model)
    rules, is_same = _rules_of_card(score, library, protocol)
    return Row(
        name=model.id,
        owner=model.id.partition("/")[0],
        library=library,
        mean=score.mean,
        std=score.std,
        result=score.mean_minus_std,
        num_games=_count_of_games(score.num_games),
        protocol=rules,
        is_same_protocol=is_same,
        updated=(model.updated or "")[:10],
        url=f"https://huggingface.co/{model.id}",
        is_own=False,
    )


def _own_row(run: Run, game: str, protocol: str, samples: list[Measured]) -> Row:
    """Return the row of a run: its largest sample by the protocol, of weights that it has."""
    if game not in (samples[0].content.get("env"), load_config(run.config_file).env):
        raise DocumentError(f"{samples[0].file}: expected games of {game}")

    def compared(sample: Measured) -> tuple[str, bool]:
        return _with_epsilon(rules_in_words(sample.rules), sample.rules.eval_epsilon, protocol)

    best = max(
        samples, key=lambda sample: (is_current(run, sample), compared(sample)[1], sample.num_games)
    )
    words, is_same = compared(best)
    return Row(
        name=str(run.path),
        library=OURS,
        mean=best.mean,
        std=best.std,
        result=best.mean - best.std,
        num_games=best.num_games,
        protocol=words,
        is_same_protocol=is_same,
        updated=best.content.get("eval_datetime", "")[:10],
    )


def _human_row(played: HumanScores, protocol: str) -> Row:
    summary, rules = summarize(played.scores), rules_in_words(played.rules)
    words = (
        f"{rules} by hand, sticky actions {played.rules.action_repeat_probability:g}, "
        f"no-ops up to {played.rules.noop_max}"
    )
    if played.given_up:
        words += f"; {played.given_up} given up"
    if played.pauses:
        words += f"; paused {played.pauses} times" if played.pauses > 1 else "; paused once"
    return Row(
        name=str(played.folder),
        library=FOLDER,
        mean=summary.mean,
        std=summary.std,
        result=summary.mean_minus_std,
        num_games=summary.num_games,
        protocol=words,
        is_same_protocol=rules == protocol,
        updated=played.latest,
    )


def _is_plausible(mean: float, std: float) -> bool:
    return abs(mean) <= LARGEST_SCORE and 0.0 <= std <= LARGEST_SCORE


def _count_of_games(number: object) -> int | None:
    if not isinstance(number, int) or isinstance(number, bool):
        return None
    return number if 0 < number < 1_000_000 else None


def _library(score: CardScore, model: Model) -> str:
    """Return the library of a card: what it says, else what the tags or the Hub say."""
    tags = model.tags or []
    named = [name for name in (score.library, model.library_name, *tags) if isinstance(name, str)]
    for name in named:
        if library_name(name) in (SB3, CLEANRL, OURS):
            return library_name(name)
    other = score.library or ""
    return other if re.fullmatch(r"\w[\w .+-]{0,39}", other, re.ASCII) else UNKNOWN


def _rules_of_card(score: CardScore, library: str, protocol: str) -> tuple[str, bool]:
    """Return the rules of a card's score in words, and whether they are those of the protocol.

    Only our cards say their rules. RL-Zoo plays its agents by Stable-Baselines3's.
    """
    if library == SB3:
        return "sb3", protocol == "sb3"
    if library == CLEANRL:
        return "CleanRL's own", False
    rules = score.protocol or ""
    form = rf"({'|'.join(PROTOCOLS)})( with [\w ,.]{{1,80}})?"
    if library != OURS or not re.fullmatch(form, rules, re.ASCII):
        return UNKNOWN, False
    return _with_epsilon(rules, score.epsilon, protocol)


def _with_epsilon(rules: str, epsilon: float | None, protocol: str) -> tuple[str, bool]:
    """Return rules and epsilon in words, and whether both are those of the protocol."""
    if epsilon is None or not math.isfinite(epsilon):
        return f"{rules}, epsilon {UNKNOWN}", False
    is_same = rules == protocol and epsilon == PROTOCOLS[protocol].eval_epsilon
    return f"{rules}, epsilon {epsilon:g}", is_same
