"""The settings of a run: their names, units, ranges and defaults.

YAML keys keep the names of RL-Zoo where RL-Zoo has one. A *step* is one decision of the agent in
one environment (4 emulator frames); every step count here is summed over environments.
"""

import functools
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from dqn_zoo.errors import UserError, short


def _whole_number(value: object) -> object:
    """Let 1e7 stand for 10000000; everything else is left to the strict check."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _list_as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


LARGEST = 10**12  # of what counts steps, updates, transitions or pixels: nobody has time for more
LARGEST_SEED = 2**32 - 1

PositiveInt = Annotated[int, Field(ge=1, le=LARGEST), BeforeValidator(_whole_number)]
Count = Annotated[int, Field(ge=0, le=LARGEST), BeforeValidator(_whole_number)]
EnvCount = Annotated[int, Field(ge=1, le=4_096), BeforeValidator(_whole_number)]
NoopCount = Annotated[int, Field(ge=0, le=1_000), BeforeValidator(_whole_number)]
ThreadCount = Annotated[int, Field(ge=0, le=1_024), BeforeValidator(_whole_number)]
Width = Annotated[int, Field(ge=1, le=64), BeforeValidator(_whole_number)]
RewardCount = Annotated[int, Field(ge=1, le=1_000), BeforeValidator(_whole_number)]
AtomCount = Annotated[int, Field(ge=2, le=10_000), BeforeValidator(_whole_number)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED), BeforeValidator(_whole_number)]
PoolSize = Annotated[int, Field(ge=1, le=11), BeforeValidator(_whole_number)]
StackSize = Annotated[int, Field(ge=1, le=32), BeforeValidator(_whole_number)]
FrameCount = Annotated[int, Field(ge=1, le=2**31 - 1), BeforeValidator(_whole_number)]
QuantileCount = Annotated[int, Field(ge=1, le=10_000), BeforeValidator(_whole_number)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Margins = Annotated[tuple[Count, Count, Count, Count], BeforeValidator(_list_as_tuple)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0, allow_inf_nan=False)]
FallingRate = Annotated[str, Field(pattern=r"^lin_(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?$")]

ProtocolName = Literal["zoo", "machado", "sb3"]


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
    n_envs: EnvCount = Field(default=1, description="environments stepped together")
    frame_stack: StackSize = Field(default=4, description="frames in one observation")
    crop: Margins | None = Field(
        default=None,
        description="rows and columns cut off before the resize: [top, bottom, left, right]; "
        "served by the gymnasium backend",
    )

    # Departures from the protocol; null keeps the protocol's value
    noop_max: NoopCount | None = Field(default=None, description="most no-ops at a reset")
    action_repeat_probability: Fraction | None = Field(
        default=None,
        description="chance that the emulator repeats the last action (sticky actions)",
    )
    terminal_on_life_loss: bool | None = Field(
        default=None, description="a lost life ends the bootstrap in training; the game goes on"
    )
    max_frames: FrameCount | None = Field(
        default=None, description="emulator frames after which a game is cut off (truncated)"
    )
    mode: Count | None = Field(
        default=None,
        description="the game's mode, by its number in ALE; served by the gymnasium backend",
    )
    difficulty: Count | None = Field(
        default=None,
        description="the game's difficulty, by its number in ALE; served by the gymnasium backend",
    )
    clip_reward: bool = Field(default=True, description="learn from the sign of the reward")

    # How long, and counted how
    n_timesteps: PositiveInt = Field(default=10_000_000, description="steps of the run")
    learning_starts: Count = Field(
        default=100_000, description="steps of random play before the first update"
    )
    train_freq: PositiveInt = Field(default=4, description="steps between rounds of updates")
    train_freq_later: PositiveInt | None = Field(
        default=None,
        description="steps between rounds of updates from the middle of n_timesteps on; null: "
        "train_freq to the end",
    )
    gradient_steps: PositiveInt = Field(default=1, description="updates in each round")
    target_update_interval: PositiveInt = Field(
        default=1_000, description="steps between copies of the online to the target network"
    )

    # Replay
    buffer_size: PositiveInt = Field(default=100_000, description="transitions kept")
    batch_size: PositiveInt = Field(default=32, description="transitions in one update")
    replay: Literal["uniform", "prioritized"] = Field(
        default="uniform", description="how transitions are drawn"
    )
    priority_exponent: Fraction = Field(
        default=0.5, description="alpha: 0 draws uniformly; replay prioritized"
    )
    priority_weight_initial: Fraction = Field(
        default=0.4,
        description="beta at step 0: share of the bias that weights undo; replay prioritized",
    )
    priority_weight_final: Fraction = Field(
        default=1.0, description="beta at n_timesteps, reached linearly; replay prioritized"
    )
    priority_floor: PositiveFloat = Field(
        default=1e-6, description="added to every priority; replay prioritized"
    )
    n_steps: RewardCount = Field(default=1, description="rewards summed before the bootstrap")
    gamma: Fraction = Field(default=0.99, description="discount per step")

    # Network
    network: Literal["nature", "small", "impala"] = Field(
        default="nature", description="torso of the network"
    )
    network_width: Width = Field(
        default=1, description="factor on the channels of the impala torso"
    )
    network_pool: PoolSize | None = Field(
        default=None, description="side of an adaptive max-pool behind the impala torso; null: none"
    )
    layer_norm: bool = Field(
        default=False, description="layer normalisation in the head and in an impala torso"
    )
    channel_norm: bool = Field(
        default=False,
        description="normalisation over the channels behind each convolution of the nature and "
        "small torsos",
    )
    he_init: bool = Field(
        default=False,
        description="first weights from He's normal distribution, not from PyTorch's default",
    )
    spectral_norm: bool = Field(
        default=False, description="spectral normalisation of the impala torso's residual blocks"
    )
    dueling: bool = Field(
        default=False, description="dueling network: a stream for the state, one for the actions"
    )
    mean_expansion: bool = Field(
        default=False,
        description="plain head: to each action's output the sum of all actions' outputs is added",
    )
    noisy_sigma: NonNegativeFloat | None = Field(
        default=None, description="initial noise of noisy layers in the head; null: plain layers"
    )

    # Learning rule
    algorithm: str = Field(
        default="replay",
        description="replay: minibatches from a memory, and a target network (DQN and its family); "
        "parallel: from rollouts of many environments (PQN)",
    )
    rollout_steps: PositiveInt = Field(
        default=32, description="vector steps between rounds of updates; algorithm parallel"
    )
    td_lambda: Fraction = Field(
        default=0.65,
        description="lambda of the returns: 0 looks one step ahead, 1 to the end of the rollout; "
        "algorithm parallel",
    )
    num_epochs: PositiveInt = Field(
        default=2, description="passes over each rollout; algorithm parallel"
    )
    num_minibatches: PositiveInt = Field(
        default=32, description="updates in each pass; algorithm parallel"
    )
    bootstrap: Literal["greedy", "double", "soft"] = Field(
        default="greedy",
        description="next action in the target: the target network's best, the online network's "
        "best (Double DQN), or a softmax with Munchausen's bonus",
    )
    munchausen_alpha: Fraction = Field(
        default=0.9, description="share of the log-policy added to the reward; bootstrap soft"
    )
    munchausen_temperature: PositiveFloat = Field(
        default=0.03, description="temperature of the softmax; bootstrap soft"
    )
    munchausen_clip: Annotated[float, Field(le=0.0, allow_inf_nan=False)] = Field(
        default=-1.0, description="lowest log-policy term, before its share; bootstrap soft"
    )
    loss: Literal["huber", "squared", "c51", "qrdqn", "iqn"] = Field(
        default="huber", description="what is learned: values, or their distribution"
    )
    num_atoms: AtomCount = Field(
        default=51, description="equally spaced returns of the distribution; loss c51"
    )
    v_min: Finite = Field(default=-10.0, description="smallest of those returns; loss c51")
    v_max: Finite = Field(default=10.0, description="largest of those returns; loss c51")
    num_quantiles: QuantileCount = Field(
        default=200, description="quantiles learned in an update; losses qrdqn and iqn"
    )
    num_target_quantiles: QuantileCount = Field(
        default=64, description="quantiles of the target; loss iqn"
    )
    num_acting_quantiles: QuantileCount = Field(
        default=32, description="quantiles averaged to choose an action; loss iqn"
    )
    num_cosines: QuantileCount = Field(
        default=64, description="cosines that embed a quantile fraction; loss iqn"
    )
    huber_kappa: NonNegativeFloat = Field(
        default=1.0, description="where the quantile loss turns linear; losses qrdqn and iqn"
    )
    optimizer: Literal["adam", "radam", "rmsprop"] = Field(default="adam", description="optimizer")
    learning_rate: PositiveFloat | FallingRate = Field(
        default=1e-4, description="step size; 'lin_1e-4' falls linearly to 0 over n_timesteps"
    )
    optimizer_eps: PositiveFloat = Field(default=1e-8, description="epsilon in the optimizer")
    max_grad_norm: PositiveFloat | None = Field(
        default=10.0, description="gradients are clipped to this norm; null: not clipped"
    )
    averaged_weights: Decay = Field(
        default=0.0,
        description="decay per update of an average of the weights, which evaluations, films and "
        "shared agents play instead of the last ones; 0: none",
    )

    # Exploration
    exploration_fraction: Fraction = Field(
        default=0.1, description="share of n_timesteps over which epsilon falls"
    )
    exploration_initial_eps: Fraction = Field(default=1.0, description="epsilon at step 0")
    exploration_final_eps: Fraction = Field(default=0.05, description="epsilon after the fall")
    exploration_spread: NonNegativeFloat = Field(
        default=0.0,
        description="alpha: environment i of N (from 0) ends at exploration_final_eps ** (1 + "
        "alpha * i / (N - 1)); 0: all at exploration_final_eps",
    )
    exploration_zeta: NonNegativeFloat = Field(
        default=0.0,
        description="a random action lasts n steps, chances like n ** -exploration_zeta; 0: one",
    )
    exploration_zeta_share: Fraction = Field(
        default=1.0, description="share of the environments in which exploration_zeta plays a part"
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
        "null: 100,000 on a CPU, on a GPU a tenth of the run, from 100,000 to 1,000,000",
    )

    # The machine
    seed: Seed | None = Field(default=None, description="seed of the run; null: drawn and printed")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        default="auto",
        description="where the networks live; auto: on a CUDA GPU where there is one; mps: "
        "Apple's GPU, not measured",
    )
    num_threads: ThreadCount = Field(
        default=0,
        description="threads of PyTorch; 0: `OMP_NUM_THREADS`, or what `dqn-train` finds the "
        "fastest when it starts",
    )
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        default="float32",
        description="arithmetic of the networks; auto: bfloat16 where the GPU (compute "
        "capability 8.0) or the CPU multiplies in it",
    )
    targets_ahead: Literal["auto", "never"] = Field(
        default="never",
        description="a second thread draws each minibatch and computes its targets during the "
        "update before; auto: on a CPU, with uniform replay, without noisy layers and "
        "spectral_norm",
    )
    cuda_graph: Literal["auto", "never"] = Field(
        default="auto",
        description="updates on a GPU are recorded once as a CUDA graph and repeated; auto: unless "
        "that fails or gives other numbers than eager updates",
    )
    compiled_torso: Literal["auto", "never"] = Field(
        default="never",
        description="updates on a GPU compile the impala torso, half a minute once; auto: unless "
        "that fails",
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
            else f"unknown key {short(key)}; {nearest_key(key)}"
        )
    origin = (origins or {}).get(key)
    raise UserError(problem if origin is None else f"{origin}: {problem}")


def nearest_key(key: str) -> str:
    """Return a hint for a key that does not exist."""
    near = get_close_matches(key, Config.model_fields, n=1)
    return f"did you mean {near[0]}?" if near else "--print-config of dqn-train lists the keys"


def accepted_values(key: str) -> str:
    """Say in words what a key takes: "a whole number of at least 1", "a number from 0 to 1"."""
    schema = _schemas()[key]
    return ", or ".join(_in_words(option) for option in schema.get("anyOf", [schema]))


@functools.cache
def _schemas() -> dict[str, Any]:
    """Return the JSON schema of every key; making them takes 20 ms."""
    properties: dict[str, Any] = Config.model_json_schema()["properties"]
    return properties


def initial_learning_rate(config: Config) -> float:
    """Return the learning rate of the first update, whether it is constant or falls."""
    if isinstance(config.learning_rate, str):
        return float(config.learning_rate.removeprefix("lin_"))
    return config.learning_rate


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
    if schema.get("maximum") == LARGEST:
        schema = {"minimum": schema["minimum"]}
    match schema:
        case {"exclusiveMinimum": bound}:
            return f" above {bound:g}"
        case {"minimum": low, "exclusiveMaximum": bound}:
            return f" from {low:g} to below {bound:g}"
        case {"minimum": low, "maximum": high}:
            return f" from {low:,g} to {high:,.10g}"
        case {"minimum": low}:
            return f" of at least {low:g}"
        case {"maximum": high}:
            return f" of at most {high:g}"
    return ""


def _shown(value: object) -> str:
    """Show a value as YAML would: true, null, 'text'; long ones shortened."""
    names: dict[object, str] = {True: "true", False: "false", None: "null"}
    text = names[value] if value is None or isinstance(value, bool) else short(value)
    return text if len(text) <= 60 else text[:57] + "..."
