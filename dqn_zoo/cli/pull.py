"""dqn-pull: make a run folder from an agent on the Hugging Face Hub."""

import argparse
import sys

from dqn_zoo.cli.arguments import Parser, command, parsed_by
from dqn_zoo.cli.output import work_is_kept
from dqn_zoo.cli.play_session import add_log_folder
from dqn_zoo.system import shell

_EPILOG = """\
Reads only safetensors and JSON, at one commit, which is printed. Anything that is not as it was
pushed is refused. Without a connection, the cached copy is used. See docs/sharing.md.
"""


def build_parser() -> Parser:
    """Return the parser of dqn-pull."""
    parser = Parser("dqn-pull", "Make a run folder from an agent on the Hugging Face Hub.", _EPILOG)
    parser.add_argument("repo", metavar="USER/REPO", help="the agent; USER/REPO@REVISION")
    add_log_folder(parser.add_argument_group("where"))
    return parser


@command
@parsed_by(build_parser)
def main(arguments: argparse.Namespace) -> None:
    """Run dqn-pull and return its exit code: 0, or 2 for a user's mistake."""
    from dqn_zoo.sharing.pull import pull

    run = pull(arguments.repo, log_folder=arguments.folder, command=sys.argv)
    work_is_kept()
    print("next: " + shell.command("dqn-enjoy", "--run", run.path))


if __name__ == "__main__":
    sys.exit(main())
