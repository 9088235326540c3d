"""dqn-verify: play the games of a card again, with fresh seeds, and say whether its score holds.

A person's games are played again from their actions.
"""

import argparse
import secrets
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dqn_zoo.cli.arguments import Parser, add_number, add_seed, command, parsed_by
from dqn_zoo.cli.play_session import (
    MOST_EPISODES,
    add_log_folder,
    add_machine,
    add_progress,
    make_session,
    play_games,
    print_warning,
    refuse_beside,
)
from dqn_zoo.errors import UserError

if TYPE_CHECKING:
    from dqn_zoo.runs.run import Run

EXIT_DOES_NOT_HOLD = 1

_EPILOG = """\
The card's mean is as noisy as the new one, so both go into the comparison: the score holds where
Welch's 95 % interval of the difference contains 0, with ten games or more on both sides. Exit code
0: it holds; 1: it does not, or the games are too few to say; 2: a mistake. See docs/sharing.md.
"""


def build_parser() -> Parser:
    """Return the parser of dqn-verify."""
    parser = Parser(
        "dqn-verify",
        "Play the games of a card again, with fresh seeds: does its score hold?",
        _EPILOG,
    )
    parser.add_argument(
        "agent",
        metavar="USER/REPO|RUN",
        help="an agent of the Hub (USER/REPO@REVISION), a run with a results.json, or games of "
        "your own from dqn-watch (logs/human/GAME), which are played again from their actions",
    )
    add_log_folder(parser.add_argument_group("where"))
    games = parser.add_argument_group("games")
    add_number(
        games,
        "--episodes",
        least=2,
        most=MOST_EPISODES,
        help="full games to play (default: as many as the card, at least 10)",
    )
    add_seed(games, help="seed of the games, not the card's (default: drawn and printed)")
    machine = parser.add_argument_group("machine")
    add_machine(machine)
    add_progress(machine)
    # What makes a session besides: the claim decides it.
    parser.set_defaults(weights=None, protocol=None, epsilon=None)
    return parser


@command
@parsed_by(build_parser)
def main(arguments: argparse.Namespace) -> int:
    """Run dqn-verify and return its exit code."""
    warnings.showwarning = print_warning
    if (files := _by_hand(Path(arguments.agent))) is not None:
        refuse_beside(arguments, arguments.agent, {"episodes", "seed"}, "holds games of their own")
        if not files:
            raise UserError(
                f"{arguments.agent} holds no games: a duel of dqn-watch keeps yours there"
            )
        return _verify_by_hand(files)
    from dqn_zoo.settings.recipes import load_config
    from dqn_zoo.sharing.verify import judge, read_claim, verdict_lines

    run = _find(arguments.agent, arguments.folder)
    claim = read_claim(run, load_config(run.config_file))
    arguments.seed = _fresh_seed(arguments.seed, claim.seed)

    from dqn_zoo.play.agent import build_agent
    from dqn_zoo.play.measurements import FEWEST_GAMES
    from dqn_zoo.play.results import headline
    from dqn_zoo.play.session import weights_of_file
    from dqn_zoo.play.statistics import summarize

    session = make_session(
        arguments,
        run,
        claim.config,
        num_games=arguments.episodes or max(FEWEST_GAMES, claim.sample.num_games),
        weights=weights_of_file(run, claim.weights),
    )
    agent = build_agent(claim.weights, session.config, device=session.device)
    print(headline(session), flush=True)
    games, interruption = play_games(session, agent.q_values, has_progress_bar=arguments.progress)
    if interruption is not None:
        print("interrupted: no verdict, because the games cut short would bias it")
        raise interruption
    played = summarize([game.score for game in games])
    verdict = judge(claim, played)
    print(*verdict_lines(claim, played, verdict), sep="\n")
    return 0 if verdict.holds else EXIT_DOES_NOT_HOLD


def _by_hand(path: Path) -> list[Path] | None:
    """Return the files of games that a person played, where they are to be verified."""
    from dqn_zoo.play.by_hand import FOLDER, files_of

    if path.absolute().parent.name == FOLDER and path.is_dir():
        return files_of(path)
    return [path] if path.suffix == ".json" and path.is_file() else None


def _verify_by_hand(files: Sequence[Path]) -> int:
    """Play games of a person again, and those that an agent played beside them."""
    verdicts, num_damaged = list[bool](), 0
    for file in files:
        try:
            verdicts += _verdicts_by_hand(file)
        except UserError as error:  # the others may be sound
            if len(files) == 1:
                raise
            print_warning(str(error))
            num_damaged += 1
    if num_damaged:
        raise UserError(f"{num_damaged} of {len(files)} games cannot be played again: see above")
    if not verdicts:
        print("no full game: there is no score to hold")
    return 0 if verdicts and all(verdicts) else EXIT_DOES_NOT_HOLD


def _verdicts_by_hand(file: Path) -> Iterator[bool]:
    from dqn_zoo.play.by_hand import read_game, rules_of
    from dqn_zoo.settings.protocols import rules_in_words
    from dqn_zoo.sharing.verify import holds_by_hand

    game = read_game(file)
    rules = rules_in_words(rules_of(game, where=str(file)))
    print(f"{file}: {game['env']}, protocol {rules}, seed {game['seed']}")
    agent = game["agent"]
    for who, whose in (("you", game["played"]), (agent["name"], agent["played"])):
        if whose is None:
            print(f"  {who}: no full game")
            continue
        is_true = holds_by_hand(game, whose, where=str(file))
        verdict = "holds, its actions lead there" if is_true else "does not hold"
        score = f"{whose['score']:,.0f} in {whose['length_steps']:,} steps"
        print(f"  {who}: {score}; {verdict}", flush=True)
        yield is_true


def _find(agent: str, log_folder: Path) -> "Run":
    """Return a run: the folder or name of one that is here, else an agent of the Hub.

    What begins with the name of a recipe here is none of the Hub's: `dqn/Pong_7`, mistyped.
    """
    from dqn_zoo.runs.finding import find_run
    from dqn_zoo.sharing.pull import pull

    parts = Path(agent).parts
    is_here = Path(agent).exists() or len(parts) < 2 or (log_folder / parts[0]).is_dir()
    if is_here and not agent.startswith("hf://"):
        return find_run(log_folder, run=agent)
    return pull(agent, log_folder=log_folder, command=sys.argv)


def _fresh_seed(asked: int | None, claimed: int | None) -> int:
    """Return the seed of the games, which must not be those of the claim."""
    if asked is not None and asked == claimed:
        raise UserError(
            f"--seed {asked} plays the very games of the card; choose another, or leave it out"
        )
    seed = asked
    while seed is None or seed == claimed:
        seed = secrets.randbelow(2**31)
    return seed


if __name__ == "__main__":
    sys.exit(main())
