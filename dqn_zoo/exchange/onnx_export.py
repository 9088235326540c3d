"""An agent as ONNX: uint8 frames in, Q-values out, compared with the agent before it is written."""

import contextlib
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from dqn_zoo import __version__
from dqn_zoo.envs.env_settings import EnvSettings
from dqn_zoo.envs.making import make_envs
from dqn_zoo.errors import UserError
from dqn_zoo.play.agent import Agent, build_agent
from dqn_zoo.play.session import Weights, check_unchanged
from dqn_zoo.schedules import epsilon_greedy
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.protocols import FRAMES_PER_STEP, protocol_from_config
from dqn_zoo.system.extras import need
from dqn_zoo.system.files import check_writable, replace_file, writing

TOLERANCE = 1e-4
"""How far a value may be off, as a share of the largest value that was met, or of 1."""

NUM_OBSERVATIONS = 1_000
ENVS = 8
CHECK_EPSILON = 0.1  # for the games that the observations come from: more than one way to play


class Comparison(NamedTuple):
    """How an exported model differs from its agent.

    Attributes:
        observations: that both were shown.
        largest: difference of a value.
        allowed: the difference that is not exceeded.
        equal_actions: share of the observations where both value the same action highest.
    """

    observations: int
    largest: float
    allowed: float
    equal_actions: float


def export_onnx(weights: Weights, config: Config, file: Path) -> Comparison:
    """Write an agent of a run as an ONNX model, once it answers as the agent does.

    Returns:
        How the model compares with the agent, which computes in float32 for it.

    Raises:
        UserError: a package is missing, the file exists or cannot be written, or the model answers
            otherwise; then nothing is left.
    """
    need("onnx", "an ONNX file")
    import onnx
    import onnxruntime

    if file.exists():
        raise UserError(f"{file} exists: remove it, or name another with -o FILE")
    with writing(file, "name another with -o FILE"):
        check_writable(file)
    agent = build_agent(
        weights.file, config.model_copy(update={"precision": "float32"}), device="cpu"
    )
    check_unchanged(weights)
    observations, actions = play_observations(agent)
    model = _model(agent)
    metadata = {
        "env": config.env,
        "actions": json.dumps(actions),
        "observation": json.dumps(_observation(config)),
        "protocol": json.dumps(protocol_from_config(config).as_json()),
        "weights": weights.name,
        "weights_sha256": weights.sha256,
        "dqn_zoo": __version__,
    }
    onnx.helper.set_model_props(model, metadata)
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    comparison = compare(agent, session, observations)
    if not comparison.largest <= comparison.allowed:  # also where it is no number
        raise UserError(
            f"the model is off by {comparison.largest:.2g}, expected at most "
            f"{comparison.allowed:.2g}: {file} is not written; export with other versions of torch "
            "and onnxruntime"
        )
    with writing(file, "name another with -o FILE"):
        replace_file(file, content)
    return comparison


def play_observations(agent: Agent) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Return uint8 [NUM_OBSERVATIONS, stack, 84, 84] of games of the agent, and its actions' names.

    An agent of another game's size is refused by the emulator.
    """
    settings = EnvSettings.from_config(agent.config)
    generator = np.random.default_rng(0)
    with make_envs(agent.config.env, ENVS, settings=settings, seed=0) as envs:

        def play() -> Iterator[NDArray[np.uint8]]:
            observation = envs.reset()
            for _ in range(NUM_OBSERVATIONS // ENVS):
                yield observation
                values = agent.q_values(observation)
                actions = epsilon_greedy(values, CHECK_EPSILON, generator)
                observation = envs.step(actions).observation

        return np.concatenate(list(play())), envs.action_meanings


def compare(agent: Agent, session: Any, observations: NDArray[np.uint8]) -> Comparison:
    """Show both the same observations, in batches of several sizes."""
    batches = np.array_split(observations, [1, 8, *range(100, len(observations), 100)])
    ours = np.concatenate([agent.q_values(batch) for batch in batches])
    theirs = np.concatenate([session.run(None, {"observation": batch})[0] for batch in batches])
    largest = float(np.abs(ours - theirs).max())
    return Comparison(
        observations=len(observations),
        largest=largest,
        allowed=TOLERANCE * max(1.0, float(np.abs(ours).max())),
        equal_actions=float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean()),
    )


def _model(agent: Agent) -> Any:
    """Return the agent's module as an ONNX model whose batch may have any size."""
    example = torch.zeros(2, agent.config.frame_stack, 84, 84, dtype=torch.uint8)
    module = agent.to_torch()
    for name, layer in list(module.named_modules()):
        if isinstance(layer, nn.AdaptiveMaxPool2d):
            parent, _, own = name.rpartition(".")
            setattr(module.get_submodule(parent), own, _MaxPool(layer))
    with warnings.catch_warnings(), _no_remarks("torch.onnx"):
        warnings.simplefilter("ignore")  # deprecations inside PyTorch
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            input_names=["observation"],
            output_names=["q_values"],
            dynamic_shapes={"observation": {0: torch.export.Dim("batch")}},
            verbose=False,
        )
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def _no_remarks(logger: str) -> Iterator[None]:
    """Keep what a library logs short of an error off the screen, as that torchvision is missing."""
    log = logging.getLogger(logger)
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


class _MaxPool(nn.Module):
    """An adaptive max-pool out of maxima of fixed windows: ONNX has none whose windows differ."""

    def __init__(self, pool: nn.AdaptiveMaxPool2d) -> None:
        super().__init__()
        assert isinstance(pool.output_size, int)
        self.side = pool.output_size

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [batch, channels, side, side] for [batch, channels, height, width]."""
        return self._pooled(self._pooled(inputs, -2), -1)

    def _pooled(self, inputs: Tensor, axis: int) -> Tensor:
        size, side = inputs.shape[axis], self.side
        windows = [(size * place // side, -(-size * (place + 1) // side)) for place in range(side)]
        maxima = [
            inputs.narrow(axis, begin, end - begin).amax(axis, keepdim=True)
            for begin, end in windows
        ]
        return torch.cat(maxima, dim=axis)


def _observation(config: Config) -> dict[str, Any]:
    """Say what an observation is, for those who make it themselves."""
    return {
        "shape": ["batch", config.frame_stack, 84, 84],
        "dtype": "uint8",
        "order": "oldest frame first",
        "frames_per_step": FRAMES_PER_STEP,
        "frame": "maximum of the last two, grey, resized to 84 x 84 by area",
        "crop": config.crop,
    }
