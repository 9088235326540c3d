"""RL-Zoo's YAML keys: what each means here, has no effect here, or cannot be done here.

RL-Zoo hands most keys to Stable-Baselines3 and `eval`s text such as "dict(a=1)". Here every key has
a meaning, a note or a refusal with its reason, and such text is read as literals.
"""

import ast
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from dqn_zoo.errors import UserError, short
from dqn_zoo.settings.config import Config
from dqn_zoo.settings.yaml_reader import Entry


class Meaning(NamedTuple):
    """What one RL-Zoo key comes to: settings of ours, or a note that it has no effect."""

    settings: Mapping[str, object] = {}
    note: str | None = None


class Translation(NamedTuple):
    """Entries with our keys only, and one note for each key without effect."""

    entries: dict[str, Entry]
    notes: tuple[str, ...]


def translate(entries: Mapping[str, Entry]) -> Translation:
    """Replace RL-Zoo's keys by ours; all other keys pass unchanged.

    Raises:
        UserError: a key asks for something that does not exist here, or two set the same.
    """
    translated: dict[str, Entry] = {}
    notes = []
    for key, entry in entries.items():
        settings, note = _meaning(key, entry)
        for name, setting in settings.items():
            if name in translated:
                first = translated[name].origin
                raise UserError(f"{_where(key, entry)}: it sets {name}, as {first} does; keep one")
            translated[name] = Entry(setting, entry.origin)
        notes += [] if note is None else [f"{key} ({note})"]
    return Translation(translated, tuple(notes))


def _meaning(key: str, entry: Entry) -> Meaning:
    if key not in _MEANINGS:
        return Meaning({key: entry.value})
    try:
        return _MEANINGS[key](entry.value)
    except UserError as error:
        raise UserError(f"{_where(key, entry)}: {error}") from None


def _where(key: str, entry: Entry) -> str:
    """Return origin and key; the origin of a flag ends with the key already, or is the key."""
    is_said = entry.origin.endswith(f" {key}") or entry.origin == f"--{key.replace('_', '-')}"
    return entry.origin if is_said else f"{entry.origin}: {key}"


def is_from_rl_zoo(entries: Mapping[str, Entry]) -> bool:
    """Recognize a block written for RL-Zoo by the keys that only RL-Zoo needs."""
    return "policy" in entries or "env_wrapper" in entries


class Framework(NamedTuple):
    """What RL-Zoo trains with.

    Attributes:
        name: of the library.
        defaults: by our keys, what it takes for a key that a file leaves out.
    """

    name: str
    defaults: Mapping[str, Entry]

    def left_out(self, entries: Mapping[str, Entry], file: str) -> dict[str, Entry]:
        """Return what the keys mean that are not among the entries of a file."""
        origin = f"{file} leaves it out, default of {self.name}"
        return {
            key: entry._replace(origin=origin)
            for key, entry in self.defaults.items()
            if key not in entries
        }


def framework_of(algo: str) -> Framework | None:
    """Return what RL-Zoo trains with under this name; None where the name is ours alone."""
    return _FRAMEWORKS.get(algo)


def with_calls_marked(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Mark RL-Zoo's train_freq, which counts calls of all environments together.

    How many steps these are is known when the last word on n_envs is said.
    """
    said = entries.get("train_freq")
    if said is None and "n_envs" in entries:
        said = SB3.defaults["train_freq"]._replace(origin=entries["n_envs"].origin)
    marked = {} if said is None else {"train_freq": said._replace(convert=_calls_as_steps)}
    return {**entries, **marked}


def count_in_steps(calls: int, n_envs: int) -> tuple[int, tuple[str, ...]]:
    """Turn calls of all environments together into steps; a note says what was changed and why.

    With one environment they are the same.
    """
    if n_envs == 1:
        return calls, ()
    steps = calls * n_envs
    note = (
        f"train_freq {calls} counts calls of {n_envs} environments in RL-Zoo; "
        f"here it counts steps, so that the same is train_freq {steps}, which this run takes"
    )
    return steps, (note,)


def parse_dict_text(text: str) -> dict[str, Any]:
    """Read "dict(a=1, b=dict(c=[2]))" as literals; nothing is evaluated.

    Raises:
        UserError: anything but dict calls with keywords and literal values.
    """
    try:
        return _dict_literal(ast.parse(text.strip(), mode="eval").body)
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        raise UserError(
            f'expected text such as "dict(key=1)" with literal values, got {text[:60]!r}; '
            "nothing is evaluated here"
        ) from None


def _dict_literal(node: ast.expr) -> dict[str, Any]:
    match node:
        case ast.Call(func=ast.Name(id="dict"), args=[], keywords=keywords):
            return {_name(keyword): _literal(keyword.value) for keyword in keywords}
        case ast.Dict():
            return dict(ast.literal_eval(node))
    raise ValueError


def _name(keyword: ast.keyword) -> str:
    if keyword.arg is None:
        raise ValueError
    return keyword.arg


def _literal(node: ast.expr) -> object:
    return _dict_literal(node) if isinstance(node, ast.Call) else ast.literal_eval(node)


def _as_mapping(value: object) -> dict[str, Any]:
    """Accept a mapping, RL-Zoo's "dict(...)" text, or nothing."""
    if value is None:
        return {}
    if isinstance(value, str):
        return parse_dict_text(value)
    if isinstance(value, dict):
        return dict(value)
    raise UserError(f'expected a mapping or text such as "dict(key=1)", got {short(value)}')


def _no_effect(reason: str) -> Callable[[object], Meaning]:
    return lambda value: Meaning(note=reason)


def _absent(reason: str) -> Callable[[object], Meaning]:
    """Accept only "nothing" for what does not exist here."""

    def read(value: object) -> Meaning:
        if value is None:
            return Meaning(note="null")
        raise UserError(f"{reason}; remove the key")

    return read


def _policy(value: object) -> Meaning:
    if value == "CnnPolicy":
        return Meaning(note="network sets the torso; CnnPolicy's is nature")
    raise UserError(f"network sets the torso here, CnnPolicy's is nature; got {short(value)}")


def _policy_kwargs(value: object) -> Meaning:
    arguments = _as_mapping(value)
    settings = {}
    if "n_quantiles" in arguments:
        settings["num_quantiles"] = arguments.pop("n_quantiles")
    optimizer = arguments.pop("optimizer_kwargs", {})
    if arguments or not isinstance(optimizer, dict) or optimizer.keys() - {"eps"}:
        raise UserError(
            "only n_quantiles and the eps of optimizer_kwargs are known: network and its keys set "
            "the network, optimizer and learning_rate the rest; remove the others"
        )
    if optimizer:
        settings["optimizer_eps"] = optimizer["eps"]
    return Meaning(settings, None if settings else "empty")


def _normalize(value: object) -> Meaning:
    if value is False or value is None:
        return Meaning(note="pixels are divided by 255 in the network, rewards are clipped")
    raise UserError(
        "running normalization does not exist here: pixels are divided by 255 in the network and "
        "clip_reward clips rewards; set it to false"
    )


def _replay_buffer_kwargs(value: object) -> Meaning:
    if _as_mapping(value).keys() <= {"handle_timeout_termination"}:
        return Meaning(note="a truncated game always keeps its bootstrap")
    raise UserError("only handle_timeout_termination is known here; remove the other arguments")


def _tau(value: object) -> Meaning:
    if value == 1 and not isinstance(value, bool):
        return Meaning(note="the target network is always copied whole")
    raise UserError(
        "the target network is copied whole every target_update_interval steps (tau 1), "
        f"got {short(value)}"
    )


def _train_freq(value: object) -> Meaning:
    match value:
        case [count, "step"]:
            return Meaning({"train_freq": count})
        case [_, unit]:
            raise UserError(
                f'train_freq counts steps here, got the unit {short(unit)}; give "step"'
            )
    return Meaning({"train_freq": value})


def _gradient_steps(value: object) -> Meaning:
    if value == -1:
        raise UserError(
            "-1 (as many updates as steps) does not exist here: give the number, "
            "which is the value of train_freq"
        )
    return Meaning({"gradient_steps": value})


def _double_q(value: object) -> Meaning:
    if not isinstance(value, bool):
        raise UserError(f"must be true or false, got {short(value)}")
    return Meaning({"bootstrap": "double" if value else "greedy"})


def _env_kwargs(value: object) -> Meaning:
    arguments = _as_mapping(value)
    settings = {
        ours: arguments.pop(theirs)
        for theirs, ours in _ENV_KWARGS_SETTINGS.items()
        if theirs in arguments
    }
    # The preprocessing here skips frames itself, from an emulator that does not.
    harmless = {"frameskip": 1, "full_action_space": False}
    unknown = {key: given for key, given in arguments.items() if harmless.get(key) != given}
    if unknown:
        raise UserError(
            f"{', '.join(map(str, unknown))} cannot be set: a step is 4 frames and the actions are "
            f"the game's own; what can be set: {', '.join(_ENV_KWARGS_SETTINGS)}"
        )
    return Meaning(settings, None if settings else "as the protocol does")


def _env_wrapper(value: object) -> Meaning:
    settings: dict[str, object] = {}
    for wrapper in value if isinstance(value, list) else [value]:
        name, arguments = wrapper, None
        if isinstance(wrapper, dict) and len(wrapper) == 1:
            [(name, arguments)] = wrapper.items()
        if name != "stable_baselines3.common.atari_wrappers.AtariWrapper":
            raise UserError(
                "only stable_baselines3.common.atari_wrappers.AtariWrapper is known, got "
                f"{short(name)}"
            )
        settings |= _atari_wrapper(_as_mapping(arguments))
    return Meaning(settings, None if settings else "the protocols wrap the game")


def _atari_wrapper(arguments: Mapping[str, object]) -> dict[str, object]:
    """Map the arguments of Stable-Baselines3's AtariWrapper."""
    settings = {}
    for name, value in arguments.items():
        if name in _ATARI_WRAPPER_SETTINGS:
            settings[name] = value
        elif name not in _ATARI_WRAPPER_FIXED:
            raise UserError(f"AtariWrapper takes no argument {short(name)}")
        elif value != _ATARI_WRAPPER_FIXED[name]:
            raise UserError(
                f"{name} is always {_ATARI_WRAPPER_FIXED[name]} here, got {short(value)}"
            )
    return settings


def _calls_as_steps(config: Config) -> tuple[int, tuple[str, ...]]:
    return count_in_steps(config.train_freq, config.n_envs)


def _eps_of_batch(config: Config) -> tuple[float, tuple[str, ...]]:
    return 0.01 / config.batch_size, ()


def _defaults(**values: object) -> dict[str, Entry]:
    return {key: Entry(value, "default") for key, value in values.items()}


# Of versions 2.9, as far as they decide what is learned; RL-Zoo plays by the protocol zoo.
SB3 = Framework(
    "Stable-Baselines3",
    _defaults(
        protocol="zoo", n_envs=1, frame_stack=1, clip_reward=True, learning_starts=100,
        train_freq_later=None, gradient_steps=1, target_update_interval=10_000,
        buffer_size=1_000_000, batch_size=32, replay="uniform", n_steps=1, gamma=0.99,
        network="nature", layer_norm=False, channel_norm=False, he_init=False, dueling=False,
        mean_expansion=False, noisy_sigma=None, algorithm="replay", bootstrap="greedy",
        loss="huber", optimizer="adam", learning_rate=1e-4, optimizer_eps=1e-8, max_grad_norm=10.0,
        averaged_weights=0.0, exploration_fraction=0.1, exploration_initial_eps=1.0,
        exploration_final_eps=0.05, exploration_spread=0.0, exploration_zeta=0.0,
        exploration_zeta_share=1.0,
    )
    | {"train_freq": Entry(4, "default", _calls_as_steps)},
)  # fmt: skip
_CONTRIB = Framework(
    "sb3-contrib",
    {**SB3.defaults}
    | _defaults(
        loss="qrdqn", num_quantiles=200, huber_kappa=1.0, learning_rate=5e-5, max_grad_norm=None,
        exploration_fraction=0.005, exploration_final_eps=0.01,
    )
    | {"optimizer_eps": Entry(0.01 / 32, "default", _eps_of_batch)},
)  # fmt: skip
_FRAMEWORKS = {"dqn": SB3, "qrdqn": _CONTRIB}

_ATARI_WRAPPER_SETTINGS = (
    "noop_max", "terminal_on_life_loss", "clip_reward", "action_repeat_probability",
)  # fmt: skip
_ATARI_WRAPPER_FIXED = {"frame_skip": 4, "screen_size": 84}

_ENV_KWARGS_SETTINGS = {
    "repeat_action_probability": "action_repeat_probability",
    "max_num_frames_per_episode": "max_frames",
    "mode": "mode",
    "difficulty": "difficulty",
}

_MEANINGS: dict[str, Callable[[object], Meaning]] = {
    "policy": _policy,
    "policy_kwargs": _policy_kwargs,
    "env_wrapper": _env_wrapper,
    "env_kwargs": _env_kwargs,
    "normalize": _normalize,
    "replay_buffer_kwargs": _replay_buffer_kwargs,
    "tau": _tau,
    "train_freq": _train_freq,
    "gradient_steps": _gradient_steps,
    "double_q": _double_q,  # of the zoo before Stable-Baselines3
    "optimize_memory_usage": _no_effect("every frame is stored once anyway"),
    "monitor_kwargs": _no_effect("episodes.csv has every game"),
    "stats_window_size": _no_effect("means are over 100 games"),
    "verbose": _no_effect("--no-progress prints plain lines"),
    "vec_env_wrapper": _absent("wrappers of vectorized environments do not exist here"),
    "callback": _absent("callbacks do not exist here"),
    "replay_buffer_class": _absent("there is one replay memory"),
    "tensorboard_log": _absent("the folder is given with -tb/--tensorboard-log"),
}

RL_ZOO_KEYS = frozenset(_MEANINGS)
"""Keys that are RL-Zoo's, some of them ours as well."""
