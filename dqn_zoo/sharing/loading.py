"""Agents by name: a run folder, one that comes with this package, or a repository of the Hub."""

import re
from pathlib import Path

import torch

from dqn_zoo.errors import UserError
from dqn_zoo.play.agent import Agent, build_agent
from dqn_zoo.play.weights import Kind, Which, find_weights
from dqn_zoo.runs.finding import find_run
from dqn_zoo.settings.games import parse_game
from dqn_zoo.settings.recipes import load_config
from dqn_zoo.sharing.pretrained import GROUP, load_pretrained
from dqn_zoo.sharing.pull import fetch


def load_agent(
    path: str | Path,
    which: Which | int = "best",
    device: str | torch.device = "cpu",
    *,
    weights: Kind | None = None,
) -> Agent:
    """Load an agent; only tensors and plain text are read, no code.

    Args:
        path: folder of a run, such as `logs/dqn/SpaceInvaders_1`; an agent that comes with this
            package, such as `pretrained/SpaceInvaders`; or a repository of the Hub, such as
            `hf://ann/dqn-SpaceInvaders` or `hf://ann/dqn-SpaceInvaders@REVISION`.
        which: of a run: `best` (best evaluation; the last where none was made), `last`, or the step
            of a checkpoint. The others hold one set of weights.
        device: where to put the network.
        weights: of a run that averages its weights: `averaged` or `online`; None: what evaluations
            in training played, and that is the averaged ones. No evaluation chooses among the
            online ones: there `best` is the last.

    Raises:
        UserError: if there is no such agent, or the weights do not fit.
    """
    named = re.fullmatch(rf"{GROUP}/([^/]+)", Path(path).as_posix())
    if Path(path).is_dir() or not (named or str(path).startswith("hf:/")):
        run = find_run(Path(path).parent, run=str(path))
        config = load_config(run.config_file)
        return build_agent(find_weights(run, which, weights), config, device=device)
    for name, value, default in (("which", which, "best"), ("weights", weights, None)):
        if value != default:
            raise UserError(f"{path} holds one set of weights: leave {name}={value!r} out")
    if named:
        files = load_pretrained(parse_game(named[1]).game)
    else:
        files = fetch(str(path).removeprefix("hf:").lstrip("/")).agent
    return build_agent(files.weights, files.description.config, device=device)
