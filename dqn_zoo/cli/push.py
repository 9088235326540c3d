"""dqn-push: publish a trained agent on the Hugging Face Hub, with its score, a film and a card."""

import argparse
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dqn_zoo.cli.arguments import Parser, add_number, command, parsed_by
from dqn_zoo.cli.output import work_is_kept
from dqn_zoo.cli.play_session import (
    DEFAULT_EPISODES,
    MOST_EPISODES,
    add_machine,
    add_progress,
    add_rules,
    add_weights,
    add_whom,
    find_asked_run,
    make_session,
    play_games,
    print_warning,
    refuse_beside,
)
from dqn_zoo.cli.refused_flags import REFUSED_PUSH, add_refused_flags
from dqn_zoo.cli.repository import listing, target
from dqn_zoo.errors import UserError
from dqn_zoo.system import shell

if TYPE_CHECKING:
    from dqn_zoo.play.agent import Agent
    from dqn_zoo.play.session import Session
    from dqn_zoo.settings.config import Config
    from dqn_zoo.sharing.hub import Remote
    from dqn_zoo.sharing.push import Staging

_EPILOG = """\
Plays the games of the card, films one more, and uploads a folder with exactly the files of an agent
in one commit. The token comes from HF_TOKEN or `hf auth login`; there is no flag for it. The same
command again completes a push that was interrupted. See docs/sharing.md.
"""


def build_parser() -> Parser:
    """Return the parser of dqn-push."""
    parser = Parser("dqn-push", "Publish a trained agent on the Hugging Face Hub.", _EPILOG)
    whom = parser.add_argument_group("which agent to publish")
    add_whom(whom)
    whom.add_argument(
        "--hub", metavar="USER/REPO", help="with --space: an agent of the Hub; USER/REPO@REVISION"
    )
    add_weights(parser.add_argument_group("weights"))
    _add_repository(parser.add_argument_group("where"))
    games = parser.add_argument_group("games of the card")
    add_number(
        games,
        "--episodes",
        least=2,
        most=MOST_EPISODES,
        default=DEFAULT_EPISODES,
        help="full games to play, unless as many were played of these weights before "
        f"(default: {DEFAULT_EPISODES})",
    )
    games.add_argument(
        "--fresh", action="store_true", help="play again what was played of these weights before"
    )
    add_rules(games)
    _add_film(parser.add_argument_group("film"))
    machine = parser.add_argument_group("machine")
    add_machine(machine)
    add_progress(machine)
    add_refused_flags(parser, REFUSED_PUSH)
    return parser


@command
@parsed_by(build_parser)
def main(arguments: argparse.Namespace) -> int:
    """Run dqn-push and return its exit code: 0, 2 for a user's mistake, 130 for Ctrl-C."""
    warnings.showwarning = print_warning
    if arguments.space:
        from dqn_zoo.cli.space import push_space

        return push_space(arguments)
    if arguments.hub is not None:
        raise UserError("--hub goes with --space: what is on the Hub already needs no push")
    if arguments.no_render:
        refuse_beside(arguments, "--no-render", {"record_seconds"}, because="makes no film")
    from dqn_zoo.sharing.push import check_publishable, is_of_an_agent, open_staging

    run, config = find_asked_run(arguments)
    check_publishable(run, config)
    repo_id, remote, stale = target(arguments, config, "", is_of_an_agent)

    from dqn_zoo.play.agent import build_agent
    from dqn_zoo.play.session import check_unchanged

    session = make_session(arguments, run, config, num_games=arguments.episodes)
    agent = build_agent(session.weights.file, session.config, device=session.device)
    check_unchanged(session.weights)
    staging = open_staging(run, repo_id)
    with staging.held():
        return _publish(arguments, session, staging, agent, config, remote=remote, stale=stale)


def _add_repository(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "-orga",
        "--organization",
        metavar="OWNER",
        help="user or organisation (default: the token's own user)",
    )
    group.add_argument(
        "-name",
        "--repo-name",
        metavar="NAME",
        help="name of the repository (default: ALGO-GAME, such as dqn-SpaceInvaders)",
    )
    group.add_argument(
        "--space",
        action="store_true",
        help="make a Space, a page on which anybody watches the agent play; plays no games",
    )
    group.add_argument("--private", action="store_true", help="a new repository is private")
    group.add_argument(
        "--revision", metavar="BRANCH", help="branch, created if missing (default: main)"
    )
    group.add_argument(
        "-m",
        "--commit-message",
        metavar="TEXT",
        help="message of the commit (default: algorithm, game and score)",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="make and check everything, upload nothing; needs no network and no token",
    )


def _add_film(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--no-render", action="store_true", help="no film")
    add_number(
        group,
        "--record-seconds",
        least=1,
        default=120,
        help="the film ends after N seconds (default: 120)",
    )


def _publish(
    arguments: argparse.Namespace,
    session: "Session",
    staging: "Staging",
    agent: "Agent",
    config: "Config",
    *,
    remote: "Remote | None",
    stale: Sequence[str],
) -> int:
    """Play, film, make the files and upload them; nobody else writes the staging folder."""
    from dqn_zoo.play.results import summary_lines
    from dqn_zoo.play.statistics import summarize
    from dqn_zoo.sharing.push import complete, doubts

    repo_id = staging.repo_id
    print(_preview(arguments, repo_id, remote), flush=True)
    content = _results(arguments, session, staging, agent)
    summary = summarize([game["score"] for game in content["games"]])
    print(*summary_lines(session, summary), sep="\n")
    is_named = bool({"run", "exp_id"} & arguments.given)
    for doubt in doubts(session.run, config, summary.mean, is_named=is_named):
        print_warning(doubt)
    _film(arguments, session, staging, agent)
    files = complete(staging, session, content, config=config, num_actions=agent.num_actions)
    print(*listing(files), sep="\n")
    if arguments.dry_run:
        print(f"dry run: everything is in {staging.path}; nothing was uploaded")
        return 0
    score = f"{summary.mean:.2f} +/- {summary.std:.2f}"
    message = arguments.commit_message or f"{config.algo} on {config.env}: {score}"
    _upload(arguments, repo_id, files, message, remote=remote, stale=stale)
    return 0


def _preview(arguments: argparse.Namespace, repo_id: str, remote: "Remote | None") -> str:
    from dqn_zoo.sharing import hub

    if arguments.dry_run:
        return f"dry run of a push to {repo_id}"
    private = arguments.private if remote is None else remote.private
    state = "new" if remote is None else f"now at commit {remote.commit[:8]}"
    branch = f", branch {arguments.revision}" if arguments.revision else ""
    return f"to {hub.page(repo_id)} ({state}, {'private' if private else 'public'}{branch})"


def _results(
    arguments: argparse.Namespace, session: "Session", staging: "Staging", agent: "Agent"
) -> dict[str, Any]:
    """Return results.json: the most games that were played of these weights, or those of now."""
    from dqn_zoo.play.measurements import measured, record
    from dqn_zoo.play.results import headline
    from dqn_zoo.settings.recipes import load_config
    from dqn_zoo.sharing.push import measured_results, played_results, stage_results

    seed = arguments.seed if "seed" in arguments.given else None
    found = None
    if not arguments.fresh:
        found = measured_results(session, measured(session.run), seed=seed)
    if found is not None:
        played = f"{found.num_games} games of {session.weights.name}, {found.file}"
        print(f"already played: {played} (--fresh plays again)")
        content = dict(found.content)
    else:
        staging.film.unlink(missing_ok=True)
        print(headline(session), flush=True)
        games, interruption = play_games(
            session, agent.q_values, has_progress_bar=arguments.progress
        )
        if interruption is not None:
            print("interrupted: nothing was uploaded")
            raise interruption
        content = played_results(session, games)
    stage_results(staging, content)
    record(session.run, load_config(session.run.config_file), content)
    return content


def _film(
    arguments: argparse.Namespace, session: "Session", staging: "Staging", agent: "Agent"
) -> None:
    """Film one game; a film that cannot be made stops the push instead of missing silently."""
    from dqn_zoo.play.film import Film

    if arguments.no_render:
        staging.film.unlink(missing_ok=True)
        print("no film: --no-render")
        return
    if staging.film.exists() and not _plays(staging.film):
        staging.film.unlink()
    if staging.film.exists():
        print(f"already filmed: {staging.film} (--fresh plays and films again)")
        return
    filmed = replace(session, num_games=1, num_envs=1, is_filmed=True)
    remedy = "make room, or push without a film: --no-render"
    film = Film(staging.film, max_seconds=arguments.record_seconds, remedy=remedy)
    print("filming one more game", flush=True)
    try:
        _, interruption = play_games(
            filmed, agent.q_values, film=film, has_progress_bar=arguments.progress
        )
    finally:
        has_film = film.close()
    if interruption is not None:
        staging.film.unlink(missing_ok=True)
        raise interruption
    if not has_film:
        raise UserError("no film could be made; push without one: --no-render")


def _plays(film: Path) -> bool:
    """Return whether a film that an earlier push left is whole; if not, say so."""
    from dqn_zoo.play.film import check_film

    try:
        check_film(film)
    except UserError as error:
        print(f"filming again: {error}")
        return False
    return True


def _upload(
    arguments: argparse.Namespace,
    repo_id: str,
    files: Mapping[str, Path],
    message: str,
    *,
    remote: "Remote | None",
    stale: Sequence[str],
) -> None:
    from dqn_zoo.sharing import hub

    uploaded = hub.upload(
        repo_id,
        files,
        message=message,
        private=arguments.private,
        revision=arguments.revision,
        before=remote,
        stale=[name for name in stale if name not in files],
    )
    work_is_kept()
    if uploaded.is_new:
        print(f"pushed: {uploaded.url} at commit {uploaded.commit}")
    else:
        print(f"nothing is new: {uploaded.url} holds all of it, at commit {uploaded.commit}")
    at = f"@{arguments.revision}" if arguments.revision else ""
    print("next: " + shell.command("dqn-verify", repo_id + at))


if __name__ == "__main__":
    sys.exit(main())
