"""Put a trained agent into the package: half precision, and the score of exactly these weights.

    python scripts/ship_agent.py logs/laptop/SpaceInvaders_1

Writes dqn_zoo/pretrained/GAME: the weights as float16, the results of full games that they have
played, config.json, and the returns of training as curve.csv. An agent of the same game that lies
there already is replaced.
"""

import argparse
import csv
import math
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from games_table import CURVE

from dqn_zoo.cli.enjoy import build_parser
from dqn_zoo.cli.play_session import find_asked_run, make_session, play_games
from dqn_zoo.play.agent import build_agent
from dqn_zoo.play.results import headline, summary_lines
from dqn_zoo.play.session import choose_weights, read_weights
from dqn_zoo.play.statistics import summarize
from dqn_zoo.play.weights import OWN_DIGEST, load_weights, weights_bytes, weights_note
from dqn_zoo.runs.learning_curve import columns
from dqn_zoo.runs.run import Run
from dqn_zoo.sharing.agent_files import CONFIG, RESULTS, WEIGHTS, write_description
from dqn_zoo.sharing.pretrained import PRETRAINED
from dqn_zoo.sharing.push import Staging, played_results, stage_results, training_record
from dqn_zoo.system.signals import exit_code

LARGEST_BYTES = 1_500_000  # of the weights: the agents come with every installation
CURVE_ROWS = 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="folder of a run")
    parser.add_argument("--last", action="store_true", help="the last weights, not the best")
    parser.add_argument("--episodes", type=int, default=100, help="full games (default: 100)")
    parser.add_argument("--to", type=Path, default=PRETRAINED, help="(default: the package)")
    asked = parser.parse_args()
    arguments = build_parser().parse_args(["--run", str(asked.run), "--no-render"])
    run, config = find_asked_run(arguments)
    chosen = choose_weights(run, "last" if asked.last else "default")

    half = {name: value.to(torch.float16) for name, value in load_weights(chosen.file).items()}
    # Of the same steps and kind, averaged or online; the digest is another.
    note = {key: value for key, value in weights_note(chosen.file).items() if key != OWN_DIGEST}
    content = weights_bytes(half, note)
    if len(content) > LARGEST_BYTES:
        sys.exit(f"{len(content):,} bytes, more than the {LARGEST_BYTES:,} that an agent may have")
    with tempfile.TemporaryDirectory() as scratch:
        halved = Run(Path(scratch) / config.algo / run.name)
        halved.path.mkdir(parents=True)
        for file in (run.config_file, run.manifest_file):
            shutil.copyfile(file, halved.path / file.name)
        halved.model_file.write_bytes(content)
        name = chosen.name.removeprefix(f"{note.get('weights')} ")  # read_weights says the kind
        weights = read_weights(halved.model_file, f"{name}, float16")
        session = make_session(arguments, halved, config, num_games=asked.episodes, weights=weights)
        agent = build_agent(weights.file, config, device=session.device)
        print(headline(session), flush=True)
        games, interruption = play_games(session, agent.q_values)
        if interruption is not None:
            return exit_code(interruption)
        print(*summary_lines(session, summarize([game.score for game in games])), sep="\n")
        staging = Staging(path=halved.path, repo_id=f"dqn_zoo/{config.env}")
        stage_results(staging, played_results(session, games))
        write_description(
            halved.path,
            config,
            files={name: halved.path / name for name in (WEIGHTS, RESULTS)},
            num_actions=agent.num_actions,
            training=training_record(run, chosen.steps),
        )
        folder = asked.to / config.env
        folder.mkdir(parents=True, exist_ok=True)
        for name in (WEIGHTS, RESULTS, CONFIG):
            shutil.copyfile(halved.path / name, folder / name)
        write_curve(run, folder / CURVE)
    print(f"{folder}: {sum(path.stat().st_size for path in folder.iterdir()):,} bytes")
    return 0


def write_curve(run: Run, file: Path) -> None:
    """Write steps and mean returns of a training, thinned; a run without a log has no curve."""
    file.unlink(missing_ok=True)
    if not run.progress_file.exists():
        return
    rows = zip(*columns(run.progress_file, "steps", "return_mean"), strict=True)
    known = [(round(step), round(mean, 2)) for step, mean in rows if not math.isnan(mean)]
    every = math.ceil(len(known) / CURVE_ROWS) or 1
    with file.open("w", newline="") as stream:
        lines = csv.writer(stream, lineterminator="\n")
        lines.writerow(["steps", "return_mean"])
        lines.writerows(known[::-1][::every][::-1])  # the last one is kept


if __name__ == "__main__":
    sys.exit(main())
