"""The settings of a run: their names, units, ranges and defaults.

YAML keys keep the names of RL-Zoo where RL-Zoo has one. A *step* is one decision of the agent in one
environment (4 emulator frames); every step count here is summed over environments.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

PositiveInt = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]

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
    n_envs: PositiveInt = Field(default=1, description="environments stepped together")
    frame_stack: PositiveInt = Field(default=4, description="frames in one observation")
    crop: tuple[Count, Count, Count, Count] | None = Field(
        default=None,
        description="rows and columns cut off before the resize: [top, bottom, left, right]; "
        "served by the gymnasium backend",
    )

    # Departures from the protocol; null keeps the protocol's value
    noop_max: Count | None = Field(default=None, description="most no-ops at a reset")
    action_repeat_probability: Fraction | None = Field(
        default=None, description="chance that the emulator repeats the last action (sticky actions)"
    )
    terminal_on_life_loss: bool | None = Field(
        default=None, description="a lost life ends the bootstrap in training; the game goes on"
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
    learning_rate: PositiveFloat | str = Field(
        default=1e-4, description="step size; 'lin_1e-4' falls linearly to 0 over n_timesteps"
    )
    optimizer_eps: PositiveFloat = Field(default=1e-8, description="epsilon in the optimizer")
    max_grad_norm: PositiveFloat = Field(default=10.0, description="gradients are clipped to it")

    # Exploration
    exploration_fraction: Fraction = Field(
        default=0.1, description="share of n_timesteps over which epsilon falls"
    )
    exploration_initial_eps: Fraction = Field(default=1.0, description="epsilon at step 0")
    exploration_final_eps: Fraction = Field(default=0.05, description="epsilon at the end of the fall")

    # Evaluation, logs and checkpoints
    eval_freq: Count = Field(default=25_000, description="steps between evaluations; 0: never")
    eval_episodes: PositiveInt = Field(default=5, description="full games in one evaluation")
    eval_epsilon: Fraction | None = Field(
        default=None, description="epsilon in evaluation; null: the protocol's"
    )
    log_interval: PositiveInt = Field(default=1_000, description="steps between rows of progress.csv")
    save_freq: Count | None = Field(
        default=None,
        description="steps between checkpoints; 0: only at the end; "
        "null: 100,000 on a CPU, 1,000,000 on a GPU",
    )

    # The machine
    seed: Count | None = Field(default=None, description="seed of the run; null: drawn and printed")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="where the networks live")
    num_threads: Count = Field(default=0, description="threads of PyTorch; 0: chosen from the cores")
    precision: Literal["float32", "bfloat16", "auto"] = Field(
        default="float32",
        description="arithmetic of the networks; auto: bfloat16 where the CPU multiplies in it",
    )
