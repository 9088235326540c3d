"""What a checkpoint says of an algorithm, checked before any of it is believed.

The numbers of a state hang together: every step became one transition or still waits, every update
was owed. One that was changed contradicts the others.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field

from dqn_zoo.algorithms.replay_plan import updates_owed
from dqn_zoo.schedules import LONGEST
from dqn_zoo.settings.config import Config
from dqn_zoo.system.saved import Count, Finite, Saved, require

Bits128 = Annotated[int, Field(ge=0, lt=2**128)]
Hex = Annotated[str, Field(pattern=r"^([0-9a-f]{2})*$", max_length=20_000)]
MOST_TARGETS = 10_000  # of a row; no setting allows more


class _Bits(Saved):
    state: Bits128
    inc: Bits128


class Generator(Saved):
    """numpy's PCG64."""

    bit_generator: Literal["PCG64"]
    state: _Bits
    has_uint32: Annotated[int, Field(ge=0, le=1)]
    uinteger: Annotated[int, Field(ge=0, lt=2**32)]


class Online(Saved):
    """The online network's metrics and generator."""

    sums: Annotated[list[float], Field(min_length=3, max_length=3)]
    num_summed: Count
    generator: Hex


class Counters(Saved):
    """What every algorithm counts."""

    steps: Count
    updates: Count


class _ReplayCounters(Counters):
    target_copies: Count


class _Accumulator(Saved):
    vector_steps: Count
    num_waiting: list[Count]
    observation: list[list[Count]]
    waiting_observation: list[list[list[Count]]]
    waiting_action: list[list[Count]]
    waiting_reward: list[list[Finite]]


class _Sampler(Saved):
    largest_priority: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


class _Memory(Saved):
    oldest: Count
    newest: Count
    frames_written: Count
    sampler: _Sampler


KeptUp = Annotated[list[Count], Field(min_length=2, max_length=2)]
"""A random action and the steps for which it is still kept up, in one environment."""


class ReplayState(Saved):
    """The state of `ReplayQ`."""

    counters: _ReplayCounters
    accumulator: _Accumulator
    learner: Online
    replay: _Memory
    exploration: Generator
    kept_up: list[KeptUp] = Field(default=[])
    replay_draws: Generator
    ready: list[Count] = Field(default=[], max_length=2)  # shape of the targets that wait


class ParallelState(Saved):
    """The state of `ParallelQ`."""

    counters: Counters
    online: Online
    exploration: Generator
    kept_up: list[KeptUp] = Field(default=[])
    shuffles: Generator


def check_replay_state(
    content: Mapping[str, Any], config: Config, num_actions: int, ring_size: int
) -> None:
    """Check the state of `ReplayQ` against its settings and against itself.

    Raises:
        ValueError: it was changed, or is of other settings; one line.
    """
    state = ReplayState.read(content)
    counters, memory, waits = state.counters, state.replay, state.accumulator
    envs, n_steps, stack = config.n_envs, config.n_steps, config.frame_stack
    steps, before = counters.steps, max(0, counters.steps - envs)
    require(steps == waits.vector_steps * envs, "counters.steps", steps)
    shapes = (
        (waits.observation, (envs, stack)),
        (waits.waiting_observation, (envs, n_steps, stack)),
        (waits.waiting_action, (envs, n_steps)),
        (waits.waiting_reward, (envs, n_steps)),
        (waits.num_waiting, (envs,)),
    )
    for values, shape in shapes:
        if not _has_shape(values, shape):
            raise ValueError("accumulator: it is of another n_envs, n_steps or frame_stack")
    last_id = min(memory.frames_written, ring_size)
    ids = [*waits.observation, *(row for rows in waits.waiting_observation for row in rows)]
    require(all(place <= last_id for row in ids for place in row), "accumulator", "a frame id")
    actions = [action for row in waits.waiting_action for action in row]
    require(all(action < num_actions for action in actions), "accumulator", "an action")
    require(max(waits.num_waiting) < n_steps, "accumulator.num_waiting", waits.num_waiting)
    _check_kept_up(state.kept_up, envs, num_actions)
    # Every step leaves as one row, once.
    require(memory.newest == steps - sum(waits.num_waiting), "replay.newest", memory.newest)
    kept = memory.newest - memory.oldest
    require(0 <= kept <= config.buffer_size, "replay.oldest", memory.oldest)
    # One frame a step, and one more for every game that begins.
    written = memory.frames_written
    require(steps + envs <= written <= 2 * steps + envs, "replay.frames_written", written)
    # Updates are made after a step was sent; without rows they wait.
    owed = (updates_owed(config, before), updates_owed(config, steps))
    may_wait = kept == 0 or config.buffer_size <= 4 * envs * n_steps or before <= envs * n_steps
    require(counters.updates <= owed[1], "counters.updates", counters.updates)
    require(counters.updates >= owed[0] or may_wait, "counters.updates", counters.updates)
    if state.ready:
        _check_ready(state.ready, config)
    copies, interval = counters.target_copies, config.target_update_interval
    require(before // interval <= copies <= steps // interval, "counters.target_copies", copies)


def check_parallel_state(
    content: Mapping[str, Any], config: Config, num_actions: int, *, length: int
) -> None:
    """Check the state of `ParallelQ`; `length`: vector steps in its rollout.

    Raises:
        ValueError: it was changed, or is of other settings; one line.
    """
    state = ParallelState.read(content)
    counters = state.counters
    _check_kept_up(state.kept_up, config.n_envs, num_actions)
    steps, updates = counters.steps, counters.updates
    vector_steps, rest = divmod(steps, config.n_envs)
    require(rest == 0, "counters.steps", steps)
    rounds, place = divmod(vector_steps, config.rollout_steps)
    full = length == config.rollout_steps and place == 0 and rounds > 0
    require(full or length == place, "counters.steps", steps)
    done = rounds - (1 if full else 0)
    require(
        updates == done * config.num_epochs * config.num_minibatches, "counters.updates", updates
    )


def _check_kept_up(kept_up: list[list[int]], num_envs: int, num_actions: int) -> None:
    require(len(kept_up) in (0, num_envs), "kept_up", len(kept_up))
    require(all(action < num_actions for action, _ in kept_up), "kept_up", "an action")
    require(all(left < LONGEST for _, left in kept_up), "kept_up", "a number of steps")


def _check_ready(shape: list[int], config: Config) -> None:
    """Check the numbers of rows and of targets in each; how many IQN draws may have changed."""
    rows, *targets = shape
    known = {"huber": [], "squared": [], "c51": [config.num_atoms], "qrdqn": [config.num_quantiles]}
    require(1 <= rows <= config.buffer_size, "ready", rows)
    require(targets == known.get(config.loss, targets), "ready", targets)
    require(all(number <= MOST_TARGETS for number in targets), "ready", targets)


def _has_shape(values: Any, shape: tuple[int, ...]) -> bool:
    if len(values) != shape[0]:
        return False
    return len(shape) == 1 or all(_has_shape(value, shape[1:]) for value in values)
