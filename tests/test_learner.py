"""Losses and updates: against a plain reference, and on a chain whose values are known."""

import copy
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from dqn_zoo.learner import Learner, OptimizerSettings
from dqn_zoo.losses import PENALTIES, TDLoss
from dqn_zoo.networks import QNetwork, build_network
from dqn_zoo.replay import Batch

ADAM = OptimizerSettings("adam", 1e-8, 10.0)
HUBER = TDLoss(double_q=False, penalty="huber")


def small_network(seed: int = 0) -> QNetwork:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torso = nn.Sequential(nn.Flatten(), nn.Linear(6, 16), nn.ReLU())
        return QNetwork(torso, nn.Linear(16, 3))


def opposed_network() -> QNetwork:
    """Return a network that likes best what `small_network` likes least."""
    network = small_network()
    with torch.no_grad():
        network.head.weight.neg_()
        network.head.bias.neg_()
    return network


def random_batch(seed: int = 0, size: int = 32) -> Batch:
    generator = torch.Generator().manual_seed(seed)

    def pixels() -> torch.Tensor:
        return torch.randint(0, 256, (size, 1, 2, 3), generator=generator, dtype=torch.uint8)

    return Batch(
        observation=pixels(),
        action=torch.randint(0, 3, (size,), generator=generator),
        reward=torch.randn(size, generator=generator) * 3,
        discount=torch.where(torch.arange(size) % 3 == 0, 0.0, 0.9),
        next_observation=pixels(),
        weight=torch.rand(size, generator=generator) + 0.5,
        rows=np.arange(size),
    )


def reference_loss(online: QNetwork, target: QNetwork, batch: Batch, loss: TDLoss) -> torch.Tensor:
    """Compute the weighted loss row by row, in Python numbers wherever possible."""
    total = torch.tensor(0.0)
    for row in range(len(batch.action)):
        following = batch.next_observation[row : row + 1]
        next_target = target.q_values(following)[0].tolist()
        next_online = online.q_values(following)[0].tolist()
        chooser = next_online if loss.double_q else next_target
        bootstrap = next_target[chooser.index(max(chooser))]
        goal = float(batch.reward[row]) + float(batch.discount[row]) * bootstrap
        value = online.q_values(batch.observation[row : row + 1])[0, int(batch.action[row])]
        error = goal - value
        if loss.penalty == "squared":
            penalty = error**2
        elif abs(error.item()) <= 1.0:
            penalty = 0.5 * error**2
        else:
            penalty = error.abs() - 0.5
        total = total + batch.weight[row] * penalty
    return total / len(batch.action)


@pytest.mark.parametrize("double_q", [False, True])
@pytest.mark.parametrize("penalty", sorted(PENALTIES))
def test_update_equals_a_reference_computed_row_by_row(double_q, penalty):
    loss = TDLoss(double_q=double_q, penalty=penalty)
    learner = Learner(small_network(), loss, ADAM, bfloat16=False)
    twin, target = small_network(), opposed_network()
    learner.target.load_state_dict(target.state_dict())
    optimizer = torch.optim.Adam(twin.parameters(), lr=0.01, eps=1e-8)
    for seed in range(5):
        batch = random_batch(seed)
        learner.update(batch, 0.01)
        optimizer.zero_grad()
        reference_loss(twin, target, batch, loss).backward()
        nn.utils.clip_grad_norm_(twin.parameters(), 10.0)
        optimizer.step()
    for name, value in twin.state_dict().items():
        torch.testing.assert_close(learner.online.state_dict()[name], value, atol=1e-5, rtol=1e-4)
    for name, value in target.state_dict().items():
        assert torch.equal(learner.target.state_dict()[name], value)


def test_double_and_greedy_targets_differ_on_these_batches():
    online, target = small_network(), opposed_network()
    batch = random_batch()
    losses = [
        TDLoss(double_q=double_q, penalty="huber")(online, target, batch).per_example
        for double_q in (False, True)
    ]
    assert not torch.allclose(*losses)


def test_gradients_are_clipped_to_the_norm():
    norms = []
    for limit in (1e-3, 1e9):
        learner = Learner(
            small_network(), TDLoss(double_q=False, penalty="squared"),
            OptimizerSettings("adam", 1e-8, limit), bfloat16=False,
        )  # fmt: skip
        learner.update(random_batch(), 1e-3)
        gradients = torch.cat([p.grad.flatten() for p in learner.online.parameters()])
        norms.append(float(gradients.norm()))
    assert norms[0] == pytest.approx(1e-3, rel=1e-3)
    assert norms[1] > 0.1


def test_the_target_network_changes_only_when_it_is_copied():
    learner = Learner(small_network(), HUBER, ADAM, bfloat16=False)
    before = copy.deepcopy(learner.target.state_dict())
    learner.update(random_batch(), 0.01)
    assert all(torch.equal(before[name], v) for name, v in learner.target.state_dict().items())
    assert not torch.equal(before["head.weight"], learner.online.state_dict()["head.weight"])
    learner.sync_target()
    for name, value in learner.online.state_dict().items():
        assert torch.equal(value, learner.target.state_dict()[name])


def test_metrics_are_means_since_the_last_reading():
    learner = Learner(small_network(), HUBER, ADAM, bfloat16=False)
    assert all(math.isnan(value) for value in learner.take_metrics().values())
    singles = []
    for seed in (1, 2):
        twin = copy.deepcopy(learner)
        twin.take_metrics()
        twin.update(random_batch(seed), 1e-9)
        singles.append(twin.take_metrics())
        learner.update(random_batch(seed), 1e-9)
    both = learner.take_metrics()
    for name, value in both.items():
        assert value == pytest.approx((singles[0][name] + singles[1][name]) / 2, rel=1e-4)
    assert math.isnan(learner.take_metrics()["loss"])


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_saved_and_restored_between_updates_ends_with_the_same_bits(optimizer):
    settings = OptimizerSettings(optimizer, 1e-4, 10.0)
    whole = Learner(small_network(), HUBER, settings, bfloat16=False)
    first = Learner(small_network(), HUBER, settings, bfloat16=False)
    for seed in range(4):
        whole.update(random_batch(seed), 0.01)
        first.update(random_batch(seed), 0.01)
    first.sync_target()
    whole.sync_target()
    second = Learner(small_network(seed=3), HUBER, settings, bfloat16=False)
    second.restore(
        first.state(),
        online=load(save(first.online.state_dict())),
        target=load(save(first.target.state_dict())),
        optimizer=first.optimizer_bytes(),
    )
    for seed in range(4, 8):
        whole.update(random_batch(seed), 0.01)
        second.update(random_batch(seed), 0.01)
    for name, value in whole.online.state_dict().items():
        assert torch.equal(value, second.online.state_dict()[name])
    assert whole.take_metrics() == second.take_metrics()


@pytest.mark.parametrize("double_q", [False, True])
def test_bfloat16_gives_every_weight_nearly_the_float32_gradient(double_q):
    gradients = []
    for bfloat16 in (False, True):
        network = build_network("nature", num_actions=4, frame_stack=4, seed=1)
        learner = Learner(
            network, TDLoss(double_q=double_q, penalty="huber"), ADAM, bfloat16=bfloat16
        )
        generator = torch.Generator().manual_seed(0)
        frames = torch.randint(0, 256, (2, 16, 4, 84, 84), generator=generator, dtype=torch.uint8)
        batch = random_batch(size=16)._replace(observation=frames[0], next_observation=frames[1])
        learner.update(batch, 1e-4)
        gradients.append({n: p.grad.flatten() for n, p in learner.online.named_parameters()})
    for name, exact in gradients[0].items():
        similarity = torch.cosine_similarity(exact, gradients[1][name], dim=0)
        assert float(similarity) > 0.97, name


def test_action_values_keep_float32_resolution_in_bfloat16():
    network = build_network("nature", num_actions=4, frame_stack=4, seed=1)
    with torch.no_grad():
        network.head.bias += torch.tensor([5.0, 5.001, 5.002, 5.003])
    learner = Learner(network, HUBER, ADAM, bfloat16=True)
    frames = torch.randint(0, 256, (8, 4, 84, 84), dtype=torch.uint8).numpy()
    values = learner.q_values(frames)
    rounded = torch.from_numpy(values).bfloat16().float().numpy()
    assert (values != rounded).mean() > 0.8


def chain_batch(generator: torch.Generator, size: int = 32) -> Batch:
    """Three states in a row; action 1 walks right, 0 and 2 stay; leaving the last one pays 1.

    With discount 0.9 the value of walking is 0.81, 0.9 and 1; of staying 0.9 times the
    value of the state.
    """
    state = torch.randint(0, 3, (size,), generator=generator)
    action = torch.randint(0, 3, (size,), generator=generator)
    walks = action == 1
    leaves = walks & (state == 2)
    following = torch.where(walks, state + 1, state).clamp(max=2)

    def pixels(states: torch.Tensor) -> torch.Tensor:
        one_hot = nn.functional.one_hot(states, 6) * 255
        return one_hot.to(torch.uint8).view(size, 1, 2, 3)

    return Batch(
        observation=pixels(state),
        action=action,
        reward=leaves.float(),
        discount=torch.where(leaves, 0.0, 0.9),
        next_observation=pixels(following),
        weight=torch.ones(size),
        rows=np.arange(size),
    )


@pytest.mark.parametrize("double_q", [False, True])
@pytest.mark.parametrize("penalty", sorted(PENALTIES))
@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_the_chain_is_solved_to_its_known_values(double_q, penalty, optimizer):
    loss = TDLoss(double_q=double_q, penalty=penalty)
    learner = Learner(
        small_network(), loss, OptimizerSettings(optimizer, 1e-5, 10.0), bfloat16=False
    )
    generator = torch.Generator().manual_seed(0)
    for update in range(1_500):
        rate = 3e-3 if update < 1_000 else 3e-4
        learner.update(chain_batch(generator), rate)
        if update % 20 == 0:
            learner.sync_target()
    states = (torch.eye(3, 6) * 255).to(torch.uint8).view(3, 1, 2, 3)
    values = learner.q_values(states.numpy())
    walking = np.array([0.81, 0.9, 1.0])
    expected = np.stack([0.9 * walking, walking, 0.9 * walking], axis=1)
    assert np.abs(values - expected).max() < 0.02
