"""dqn-export-onnx: write an agent as an ONNX model, uint8 frames in, Q-values out."""

import argparse
import sys
from pathlib import Path

from dqn_zoo.cli.arguments import Parser, command, parsed_by
from dqn_zoo.cli.output import work_is_kept
from dqn_zoo.cli.play_session import add_asked_agent, find_asked_agent

_EPILOG = """\
The model takes uint8 [batch, stack, 84, 84] and gives float32 [batch, actions]; its metadata name
game, actions, observations, protocol and version. Before it is written, onnxruntime and the agent
value 1,000 observations of games; no value may differ by more than 1e-4 of the largest (or of 1).
See docs/sharing.md.
"""


def build_parser() -> Parser:
    """Return the parser of dqn-export-onnx."""
    parser = Parser(
        "dqn-export-onnx",
        "Write an agent as an ONNX model, uint8 frames in, Q-values out.",
        _EPILOG,
    )
    add_asked_agent(parser)
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help="the file to write (default: ALGO-GAME_N.onnx)",
    )
    return parser


@command
@parsed_by(build_parser)
def main(arguments: argparse.Namespace) -> None:
    """Run dqn-export-onnx and return its exit code: 0, or 2 for a user's mistake."""
    run, config, weights = find_asked_agent(arguments)

    from dqn_zoo.exchange.onnx_export import export_onnx

    file = arguments.output or Path(f"{run.path.resolve().parent.name}-{run.name}.onnx")
    compared = export_onnx(weights, config, file)
    work_is_kept()
    print(f"exported the {weights.name} of {run.path} to {file}")
    print(
        f"checked: {compared.observations:,} observations, largest difference "
        f"{compared.largest:.1e} (at most {compared.allowed:.1e}), "
        f"{compared.equal_actions:.1%} equal greedy actions"
    )
    if config.precision == "bfloat16":
        print("note: the agent was trained with bfloat16; the model computes in float32")
    print(f"next: onnxruntime.InferenceSession({str(file)!r}).run(None, {{'observation': frames}})")


if __name__ == "__main__":
    sys.exit(main())
