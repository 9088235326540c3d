"""From a zip of Stable-Baselines3 to a run folder like any other."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dqn_zoo.envs.env_settings import EnvSettings
from dqn_zoo.envs.making import make_envs
from dqn_zoo.errors import UserError, plain, short
from dqn_zoo.exchange.sb3_zip import Sb3Model, read_sb3_zip
from dqn_zoo.play.weights import parse_weights, weights_bytes
from dqn_zoo.runs.checkpoint import DamagedError
from dqn_zoo.runs.elsewhere import foreign_agents
from dqn_zoo.runs.manifest import write_origin_manifest
from dqn_zoo.runs.run import Run, place_run
from dqn_zoo.settings.checks import contradictions
from dqn_zoo.settings.config import Config, build_config
from dqn_zoo.settings.games import GameName, game_in_path, parse_game
from dqn_zoo.settings.protocols import PROTOCOLS, protocol_from_config
from dqn_zoo.settings.recipes import dump_config
from dqn_zoo.settings.rl_zoo_keys import count_in_steps
from dqn_zoo.system.files import digest

_OUR_KEYS = {
    "_total_timesteps": "n_timesteps",
    "n_envs": "n_envs",
    "buffer_size": "buffer_size",
    "batch_size": "batch_size",
    "learning_starts": "learning_starts",
    "gamma": "gamma",
    "gradient_steps": "gradient_steps",
    "n_steps": "n_steps",
    "target_update_interval": "target_update_interval",
    "exploration_initial_eps": "exploration_initial_eps",
    "exploration_final_eps": "exploration_final_eps",
    "exploration_fraction": "exploration_fraction",
    "exploration_rate": "eval_epsilon",
    "max_grad_norm": "max_grad_norm",
    "seed": "seed",
}
"""SB3's attribute and the setting of ours that means the same, in the same unit."""


_LONGEST_VALUE = 40  # characters
_BEST = "best_model"
_CHECKPOINT = re.compile(r"rl_model_(\d+)_steps")


class RefusedZipError(UserError):
    """What a zip holds is refused, whatever is asked of it."""


class _Settings(NamedTuple):
    """Settings of ours, and one note for each of SB3's that could not be taken over."""

    values: dict[str, Any]
    notes: list[str]


def import_sb3(
    file: Path,
    *,
    log_folder: Path,
    env: str | None = None,
    origin: Mapping[str, Any] | None = None,
    command: Sequence[str] = ("dqn-import",),
) -> Run:
    """Make a run folder from a zip that `DQN.save` of Stable-Baselines3 wrote.

    It plays by the protocol sb3, with the exploration rate that was saved as its epsilon: what
    RL-Zoo's enjoy does with an Atari agent.

    Args:
        file: the zip.
        log_folder: folder of all runs.
        env: the game, in any spelling; None: as the names of the file and of its folder tell.
        origin: where the file came from, for the manifest; its name and SHA-256 are added.
        command: the command line, for the manifest.

    Raises:
        RefusedZipError: see `read_sb3_zip`.
        UserError: the game is not known or has other actions, or the folder cannot be written; then
            nothing is left.
    """
    try:
        model = read_sb3_zip(file)
    except UserError as error:
        raise RefusedZipError(str(error)) from error
    name = _find_game(file, env)
    _check_actions(model, name, file)
    config, notes = _config(model, name.game)
    steps = _count(model.settings.get("num_timesteps"))
    print(_headline(file, model, name.game, steps))
    for line in [*notes, *_rules_notes(config, name)]:
        print(f"note: {line}")
    content = _weights(file, model, config, steps)

    def fill(run: Run) -> None:
        run.config_file.write_text(dump_config(config), encoding="utf-8")
        run.model_file.write_bytes(content)
        write_origin_manifest(
            run,
            command=command,
            seed=config.seed,
            protocol=protocol_from_config(config).as_json(),
            steps=steps,
            origin=_describe(file, model) | dict(origin or {}),
        )

    run = place_run(log_folder, config.algo, name.game, fill)
    print(f"imported into {run.path}")
    return run


def zip_of_training(folder: Path) -> Path:
    """Return the zip that RL-Zoo plays, of those in the folder of a training.

    Raises:
        UserError: there is none, or there are several trainings.
    """
    zips = list(foreign_agents(folder, None))
    trainings = sorted({file.parent for file in zips})
    if len(trainings) != 1:
        found = ", ".join(map(str, trainings[:3])) or "none"
        raise UserError(f"{folder} should hold the zips of one training, found {found}: name one")
    named = {file.stem: file for file in zips}
    steps = {int(match[1]): name for name in named if (match := _CHECKPOINT.fullmatch(name))}
    best = [_BEST] if _BEST in named else []
    last = [name for name in named if name not in (*best, *steps.values())]
    return named[[*(steps[step] for step in sorted(steps)), *best, *last][-1]]


def _weights(file: Path, model: Sb3Model, config: Config, steps: int | None) -> bytes:
    """Return the weights as safetensors, with what they are in the header.

    Raises:
        RefusedZipError: they are not finite.
    """
    note: dict[str, str | int] = {
        "env": config.env,
        "algo": config.algo,
        "protocol": config.protocol,
    }
    if steps is not None:
        note["steps"] = steps
    content = weights_bytes(model.weights, note)
    try:
        parse_weights(content)
    except DamagedError as error:
        raise RefusedZipError(f"{file} is damaged ({error}): not imported") from error
    return content


def _find_game(file: Path, env: str | None) -> GameName:
    """Return the game that is named, else the one in `dqn-GAMENoFrameskip-v4.zip` or its folder.

    Raises:
        UserError: no such game, or none is named.
    """
    if env is not None:
        return parse_game(env)
    named = game_in_path(file)
    if named is not None:
        return named
    raise UserError(
        f"{file} does not say in its name which game it plays: add --env, as in --env SpaceInvaders"
    )


def _check_actions(model: Sb3Model, name: GameName, file: Path) -> None:
    """Compare the number of actions with the game's: all that tells one game from another."""
    with make_envs(name.game, 1, settings=EnvSettings(protocol=PROTOCOLS["sb3"])) as environments:
        expected = environments.num_actions
    if model.num_actions != expected:
        raise UserError(
            f"{file} decides among {model.num_actions} actions and {name.game} has {expected}: "
            "name the game that it was trained on with --env"
        )


def _config(model: Sb3Model, game: str) -> tuple[Config, list[str]]:
    """Return the settings that SB3 trained with, as far as they are readable and have a meaning."""
    values, notes = _read_settings(model.settings)
    if "train_freq" in values:
        n_envs = int(values.get("n_envs", 1))
        values["train_freq"], converted = count_in_steps(values["train_freq"], n_envs)
        notes += converted
    fixed = {
        "env": game,
        "algo": "dqn",
        "protocol": "sb3",
        "frame_stack": model.frame_stack,
        "network": "nature",
        "loss": "huber",
        "bootstrap": "greedy",
    }
    while True:
        config = build_config(values | fixed)
        finding = next(contradictions(config), None)
        if finding is None:
            return config, notes
        given = [key for key in finding.keys if key in values]
        assert given, "the settings that are fixed here contradict each other"
        for key in given:
            notes.append(f"{key} {values.pop(key)} is left at its default: {finding.text}")


def _read_settings(settings: Mapping[str, Any]) -> _Settings:
    read = _Settings({}, [])
    for theirs, ours in _OUR_KEYS.items():
        if settings.get(theirs) is not None:
            _take(read, ours, settings[theirs])
    _take_learning_rate(read, settings.get("learning_rate"))
    match settings.get("policy_kwargs"):
        case {"optimizer_kwargs": {"eps": eps}}:
            _take(read, "optimizer_eps", eps)
    match settings.get("policy_kwargs"):
        case {"optimizer_class": other} if not re.search(r"\bAdam'>$", str(other)):
            read.notes.append(
                f"optimizer_class {short(other)} is not read: a training that starts from it "
                "has adam, with the same rate"
            )
    if isinstance(settings.get("train_freq"), int):
        _take(read, "train_freq", settings["train_freq"])
    else:
        read.notes.append("train_freq is a pickle, which is not opened: left at its default")
    if settings.get("tau", 1) != 1:
        read.notes.append("tau: the target network is copied whole here")
    return read


def _take(read: _Settings, key: str, value: Any) -> None:
    """Take a setting over if it is accepted; a whole agent is not refused for one that is not."""
    if not isinstance(value, int | float | str) or len(str(value)) > _LONGEST_VALUE:
        read.notes.append(f"{key} is no number that can be read: left at its default")
        return
    try:
        build_config({key: value})
    except UserError as error:
        read.notes.append(f"{' '.join(str(error).split())}: left at its default")
    else:
        read.values[key] = value


def _take_learning_rate(read: _Settings, value: Any) -> None:
    """Read a number, or what SB3 writes beside the pickle of a schedule of its own or RL-Zoo's."""
    match value:
        case int() | float():
            _take(read, "learning_rate", value)
        case {"val": int() | float() as constant}:
            _take(read, "learning_rate", constant)
        case {"initial_value": int() | float() as initial}:
            _take(read, "learning_rate", f"lin_{initial}")
        case _:
            read.notes.append("learning_rate is a pickle, which is not opened: left at its default")


def _rules_notes(config: Config, name: GameName) -> list[str]:
    notes = []
    if name.implied_protocol == "machado":
        notes.append(
            "the name of the environment implies sticky actions, and under SB3's wrapper often a "
            "frame skip of 16: here it is played without them and with a frame skip of 4"
        )
    if config.eval_epsilon is not None:
        notes.append(
            f"it plays with epsilon {config.eval_epsilon:g}, the exploration rate that was saved; "
            "--epsilon of dqn-enjoy sets another"
        )
    return notes


def _headline(file: Path, model: Sb3Model, game: str, steps: int | None) -> str:
    version = "" if model.version is None else f" {model.version}"
    trained = "" if steps is None else f", {steps:,} steps of training"
    return (
        f"{plain(file)}: DQN of Stable-Baselines3{version} for {game}{trained}, "
        f"{model.num_actions} actions, {model.frame_stack} frames"
    )


def _describe(file: Path, model: Sb3Model) -> dict[str, Any]:
    return {
        "library": "stable-baselines3",
        "version": model.version,
        "file": file.name,
        "sha256": digest(file),
    }


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and 0 <= value < 2**53 else None
