"""dqn-import: make a run folder from an agent of Stable-Baselines3."""

import argparse
import re
import sys
from pathlib import Path

from dqn_zoo.cli.arguments import Parser, command, parsed_by
from dqn_zoo.cli.output import work_is_kept
from dqn_zoo.cli.play_session import add_log_folder
from dqn_zoo.errors import UserError
from dqn_zoo.system import shell

_EPILOG = """\
Reads the weights and the plain settings of a zip of Stable-Baselines3's DQN (CnnPolicy);
pickles in it are never opened, so that no code in the zip runs. The agent plays by the protocol
sb3. See docs/stable-baselines3.md.
"""

_REPO = re.compile(r"(hf|https?)://.+|[\w.-]+/[\w.-]+(@.+)?")


def build_parser() -> Parser:
    """Return the parser of dqn-import."""
    parser = Parser("dqn-import", "Make a run folder from an agent of Stable-Baselines3.", _EPILOG)
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="a zip that DQN.save wrote, the folder of a training of RL-Zoo (its last model), or a "
        "repository of the Hub that holds one: USER/REPO, hf://USER/REPO or its address",
    )
    parser.add_argument(
        "--env",
        metavar="GAME",
        help="the game (default: taken from the name of the file, its folder or the repository)",
    )
    parser.add_argument(
        "--revision",
        metavar="REV",
        help="branch, tag or commit of the repository (default: the newest commit)",
    )
    add_log_folder(parser.add_argument_group("where"))
    return parser


@command
@parsed_by(build_parser)
def main(arguments: argparse.Namespace) -> None:
    """Run dqn-import and return its exit code: 0, or 2 for a user's mistake."""
    file = Path(arguments.model)
    is_repo = not file.exists() and _REPO.fullmatch(arguments.model)
    env, origin = arguments.env, None
    if is_repo and file.suffix != ".zip":
        from dqn_zoo.sharing.pull import fetch_sb3

        revision = "" if arguments.revision is None else f"@{arguments.revision}"
        file, game, origin = fetch_sb3(arguments.model.rstrip("/") + revision)
        env = env or game
    elif arguments.revision is not None:
        raise UserError(f"--revision belongs to USER/REPO, and {file} is a file: leave it out")

    from dqn_zoo.exchange.sb3_import import RefusedZipError, import_sb3, zip_of_training

    if file.is_dir():
        file = zip_of_training(file)
    try:
        run = import_sb3(
            file, log_folder=arguments.folder, env=env, origin=origin, command=sys.argv
        )
    except RefusedZipError:
        if origin is not None:
            from dqn_zoo.sharing import hub

            hub.forget(origin["commit"])
        raise
    work_is_kept()
    print("next: " + shell.command("dqn-enjoy", "--run", run.path))


if __name__ == "__main__":
    sys.exit(main())
