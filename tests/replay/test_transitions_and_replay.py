"""The path from steps to batches against a naive twin that keeps everything."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.streams import STACK, Stream, naive_transitions, numbers

from dqn_zoo.envs.environments import EnvStep
from dqn_zoo.replay.frame_files import (
    CHUNK_FRAMES,
    _chunks,
    _read_chunk,
    compressed_frames,
    restore_frames,
)
from dqn_zoo.replay.memory import FrameStore, Replay
from dqn_zoo.replay.samplers import SAMPLERS, build_sampler
from dqn_zoo.replay.shape import ReplayShape
from dqn_zoo.replay.sum_tree import SumTree
from dqn_zoo.replay.transitions import Transition, TransitionAccumulator, TransitionRule
from dqn_zoo.settings.config import Config

CPU = torch.device("cpu")
GAMMA = 0.9


def build(
    num_envs: int,
    n_steps: int,
    capacity: int,
    *,
    life_stops: bool = True,
    sampler: str = "uniform",
):
    shape = ReplayShape(capacity, num_envs, n_steps, STACK)
    config = Config(replay=sampler, buffer_size=capacity)
    replay = Replay(shape, build_sampler(config, CPU), CPU)
    rule = TransitionRule(n_steps, GAMMA, True, life_stops)
    return replay, TransitionAccumulator(num_envs, STACK, rule, replay.frames.append)


def pixels_of(replay: Replay, ids: np.ndarray) -> list[list[int]]:
    return numbers(replay.frames.gather(torch.from_numpy(ids)).numpy())


def entries(stream_stacks, step: EnvStep) -> list[dict]:
    return [
        {
            "observation": stream_stacks[env],
            "action": int(step.action[env]),
            "reward": float(step.reward[env]),
            "next_observation": numbers(step.next_observation[env : env + 1])[0],
            "terminated": bool(step.terminated[env]),
            "truncated": bool(step.truncated[env]),
            "life_lost": bool(step.life_lost[env]),
            "restarted": bool(step.restarted[env]),
        }
        for env in range(len(step.action))
    ]


def key(observation, action, reward, discount, following):
    return (*observation, action, round(reward, 5), round(discount, 6), *following)


def keys_of_rows(replay: Replay, rows: Transition) -> list[tuple]:
    if len(rows.action) == 0:
        return []
    before = pixels_of(replay, rows.observation)
    after = pixels_of(replay, rows.next_observation)
    return [
        key(before[row], int(rows.action[row]), float(rows.reward[row]), float(rows.discount[row]),
            after[row])
        for row in range(len(rows.action))
    ]  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(
    num_envs=st.integers(1, 4),
    n_steps=st.integers(1, 5),
    life_stops=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
)
def test_transitions_equal_the_naive_reading_of_the_history(num_envs, n_steps, life_stops, seed):
    stream = Stream(num_envs, np.random.default_rng(seed), end_chance=0.2, life_chance=0.2)
    replay, accumulator = build(num_envs, n_steps, 10_000, life_stops=life_stops)
    accumulator.reset(stream.reset())
    histories: list[list[dict]] = [[] for _ in range(num_envs)]
    found = []
    for _ in range(30):
        stacks = [list(stack) for stack in stream.stacks]
        step = stream.step()
        for history, entry in zip(histories, entries(stacks, step), strict=True):
            history.append(entry)
        rows = accumulator.add(step)
        replay.add(rows)
        found += keys_of_rows(replay, rows)
    expected = [
        key(row.observation, row.action, row.reward, row.discount, row.next_observation)
        for history in histories
        for row in naive_transitions(history, n_steps=n_steps, gamma=GAMMA, life_stops=life_stops)
    ]
    assert sorted(found) == sorted(expected)
    assert len(found) > 0


@settings(max_examples=25, deadline=None)
@given(
    num_envs=st.integers(1, 4),
    n_steps=st.sampled_from([1, 3, 5]),
    capacity=st.integers(5, 50),
    end_chance=st.sampled_from([0.02, 0.5, 0.95]),
    sampler=st.sampled_from(sorted(SAMPLERS)),
    seed=st.integers(0, 2**32 - 1),
)
def test_no_valid_row_ever_shows_an_overwritten_frame(
    num_envs, n_steps, capacity, end_chance, sampler, seed
):
    stream = Stream(num_envs, np.random.default_rng(seed), end_chance=end_chance)
    replay, accumulator = build(num_envs, n_steps, capacity, sampler=sampler)
    accumulator.reset(stream.reset())
    twin: list[tuple] = []
    draws = np.random.default_rng(seed + 1)
    for _ in range(70):
        rows = accumulator.add(stream.step())
        replay.add(rows)
        twin += keys_of_rows(replay, rows)
        assert len(replay) <= capacity
        if len(replay) == 0:
            continue
        batch = replay.sample(8, draws)
        before, after = numbers(batch.observation.numpy()), numbers(batch.next_observation.numpy())
        state = replay.state()
        for row, place in enumerate(batch.rows):
            valid = range(state["oldest"], state["newest"])
            (number,) = [k for k in valid if k % capacity == place]
            drawn = key(before[row], int(batch.action[row]), float(batch.reward[row]),
                        float(batch.discount[row]), after[row])  # fmt: skip
            assert drawn == twin[number]
        replay.update_priorities(batch.rows, torch.from_numpy(draws.random(8)))
    assert len(twin) == replay.state()["newest"]


def test_of_more_rows_than_fit_the_last_ones_stay():
    stream = Stream(9, np.random.default_rng(4), end_chance=1.0)  # each step ends nine games
    replay, accumulator = build(9, 1, 4)
    accumulator.reset(stream.reset())
    rows = accumulator.add(stream.step())
    assert len(rows.action) == 9
    added = []
    replay._sampler.add = lambda places: added.append(places.tolist())
    replay.add(rows)
    assert added == [[1, 2, 3, 0]]  # each place once: rows 5 to 8
    for row, place in zip(range(5, 9), added[0], strict=True):
        for name, values in rows._asdict().items():
            assert (replay._rows[name][place].numpy() == values[row]).all(), (name, row)


def test_a_buffer_in_normal_play_keeps_nearly_its_capacity():
    stream = Stream(2, np.random.default_rng(3), end_chance=0.002, life_chance=0.01)
    replay, accumulator = build(2, 3, 400)
    accumulator.reset(stream.reset())
    for _ in range(600):
        replay.add(accumulator.add(stream.step()))
    assert 390 <= len(replay) <= 400


def one_step(**changes) -> EnvStep:
    values = {
        "observation": np.zeros((1, STACK, 84, 84), np.uint8),
        "next_observation": np.zeros((1, STACK, 84, 84), np.uint8),
        "action": np.array([2]),
        "reward": np.array([5.0], np.float32),
        "terminated": np.array([False]),
        "truncated": np.array([False]),
        "life_lost": np.array([False]),
        "restarted": np.array([False]),
    }
    return EnvStep(**(values | {name: np.array([value]) for name, value in changes.items()}))


@pytest.mark.parametrize(
    ("ending", "life_stops", "discount"),
    [
        ({}, True, GAMMA),
        ({"terminated": True, "restarted": True}, True, 0.0),
        ({"truncated": True, "restarted": True}, True, GAMMA),
        ({"life_lost": True}, True, 0.0),
        ({"life_lost": True}, False, GAMMA),
    ],
)
def test_truncation_keeps_the_bootstrap_and_termination_stops_it(ending, life_stops, discount):
    _, accumulator = build(1, 1, 100, life_stops=life_stops)
    accumulator.reset(np.zeros((1, STACK, 84, 84), np.uint8))
    rows = accumulator.add(one_step(**ending))
    assert rows.discount.tolist() == pytest.approx([discount])


def test_rewards_are_clipped_by_sign_or_kept_as_the_rule_says():
    for clip, expected in ((True, 1.0), (False, 5.0)):
        replay, _ = build(1, 1, 100)
        rule = TransitionRule(1, GAMMA, clip, True)
        accumulator = TransitionAccumulator(1, STACK, rule, replay.frames.append)
        accumulator.reset(np.zeros((1, STACK, 84, 84), np.uint8))
        assert accumulator.add(one_step()).reward.tolist() == [expected]


def test_three_step_return_is_the_discounted_sum_of_the_clipped_rewards():
    _, accumulator = build(1, 3, 100)
    accumulator.reset(np.zeros((1, STACK, 84, 84), np.uint8))
    emitted = [accumulator.add(one_step(reward=reward)) for reward in (7.0, -2.0, 0.5, 0.0)]
    assert [len(rows.action) for rows in emitted] == [0, 0, 1, 1]
    assert emitted[2].reward[0] == pytest.approx(1.0 - 0.9 + 0.81)
    assert emitted[3].reward[0] == pytest.approx(-1.0 + 0.9 + 0.0)
    assert emitted[3].discount[0] == pytest.approx(0.9**3)


def test_a_million_transitions_occupy_at_most_7_2_gb():
    for num_envs, n_steps in ((1, 1), (8, 3), (64, 5)):
        shape = ReplayShape(1_000_000, num_envs, n_steps, STACK)
        assert shape.num_bytes <= 7.2e9
        assert shape._replace(prioritized=True).num_bytes <= 7.2e9


def test_the_promised_bytes_are_the_bytes_allocated():
    replay, _ = build(2, 3, 1_000)
    assert bytes_of([replay.frames.pixels, *replay._rows.values()]) == (
        replay.shape.num_bytes - replay._written_at.nbytes
    )


def test_the_bytes_promised_for_priorities_are_those_of_the_tree():
    shape = ReplayShape(100_000, 1, 1, STACK)
    promised = shape._replace(prioritized=True).num_bytes - shape.num_bytes
    allocated = bytes_of(SumTree(100_000, CPU)._levels)
    assert 0.9 * promised < allocated <= promised


def bytes_of(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.element_size() * tensor.nelement() for tensor in tensors)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_sampling_draws_every_valid_row_and_nothing_else(sampler):
    stream = Stream(1, np.random.default_rng(0), end_chance=0.0, life_chance=0.0)
    replay, accumulator = build(1, 1, 10, sampler=sampler)
    accumulator.reset(stream.reset())
    for _ in range(25):
        replay.add(accumulator.add(stream.step()))
    batch = replay.sample(2_000, np.random.default_rng(1))
    counts = np.bincount(batch.rows, minlength=10)
    assert len(replay) == 10
    assert counts.min() > 120
    assert counts.max() < 290
    newest = {stack[-1] for stack in numbers(batch.next_observation.numpy())}
    assert newest == set(range(17, 27))


def test_sampling_an_empty_memory_is_refused():
    replay, _ = build(1, 1, 10)
    with pytest.raises(ValueError, match="empty"):
        replay.sample(1, np.random.default_rng(0))


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize(("num_envs", "n_steps"), [(1, 1), (3, 3)])
def test_a_restored_memory_and_accumulator_go_on_identically(num_envs, n_steps, sampler):
    stream = Stream(num_envs, np.random.default_rng(5))
    replay, accumulator = build(num_envs, n_steps, 50, sampler=sampler)
    accumulator.reset(stream.reset())
    for _ in range(70):
        replay.add(accumulator.add(stream.step()))
        if len(replay) > 0:
            surprise(replay, seed=3)
    copy, accumulator_copy = build(num_envs, n_steps, 50, sampler=sampler)
    copy.restore(replay.state(), replay.rows())
    files = dict(compressed_frames(replay.frames, 0))
    restore_frames(copy.frames, files.__getitem__)
    accumulator_copy.restore(accumulator.state())
    assert len(copy) == len(replay)
    for _ in range(40):
        step = stream.step()
        replay.add(accumulator.add(step))
        copy.add(accumulator_copy.add(step))
        one = replay.sample(16, np.random.default_rng(9))
        two = copy.sample(16, np.random.default_rng(9))
        for left, right in zip(one, two, strict=True):
            assert np.array_equal(np.asarray(left), np.asarray(right))
        for memory in (replay, copy):
            surprise(memory, seed=4)


def surprise(replay: Replay, *, seed: int) -> None:
    """Give some rows other priorities."""
    generator = np.random.default_rng(seed)
    rows = replay.draw(4, generator).rows
    replay.update_priorities(rows, torch.from_numpy(generator.random(4)))


def test_changed_chunks_are_exactly_those_whose_bytes_changed():
    generator = np.random.default_rng(2)
    store = FrameStore(3 * CHUNK_FRAMES + 100, CPU)
    places = 3 * CHUNK_FRAMES + 101
    known: dict[int, bytes] = {}
    written_before = 0
    store.pixels = torch.zeros((places, 1), dtype=torch.uint8)  # one byte a frame: quick
    for round_number in range(60):
        count = int(generator.integers(0, 9_000))
        position = store.frames_written + np.arange(count)
        ids = 1 + position % (places - 1)
        store.pixels[torch.from_numpy(ids), 0] = round_number + 1
        store.frames_written += count
        found = {number: _read_chunk(store, number).tobytes() for number, _ in _chunks(store, 0)}
        marked = {number for number, changed in _chunks(store, written_before) if changed}
        different = {number for number, data in found.items() if known.get(number) != data}
        assert different <= marked
        assert len(marked - different) <= (1 if count else 0)
        known, written_before = found, store.frames_written
    assert store.frames_written > 5 * places
