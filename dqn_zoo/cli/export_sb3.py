"""dqn-export-sb3: write an agent that Stable-Baselines3 loads and RL-Zoo plays."""

import argparse
import sys
from pathlib import Path

from dqn_zoo.cli.arguments import Parser, command, parsed_by
from dqn_zoo.cli.output import work_is_kept
from dqn_zoo.cli.play_session import add_asked_agent, find_asked_agent
from dqn_zoo.system import shell

_EPILOG = """\
Writes FOLDER/dqn/GAMENoFrameskip-v4_N/ with a zip for DQN.load and the YAML files of RL-Zoo. What
SB3's DQN has no counterpart for (dueling, distributions, other networks) is refused.
See docs/stable-baselines3.md.
"""


def build_parser() -> Parser:
    """Return the parser of dqn-export-sb3."""
    parser = Parser(
        "dqn-export-sb3", "Write an agent that Stable-Baselines3 loads and RL-Zoo plays.", _EPILOG
    )
    add_asked_agent(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=Path("sb3"),
        metavar="FOLDER",
        help="where to write; RL-Zoo's -f (default: sb3)",
    )
    return parser


@command
@parsed_by(build_parser)
def main(arguments: argparse.Namespace) -> None:
    """Run dqn-export-sb3 and return its exit code: 0, or 2 for a user's mistake."""
    run, config, weights = find_asked_agent(arguments)

    from dqn_zoo.exchange.sb3_export import export_sb3

    file = export_sb3(weights, config, folder=arguments.output)
    env_id, folder = file.stem, arguments.output
    work_is_kept()
    print(f"exported the {weights.name} of {run.path} to {file}")
    print(f"next: model = stable_baselines3.DQN.load({str(file)!r})")
    enjoy = f"python -m rl_zoo3.enjoy --algo dqn --env {env_id} -f {shell.quoted(folder)}"
    print(f"  or: {enjoy} --no-render -n 5000")


if __name__ == "__main__":
    sys.exit(main())
