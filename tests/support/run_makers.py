"""Run folders as training leaves them, without the training."""

from pathlib import Path
from typing import Any

from dqn_zoo.learning.losses import network_settings
from dqn_zoo.networks.network import build_network
from dqn_zoo.play.weights import weights_bytes
from dqn_zoo.runs.manifest import Setup, write_manifest
from dqn_zoo.runs.run import Run, claim_run
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.recipes import dump_config, resolve

BREAKOUT_ACTIONS = 4  # games of an agent that knows nothing last some 150 steps


def weights_of(
    seed: int, steps: int, config: Config | None = None, num_actions: int = BREAKOUT_ACTIONS
) -> bytes:
    """Return the weights file of an untrained network."""
    settings = network_settings(config or Config())
    network = build_network(settings, num_actions=num_actions, seed=seed)
    return weights_bytes(network.state_dict(), {"steps": steps})


def make_run(folder: Path, game: str = "Breakout", algo: str = "dqn", **overrides: Any) -> Run:
    """Make a run folder as training leaves it until the first weights are written."""
    config = resolve(env=game, algo=algo, overrides=overrides).config
    run = claim_run(folder, algo, game=game)
    run.config_file.write_text(dump_config(config))
    setup = Setup(device="cpu", num_threads=1, evaluation_threads=2, precision="float32")
    write_manifest(run, setup, command=["dqn-train"], seed=1, protocol={}, until_steps=1)
    return run
