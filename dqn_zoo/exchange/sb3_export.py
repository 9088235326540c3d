"""From a run to an agent that Stable-Baselines3 loads and RL-Zoo plays.

    FOLDER/dqn/SpaceInvadersNoFrameskip-v4_1/
        SpaceInvadersNoFrameskip-v4.zip          for DQN.load
        SpaceInvadersNoFrameskip-v4/config.yml   how RL-Zoo wraps the game, and the hyperparameters
        SpaceInvadersNoFrameskip-v4/args.yml

`DQN.load` takes the class of the policy and the two spaces as pickles only, so this module writes
three. It is the only one that writes any, and none reads one. Stable-Baselines3 is not imported.
"""

import base64
import json
import pickle
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
import yaml
from torch import Tensor

from dqn_zoo.errors import UserError
from dqn_zoo.exchange.sb3_zip import LAYERS, ONLINE, TARGET
from dqn_zoo.play.agent import build_agent
from dqn_zoo.play.session import Weights, check_unchanged
from dqn_zoo.runs.run import claim_run
from dqn_zoo.settings.config import Config, initial_learning_rate
from dqn_zoo.settings.protocols import protocol_from_config
from dqn_zoo.system.files import move

SB3_VERSION = "2.9.2"
"""The release whose layout is written; releases from 2.4 on have it."""

MEMORY_TRANSITIONS = 1_000
"""Size of the replay memory that `DQN.load` lays out: 56 MB, of no use for play."""

_POLICY_CLASS = b"cstable_baselines3.dqn.policies\nCnnPolicy\n."  # a pickle, written by hand
_WRAPPER = "stable_baselines3.common.atari_wrappers.AtariWrapper"
_NO_CLIPPING = 1e10  # SB3 always clips
_SB3_ADAM_EPS = 1e-8

COUNTERPARTS: dict[str, tuple[object, ...]] = {
    "network": ("nature",),
    "dueling": (False,),
    "mean_expansion": (False,),
    "noisy_sigma": (None,),
    "loss": ("huber", "squared"),
    "bootstrap": ("greedy", "double"),
    "crop": (None,),
    "layer_norm": (False,),
    "channel_norm": (False,),
}
"""Settings for which SB3's DQN has a counterpart, and the values that have one."""


def export_sb3(weights: Weights, config: Config, *, folder: Path) -> Path:
    """Write an agent in the layout of RL-Zoo, under the next free number; print what differs there.

    `folder` is what RL-Zoo's `-f` will name.

    Returns:
        The zip.

    Raises:
        UserError: SB3's DQN has no such agent, the weights were replaced meanwhile, or the folder
            cannot be written; then nothing is left.
    """
    check_exportable(config)
    env_id = _env_id(config.env)
    agent = build_agent(weights.file, config, device="cpu")
    check_unchanged(weights)
    content = _zip_bytes(agent.network.state_dict(), config, agent.num_actions, weights.steps or 0)
    for note in _notes(config):
        print(f"note: {note}")
    target = claim_run(folder, "dqn", env_id).path
    try:
        settings = target / env_id
        settings.mkdir()
        (settings / "config.yml").write_text(_plain_yaml(_rl_zoo_config(config)), encoding="utf-8")
        (settings / "args.yml").write_text(_plain_yaml(_rl_zoo_args(config)), encoding="utf-8")
        unfinished = target / f"{env_id}.tmp"
        unfinished.write_bytes(content)
        file = target / f"{env_id}.zip"
        move(unfinished, file)
        return file
    except BaseException as error:
        shutil.rmtree(target, ignore_errors=True)
        if isinstance(error, OSError):
            raise UserError(f"{target} cannot be written ({error.strerror})") from error
        raise


def check_exportable(config: Config) -> None:
    """Refuse an agent that SB3's DQN cannot be.

    Raises:
        UserError: names the setting without a counterpart.
    """
    for key, values in COUNTERPARTS.items():
        value = getattr(config, key)
        if value not in values:
            accepted = " or ".join("null" if one is None else str(one) for one in values)
            raise UserError(
                f"{key} {value} has no counterpart in SB3's DQN, expected {accepted}: this agent "
                "can be shared as it is with dqn-push"
            )


def _env_id(game: str) -> str:
    """Return the id of the game that RL-Zoo is given.

    Raises:
        UserError: ale-py registers none.
    """
    import ale_py

    gymnasium.register_envs(ale_py)
    env_id = f"{game}NoFrameskip-v4"
    if env_id not in gymnasium.registry:
        raise UserError(
            f"ale-py has no environment {env_id}, and SB3's wrappers need one without frame skip: "
            f"{game} cannot be exported"
        )
    return env_id


def _zip_bytes(
    weights: Mapping[str, Tensor], config: Config, num_actions: int, steps: int
) -> bytes:
    online = {
        f"{theirs}.{kind}": weights[f"{ours}.{kind}"].contiguous()
        for theirs, ours in LAYERS.items()
        for kind in ("weight", "bias")
    }
    both = OrderedDict(
        (f"{network}{name}", w) for network in (ONLINE, TARGET) for name, w in online.items()
    )
    members = {
        "data": json.dumps(_data(config, num_actions, steps), indent=4).encode(),
        "pytorch_variables.pth": _torch_bytes({}),
        "policy.pth": _torch_bytes(both),
        "policy.optimizer.pth": _torch_bytes(_fresh_adam(config)),
        "_stable_baselines3_version": SB3_VERSION.encode(),
        "system_info.txt": f"Written by dqn_zoo in the layout of SB3 {SB3_VERSION}\n".encode(),
    }
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # of 1980: equal agents, equal files
    return packed.getvalue()


def _data(config: Config, num_actions: int, steps: int) -> dict[str, Any]:
    """Return the attributes of SB3's DQN object that its constructor would not set itself."""
    pixels = (config.frame_stack, 84, 84)
    observation_space = gymnasium.spaces.Box(0, 255, pixels, np.uint8)
    action_space = gymnasium.spaces.Discrete(num_actions)
    return {
        "policy_class": _pickled("CnnPolicy", _POLICY_CLASS),
        "observation_space": _pickled("Box", pickle.dumps(observation_space)),
        "action_space": _pickled("Discrete", pickle.dumps(action_space)),
        "policy_kwargs": _policy_kwargs(config),
        "verbose": 0,
        "seed": None,
        "tensorboard_log": None,
        "n_envs": 1,
        "num_timesteps": steps,
        "_total_timesteps": config.n_timesteps,
        "exploration_rate": protocol_from_config(config).eval_epsilon,
        **_hyperparameters(config),
        "buffer_size": MEMORY_TRANSITIONS,
    }


def _hyperparameters(config: Config) -> dict[str, Any]:
    """Return the settings that SB3's DQN knows, for one environment, by the names it shares."""
    same = (
        "buffer_size", "batch_size", "learning_starts", "gamma", "train_freq", "gradient_steps",
        "n_steps", "target_update_interval", "exploration_fraction", "exploration_initial_eps",
        "exploration_final_eps",
    )  # fmt: skip
    clip = config.max_grad_norm
    return {
        "learning_rate": initial_learning_rate(config),
        **{key: getattr(config, key) for key in same},
        "max_grad_norm": _NO_CLIPPING if clip is None else clip,
    }


def _policy_kwargs(config: Config) -> dict[str, Any]:
    if config.optimizer != "adam" or config.optimizer_eps == _SB3_ADAM_EPS:
        return {}
    return {"optimizer_kwargs": {"eps": config.optimizer_eps}}


def _pickled(kind: str, content: bytes) -> dict[str, str]:
    return {":type:": kind, ":serialized:": base64.b64encode(content).decode()}


def _torch_bytes(value: object) -> bytes:
    file = BytesIO()
    torch.save(value, file)
    return file.getvalue()


def _fresh_adam(config: Config) -> dict[str, Any]:
    """Return the state of an Adam that has made no step, as PyTorch writes it.

    Spelled out, because PyTorch imports its compiler, for seconds, to build an optimizer.
    """
    options = {
        "lr": initial_learning_rate(config),
        "betas": (0.9, 0.999),
        "eps": _policy_kwargs(config).get("optimizer_kwargs", {}).get("eps", _SB3_ADAM_EPS),
        "weight_decay": 0,
        "params": list(range(2 * len(LAYERS))),
    }
    off = ("amsgrad", "maximize", "capturable", "differentiable", "decoupled_weight_decay")
    undecided = ("foreach", "fused")
    group = options | dict.fromkeys(off, False) | dict.fromkeys(undecided)
    return {"state": {}, "param_groups": [group]}


def _rl_zoo_config(config: Config) -> dict[str, Any]:
    """Return what RL-Zoo keeps of a training, as the plain mapping it reads as well."""
    arguments = _wrapper_arguments(config)
    return {
        "policy": "CnnPolicy",
        "policy_kwargs": _policy_kwargs(config),
        "env_wrapper": [{_WRAPPER: arguments} if arguments else _WRAPPER],
        "frame_stack": config.frame_stack,
        "n_timesteps": config.n_timesteps,
        **_hyperparameters(config),
    }


def _wrapper_arguments(config: Config) -> dict[str, Any]:
    """Return the rules that are not the default ones of SB3's AtariWrapper."""
    protocol = protocol_from_config(config)
    rules = {
        "noop_max": (protocol.noop_max, 30),
        "terminal_on_life_loss": (protocol.terminal_on_life_loss, True),
        "clip_reward": (config.clip_reward, True),
        "action_repeat_probability": (protocol.action_repeat_probability, 0.0),
    }
    return {name: value for name, (value, default) in rules.items() if value != default}


def _rl_zoo_args(config: Config) -> dict[str, Any]:
    arguments = {
        "max_num_frames_per_episode": config.max_frames,
        "mode": config.mode,
        "difficulty": config.difficulty,
    }
    given = {name: value for name, value in arguments.items() if value is not None}
    return {
        "algo": "dqn",
        "env": _env_id(config.env),
        "seed": config.seed,
        "env_kwargs": given or None,
    }


def _plain_yaml(content: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(content), sort_keys=False)


def _notes(config: Config) -> list[str]:
    """Return what is not the same there, one line each."""
    differences = {
        "it learned from the pixels and rules of protocol {protocol}, and SB3 converts to grey in "
        "another order and presses FIRE between the steps of the agent: scores can differ": (
            config.protocol != "sb3"
        ),
        "it multiplied in bfloat16, and SB3 in float32: values differ in the third digit": (
            config.precision == "bfloat16"
        ),
        "to train on, SB3 uses the Huber loss, greedy bootstrap and Adam at a constant rate": (
            config.loss != "huber"
            or config.bootstrap != "greedy"
            or config.optimizer != "adam"
            or isinstance(config.learning_rate, str)
        ),
        "to train on, SB3 makes its updates every train_freq steps to the end": (
            config.train_freq_later is not None
        ),
        "to train on, SB3 explores with exploration_final_eps in every environment": (
            config.exploration_spread > 0.0
        ),
        "to train on, SB3 draws a random action for one step": config.exploration_zeta > 0.0,
    }
    return [text.format(protocol=config.protocol) for text, holds in differences.items() if holds]
