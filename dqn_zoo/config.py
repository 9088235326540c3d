"""The settings of a run: their names, units, ranges and defaults.

YAML keys keep the names of RL-Zoo where RL-Zoo has one. A *step* is one decision of the agent in
one environment (4 emulator frames); every step count here is summed over environments.
"""

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dqn_zoo.errors import UserError


def _whole_number(value: object) -> object:
    """Let 1e7 stand for 10000000; everything else is left to the strict check."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _list_as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


PositiveInt = Annotated[int, Field(ge=1), BeforeValidator(_whole_number)]
Count = Annotated[int, Field(ge=0), BeforeValidator(_whole_number)]
Seed = Annotated[int, Field(ge=0, le=2**32 - 1), BeforeValidator(_whole_number)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Margins = Annotated[tuple[Count, Count, Count, Count], BeforeValidator(_list_as_tuple)]
LinearSchedule = Annotated[str, Field(pattern=r"^lin_(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")]

ProtocolName = Literal["zoo", "machado", "sb3"]

SCREEN_ROWS, SCREEN_COLUMNS = 210, 160


class Config(BaseModel):
    """Every setting of a run, with the built-in default of each."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    # What is played
    env: str = Field(default="SpaceInvaders", description="game, by its name in ale-py's CamelCase")
    algo: str = Field(default="dqn", description="recipe the settings started from")
    protocol: ProtocolName = Field(default="zoo", description="evaluation and training protocol")
    backend: Literal["auto", "vector", "gymnasium"] = Field(
        default="auto", description="emulator backend; auto takes vector wherever it can serve"
    )
    n_envs: PositiveInt = Field(default=1, description="environments stepped together")
    frame_stack: PositiveInt = Field(default=4, description="frames in one observation")
    crop: Margins | None = Field(
        default=None,
        description="rows and columns cut off before the resize: [top, bottom, left, right]; "
        "served by the gymnasium backend",
    )

    # Departures from the protocol; null keeps the protocol's value
    noop_max: Count | None = Field(default=None, description="most no-ops at a reset")
    action_repeat_probability: Fraction | None = Field(
        default=None,
        description="chance that the emulator repeats the last action (sticky actions)",
    )
    terminal_on_life_loss: bool | None = Field(
        default=None, description="a lost life ends the bootstrap in training; the game goes on"
    )
    max_frames: PositiveInt | None = Field(
        default=None, description="emulator frames after which a game is cut off (truncated)"
    )
    clip_reward: bool = Field(default=True, description="learn from the sign of the reward")

    # How long, and counted how
    n_timesteps: PositiveInt = Field(default=10_000_000, description="steps of the run")
    learning_starts: Count = Field(
        default=100_000, description="steps of uniformly random play before the first update"
    )
    train_freq: PositiveInt = Field(default=4, description="steps between rounds of updates")
    gradient_steps: PositiveInt = Field(default=1, description="updates in each round")
    target_update_interval: PositiveInt = Field(
        default=1_000, description="steps between copies of the online to the target network"
    )

    # Replay
    buffer_size: PositiveInt = Field(default=100_000, description="transitions kept")
    batch_size: PositiveInt = Field(default=32, description="transitions in one update")
    n_steps: PositiveInt = Field(default=1, description="rewards summed before the bootstrap")
    gamma: Fraction = Field(default=0.99, description="discount per step")

    # Network and learning rule
    network: Literal["nature"] = Field(default="nature", description="torso of the network")
    double_q: bool = Field(
        default=False, description="Double DQN: the online network picks the next action"
    )
    loss: Literal["huber", "squared"] = Field(default="huber", description="loss of the TD error")
    optimizer: Literal["adam", "rmsprop"] = Field(default="adam", description="optimizer")
    learning_rate: PositiveFloat | LinearSchedule = Field(
        default=1e-4, description="step size; 'lin_1e-4' falls linearly to 0 over n_timesteps"
    )
    optimizer_eps: PositiveFloat = Field(default=1e-8, description="epsilon in the optimizer")
    max_grad_norm: PositiveFloat = Field(default=10.0, description="gradients are clipped to it")

    # Exploration
    exploration_fraction: Fraction = Field(
        default=0.1, description="share of n_timesteps over which epsilon falls"
    )
    exploration_initial_eps: Fraction = Field(default=1.0, description="epsilon at step 0")
    exploration_final_eps: Fraction = Field(
        default=0.05, description="epsilon at the end of the fall"
    )

    # Evaluation, logs and checkpoints
    eval_freq: Count = Field(default=25_000, description="steps between evaluations; 0: never")
    eval_episodes: PositiveInt = Field(default=5, description="full games in one evaluation")
    eval_epsilon: Fraction | None = Field(
        default=None, description="epsilon in evaluation; null: the protocol's"
    )
    log_interval: PositiveInt = Field(
        default=1_000, description="steps between rows of progress.csv"
    )
    save_freq: Count | None = Field(
        default=None,
        description="steps between checkpoints; 0: only at the end; "
        "null: 100,000 on a CPU, 1,000,000 on a GPU",
    )

    # The machine
    seed: Seed | None = Field(default=None, description="seed of the run; null: drawn and printed")
    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="where the networks live"
    )
    num_threads: Count = Field(
        default=0, description="threads of PyTorch; 0: chosen from the cores"
    )
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        default="float32",
        description="arithmetic of the networks; auto: bfloat16 where the CPU multiplies in it",
    )


def build_config(values: Mapping[str, object], origins: Mapping[str, str] | None = None) -> Config:
    """Make a Config; keys that are not given keep their built-in default.

    Args:
        values: plain values by key, as YAML gives them: 1e7 is a whole number, true is not.
        origins: where the value of each key came from, to name it in errors ("dqn.yml, line 4").

    Raises:
        UserError: an unknown key, or a value of the wrong type or out of range.
    """
    try:
        return Config.model_validate(dict(values))
    except ValidationError as error:
        key = str(error.errors(include_url=False)[0]["loc"][0])
        problem = (
            f"{key} must be {accepted_values(key)}, got {_shown(values[key])}"
            if key in Config.model_fields
            else f"unknown key {key!r}; {nearest_key(key)}"
        )
    origin = (origins or {}).get(key)
    raise UserError(problem if origin is None else f"{origin}: {problem}")


def nearest_key(key: str) -> str:
    """Return a hint for a key that does not exist."""
    near = get_close_matches(key, Config.model_fields, n=1)
    return f"did you mean {near[0]}?" if near else "dqn-train --print-config lists the keys"


def accepted_values(key: str) -> str:
    """Say in words what a key takes: "a whole number of at least 1", "a number from 0 to 1"."""
    schema = Config.model_json_schema()["properties"][key]
    return ", or ".join(_in_words(option) for option in schema.get("anyOf", [schema]))


def initial_learning_rate(config: Config) -> float:
    """Return the learning rate of the first update, whether it is constant or falls."""
    if isinstance(config.learning_rate, str):
        return float(config.learning_rate.removeprefix("lin_"))
    return config.learning_rate


class Finding(NamedTuple):
    """Settings that do not go together: the keys involved and what is wrong with them."""

    keys: tuple[str, ...]
    text: str


def contradictions(config: Config) -> Iterator[Finding]:
    """Yield the combinations that cannot run."""
    if config.learning_starts >= config.n_timesteps:
        yield Finding(
            ("learning_starts", "n_timesteps"),
            f"learning_starts must be below n_timesteps, got {config.learning_starts:,} of "
            f"{config.n_timesteps:,} steps: the run would end before it learns; lower "
            "learning_starts or raise n_timesteps",
        )
    if config.batch_size > config.buffer_size:
        yield Finding(
            ("batch_size", "buffer_size"),
            f"batch_size must be at most buffer_size, got {config.batch_size:,} of "
            f"{config.buffer_size:,} transitions; raise buffer_size",
        )
    if not 0.0 < initial_learning_rate(config) < float("inf"):
        yield Finding(
            ("learning_rate",),
            f"learning_rate must start above 0 and finite, got {config.learning_rate}",
        )
    if config.backend == "vector" and config.protocol == "sb3":
        yield Finding(
            ("backend", "protocol"),
            "protocol sb3 plays with the gymnasium backend, got backend vector; "
            "set backend to auto or gymnasium",
        )
    if config.crop is not None:
        yield from _crop_contradictions(config, config.crop)


def check(config: Config) -> None:
    """Refuse settings that contradict each other.

    Raises:
        UserError: the first contradiction.
    """
    for finding in contradictions(config):
        raise UserError(finding.text)


def warnings(config: Config) -> list[str]:
    """Return one line for each combination that runs but is probably not meant."""
    return list(_doubts(config))


def _doubts(config: Config) -> Iterator[str]:
    exploration_end = int(config.exploration_fraction * config.n_timesteps)
    if exploration_end <= config.learning_starts:
        yield (
            f"epsilon reaches {config.exploration_final_eps:g} at step {exploration_end:,}, before "
            f"learning starts at step {config.learning_starts:,}: the whole fall is spent on "
            "random play; raise exploration_fraction or lower learning_starts"
        )
    if config.exploration_final_eps > config.exploration_initial_eps:
        yield (
            f"epsilon rises from {config.exploration_initial_eps:g} to "
            f"{config.exploration_final_eps:g}: exploration_initial_eps is usually the larger"
        )
    if config.buffer_size < config.learning_starts:
        yield (
            f"buffer_size {config.buffer_size:,} is below learning_starts "
            f"{config.learning_starts:,}: the first transitions are overwritten before any update"
        )
    if config.learning_starts < config.batch_size:
        yield (
            f"learning_starts {config.learning_starts:,} is below batch_size "
            f"{config.batch_size:,}: the first updates repeat a few transitions"
        )
    if config.learning_starts + config.target_update_interval > config.n_timesteps:
        yield (
            f"target_update_interval {config.target_update_interval:,} leaves no copy to the "
            f"target network between learning_starts {config.learning_starts:,} and the end of "
            f"the run at step {config.n_timesteps:,}"
        )


def _crop_contradictions(config: Config, crop: tuple[int, int, int, int]) -> Iterator[Finding]:
    top, bottom, left, right = crop
    if top + bottom >= SCREEN_ROWS or left + right >= SCREEN_COLUMNS:
        yield Finding(
            ("crop",),
            f"crop must leave rows and columns of a screen of {SCREEN_ROWS} x {SCREEN_COLUMNS}, "
            f"got {list(crop)} ([top, bottom, left, right])",
        )
    if config.backend == "vector":
        yield Finding(
            ("backend", "crop"),
            "crop is served by the gymnasium backend, got backend vector; "
            "set backend to auto or gymnasium",
        )


def _in_words(schema: dict[str, Any]) -> str:
    """Put one JSON schema of a plain value into words."""
    if "enum" in schema:
        return "one of " + ", ".join(schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    match schema["type"]:
        case "integer":
            return "a whole number" + _range_in_words(schema)
        case "number":
            return "a number" + _range_in_words(schema)
        case "boolean":
            return "true or false"
        case "array":
            item = _in_words(schema["prefixItems"][0])
            return f"a list of {schema['minItems']} numbers, each {item}"
        case "string":
            return "text like lin_1e-4" if "pattern" in schema else "text"
        case other:
            return str(other)


def _range_in_words(schema: dict[str, Any]) -> str:
    if "exclusiveMinimum" in schema:
        return f" above {schema['exclusiveMinimum']:g}"
    if "maximum" in schema:
        return f" from {schema['minimum']:,g} to {schema['maximum']:,.10g}"
    return f" of at least {schema['minimum']:g}"


def _shown(value: object) -> str:
    """Show a value as YAML would: true, null, 'text'; long ones shortened."""
    names: dict[object, str] = {True: "true", False: "false", None: "null"}
    text = names[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
