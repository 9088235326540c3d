"""Samplers and the sum tree: against naive twins, hand-computed numbers and a chi-squared test."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.streams import STACK, Stream, numbers

from dqn_zoo.replay.memory import Replay
from dqn_zoo.replay.samplers import Draw, PrioritizedSampler, UniformSampler
from dqn_zoo.replay.shape import ReplayShape
from dqn_zoo.replay.sum_tree import FANOUT, SumTree
from dqn_zoo.replay.transitions import TransitionAccumulator, TransitionRule
from dqn_zoo.schedules import LinearSchedule

CPU = torch.device("cpu")


def tree_of(values: list[float]) -> SumTree:
    tree = SumTree(len(values), CPU)
    tree.rebuild(torch.tensor(values, dtype=torch.float64))
    return tree


def prioritized(
    capacity: int,
    *,
    exponent: float = 1.0,
    beta: float | LinearSchedule = 0.0,
    floor: float = 1e-12,
) -> PrioritizedSampler:
    schedule = beta if isinstance(beta, LinearSchedule) else LinearSchedule(beta, beta, 0)
    return PrioritizedSampler(capacity, CPU, exponent=exponent, beta=schedule, floor=floor)


def filled(priorities: list[float], **settings: float | LinearSchedule) -> PrioritizedSampler:
    sampler = prioritized(len(priorities), **settings)
    rows = torch.arange(len(priorities))
    sampler.add(rows)
    sampler.update(rows, torch.tensor(priorities))
    return sampler


def draw_many(
    sampler: PrioritizedSampler | UniformSampler, count: int, *, times: int, seed: int = 0
) -> np.ndarray:
    """Return how often each of `count` rows comes in many minibatches of 32."""
    generator = np.random.default_rng(seed)
    drawn = [sampler.draw(range(count), 32, generator, step=0).rows for _ in range(times)]
    return np.bincount(torch.cat(drawn).numpy(), minlength=count)


# --- The sum tree


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 700), seed=st.integers(0, 2**32 - 1))
def test_the_tree_agrees_with_a_running_sum_while_its_numbers_change(size, seed):
    generator = np.random.default_rng(seed)
    tree, twin = SumTree(size, CPU), np.zeros(size)
    for _ in range(8):
        places = generator.permutation(size)[: generator.integers(1, size + 1)]
        values = generator.integers(0, 4, size=len(places)).astype(float)  # sums are exact
        tree.set(torch.from_numpy(places), torch.from_numpy(values))
        twin[places] = values
        assert tree.total() == twin.sum()
        assert tree.leaves.tolist() == twin.tolist()
        if twin.sum() == 0:
            continue
        mass = generator.random(50) * twin.sum()
        mass[0], mass[1] = 0.0, np.floor(mass[1])  # also exactly between two numbers
        expected = np.searchsorted(np.cumsum(twin), mass, side="right")
        assert tree.find(torch.from_numpy(mass)).tolist() == expected.tolist()


@settings(max_examples=30, deadline=None)
@given(size=st.integers(1, 5_000), seed=st.integers(0, 2**32 - 1))
def test_a_rebuilt_tree_has_the_same_bits(size, seed):
    generator = np.random.default_rng(seed)
    tree = SumTree(size, CPU)
    for _ in range(30):
        places = torch.from_numpy(generator.integers(size, size=32))
        tree.set(places, torch.from_numpy(generator.random(32) ** 8))
    rebuilt = SumTree(size, CPU)
    rebuilt.rebuild(tree.leaves.clone())
    for one, other in zip(tree._levels, rebuilt._levels, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("size", [3, FANOUT, FANOUT + 1, 40 * FANOUT + 5])
def test_a_number_of_zero_is_never_found_not_even_beyond_the_end(size):
    values = [0.0] * size
    values[size // 2] = 0.1
    values[size // 3] = 0.7
    tree = tree_of(values)
    beyond = torch.tensor([0.0, 0.8 * (1 + 1e-15), 5.0], dtype=torch.float64)
    mass = torch.cat([beyond, torch.rand(500, dtype=torch.float64) * tree.total()])
    found = tree.find(mass)
    assert set(found.tolist()) == {size // 2, size // 3}
    assert found[1:3].tolist() == [size // 2, size // 2]


def test_of_two_numbers_for_one_place_the_larger_wins():
    for values in ([0.25, 0.75], [0.75, 0.25]):
        tree = tree_of([9.0, 9.0, 9.0])
        tree.set(torch.tensor([1, 1]), torch.tensor(values, dtype=torch.float64))
        assert tree.leaves.tolist() == [9.0, 0.75, 9.0]
        assert tree.total() == 18.75


def test_the_search_reads_a_number_of_nodes_that_grows_with_the_logarithm():
    small, large = SumTree(50_000, CPU), SumTree(1_000_000, CPU)
    assert len(small._levels) == 5
    assert len(large._levels) == 6
    assert sum(len(level) for level in large._levels) < 1.07 * 1_000_000


# --- Prioritized draws


def test_rows_come_in_proportion_to_their_priorities_while_these_change():
    exponent, count, rounds = 0.6, 40, 2_000
    sampler = prioritized(count, exponent=exponent)
    sampler.add(torch.arange(count))
    generator = np.random.default_rng(1)
    priorities = np.ones(count)
    observed, expected, decoy = np.zeros(count), np.zeros(count), np.zeros(count)
    for _ in range(rounds):
        changed = generator.integers(count, size=6)
        priorities[changed] = generator.exponential(size=6)[0] * (1 + changed)  # one size, 6 rows
        sampler.update(torch.from_numpy(changed), torch.from_numpy(priorities[changed]))
        rows = sampler.draw(range(count), 32, generator, step=0).rows.numpy()
        observed += np.bincount(rows, minlength=count)
        expected += 32 * priorities**exponent / (priorities**exponent).sum()
        decoy += 32 * priorities / priorities.sum()
    critical = 83.0  # of chi-squared with 39 degrees of freedom: exceeded once in 20,000
    assert ((observed - expected) ** 2 / expected).sum() < critical
    assert ((observed - decoy) ** 2 / decoy).sum() > 10 * critical


def test_an_exponent_of_zero_draws_uniformly_with_weights_of_one():
    sampler = filled([1e-9, 1.0, 50.0, 3.0, 0.2], exponent=0.0, beta=0.7)
    counts = draw_many(sampler, 5, times=1_000)
    uniform = draw_many(UniformSampler(5, CPU), 5, times=1_000)
    for observed in (counts, uniform):
        assert ((observed - 6_400) ** 2 / 6_400).sum() < 23.5  # 4 degrees of freedom, 1 in 10,000
    draw = sampler.draw(range(5), 32, np.random.default_rng(0), step=0)
    assert draw.weight.tolist() == [1.0] * 32


@pytest.mark.parametrize(
    "sampler", [UniformSampler(5, CPU), filled([1.0, 4.0, 25.0, 0.1, 3.0], beta=0.5)]
)
def test_several_minibatches_at_once_are_those_of_as_many_draws(sampler):
    one_by_one, at_once = (np.random.default_rng(3) for _ in range(2))
    draws = [sampler.draw(range(5), 7, one_by_one, step=0) for _ in range(3)]
    joined = sampler.draw(range(5), 7, at_once, step=0, num_batches=3)
    assert torch.equal(joined.rows, torch.cat([draw.rows for draw in draws]))
    assert torch.equal(joined.weight, torch.cat([draw.weight for draw in draws]))
    assert one_by_one.bit_generator.state == at_once.bit_generator.state


def test_weights_undo_the_bias_as_computed_by_hand():
    # Probabilities 1/8, 2/8, 5/8 of 3 rows; (3 P)^-beta relative to the rarest of the minibatch.
    sampler = filled([1.0, 4.0, 25.0], exponent=0.5, beta=LinearSchedule(0.4, 1.0, 100))
    for step, beta in ((0, 0.4), (50, 0.7), (100, 1.0), (900, 1.0)):
        draw = sampler.draw(range(3), 64, np.random.default_rng(step), step=step)
        weights = dict(zip(draw.rows.tolist(), draw.weight.tolist(), strict=True))
        assert weights[0] == 1.0
        assert weights[1] == pytest.approx(2.0**-beta)
        assert weights[2] == pytest.approx(5.0**-beta)
        assert draw.weight.dtype == torch.float32


def test_the_floor_is_added_before_the_exponent():
    sampler = filled([0.0, 0.21], exponent=0.5, floor=0.04)
    assert sampler.columns(2)["priority"].tolist() == pytest.approx([0.2, 0.5])


def test_new_rows_get_the_largest_priority_there_ever_was():
    sampler = prioritized(6, exponent=0.5)
    sampler.add(torch.tensor([0, 1]))
    assert sampler.columns(2)["priority"].tolist() == [1.0, 1.0]
    sampler.update(torch.tensor([0, 1]), torch.tensor([16.0, 0.25]))
    sampler.update(torch.tensor([0]), torch.tensor([0.25]))
    sampler.add(torch.tensor([2]))
    assert sampler.columns(3)["priority"].tolist() == pytest.approx([0.5, 0.5, 4.0])


def test_every_share_of_the_mass_gives_one_row():
    sampler = filled([1.0] * 8)
    rows = sampler.draw(range(8), 8, np.random.default_rng(0), step=0).rows
    assert rows.tolist() == list(range(8))


def test_a_saved_sampler_goes_on_identically():
    sampler = filled([3.0, 1.0, 4.0, 1.0, 5.0], exponent=0.5, beta=0.4)
    copy = prioritized(5, exponent=0.5, beta=0.4)
    copy.restore(sampler.state(), sampler.columns(5))
    for one in (sampler, copy):
        one.update(torch.tensor([2]), torch.tensor([0.5]))
        one.add(torch.tensor([0]))
    assert torch.equal(sampler.columns(5)["priority"], copy.columns(5)["priority"])
    draws = [one.draw(range(5), 16, np.random.default_rng(5), step=0) for one in (sampler, copy)]
    assert torch.equal(draws[0].rows, draws[1].rows)
    assert torch.equal(draws[0].weight, draws[1].weight)


# --- In the memory


@settings(max_examples=25, deadline=None)
@given(
    num_envs=st.integers(1, 4),
    n_steps=st.sampled_from([1, 3, 5]),
    capacity=st.integers(5, 40),
    end_chance=st.sampled_from([0.02, 0.5, 0.95]),
    seed=st.integers(0, 2**32 - 1),
)
def test_priorities_stay_with_their_rows_in_several_environments_with_n_steps(
    num_envs, n_steps, capacity, end_chance, seed
):
    """Rows are found again by what they show, so a priority at a wrong place is seen."""
    sampler = prioritized(capacity)
    replay = Replay(ReplayShape(capacity, num_envs, n_steps, STACK), sampler, CPU)
    rule = TransitionRule(n_steps, 0.9, True, True)
    accumulator = TransitionAccumulator(num_envs, STACK, rule, replay.frames.append)
    stream = Stream(num_envs, np.random.default_rng(seed), end_chance=end_chance)
    accumulator.reset(stream.reset())
    generator = np.random.default_rng(seed + 1)
    twin: dict[tuple[int, ...], float] = {}  # newest frame and successor of a row -> its priority
    largest = 1.0
    for _ in range(50):
        rows = accumulator.add(stream.step())
        replay.add(rows)
        shown = shown_by(replay, torch.from_numpy(rows.observation), rows.next_observation)
        twin |= dict.fromkeys(shown, largest)
        if len(replay) == 0:
            assert sampler.columns(capacity)["priority"].sum() == 0
            continue
        draw = replay.draw(6, generator)
        batch = replay.gather(draw)
        priority = torch.from_numpy(generator.random(6) * 3).double()
        replay.update_priorities(draw.rows, priority)
        largest = max(largest, float(priority.max()))
        keys = shown_in(batch.observation, batch.next_observation)
        for key in set(keys):
            twin[key] = max(float(p) for k, p in zip(keys, priority, strict=True) if k == key)
        state = replay.state()
        leaves = sampler.columns(capacity)["priority"]
        valid = np.arange(state["oldest"], state["newest"]) % capacity
        ones = Draw(torch.from_numpy(valid), torch.ones(len(valid)))
        everything = replay.gather(ones)
        expected = [twin[k] for k in shown_in(everything.observation, everything.next_observation)]
        assert leaves[torch.from_numpy(valid)].tolist() == pytest.approx(expected)
        assert float(leaves.sum()) == pytest.approx(sum(expected))  # evicted rows have 0


def shown_by(replay: Replay, before: torch.Tensor, after: np.ndarray) -> list[tuple[int, ...]]:
    if len(after) == 0:
        return []
    return shown_in(replay.frames.gather(before), replay.frames.gather(torch.from_numpy(after)))


def shown_in(before: torch.Tensor, after: torch.Tensor) -> list[tuple[int, ...]]:
    pairs = zip(numbers(before.numpy()), numbers(after.numpy()), strict=True)
    return [(one[-1], other[-1]) for one, other in pairs]
