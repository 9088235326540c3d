"""The learner: clipped steps, the target network, metrics, resume, bfloat16."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from support.tiny import judge, random_batch, small_config, small_network
from torch import nn

from dqn_zoo.learning.bootstraps import GreedyBootstrap
from dqn_zoo.learning.learner import Learner
from dqn_zoo.learning.losses import LOSSES, Loss, TDLoss, build_loss, network_settings
from dqn_zoo.learning.online_network import OptimizerSettings
from dqn_zoo.learning.value_learning import huber, squared
from dqn_zoo.networks.heads import HeadSettings, ScalarHead
from dqn_zoo.networks.network import NetworkSettings, build_network
from dqn_zoo.replay.memory import Batch
from dqn_zoo.settings.config import Config

ADAM = OptimizerSettings("adam", 1e-8, 10.0)
HUBER = TDLoss(bootstrap=GreedyBootstrap(), penalty=huber)
SQUARED = TDLoss(bootstrap=GreedyBootstrap(), penalty=squared)


def small_learner(
    loss: Loss = HUBER,
    optimizer: OptimizerSettings = ADAM,
    *,
    config: Config | None = None,
    seed: int = 0,
) -> Learner:
    network = small_network(config or small_config("huber"), seed=seed)
    return Learner(network, loss, optimizer, seed=seed, bfloat16=False)


# --- Mechanics


def test_updates_are_clipped_steps_of_the_optimizer_with_the_given_learning_rates():
    learner = small_learner(SQUARED, OptimizerSettings("adam", 1e-8, 2.0))
    twin = copy.deepcopy(learner.online.weights)
    optimizer = torch.optim.Adam(twin.parameters(), lr=99.0, eps=1e-8)
    for seed, rate in enumerate([0.01, 0.02, 0.005]):
        batch = random_batch(seed)
        learner.update(batch, rate)
        output = judge(SQUARED, twin, learner.target, batch, torch.rand)
        optimizer.zero_grad()
        (batch.weight * output.per_example).mean().backward()
        assert nn.utils.clip_grad_norm_(twin.parameters(), 2.0) > 2.0
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    for own, other in zip(learner.online.weights.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-4)


def test_gradients_are_clipped_to_the_norm():
    norms = []
    for limit in (1e-3, 1e9):
        learner = small_learner(SQUARED, OptimizerSettings("adam", 1e-8, limit))
        learner.update(random_batch(), 1e-3)
        gradients = torch.cat([p.grad.flatten() for p in learner.online.weights.parameters()])
        norms.append(float(gradients.norm()))
    assert norms[0] == pytest.approx(1e-3, rel=1e-3)
    assert norms[1] > 0.1


def test_the_target_network_changes_only_when_it_is_copied():
    learner = small_learner()
    name = "head.layers.stream.output.weight"
    before = copy.deepcopy(learner.target.state_dict())
    learner.update(random_batch(), 0.01)
    assert all(torch.equal(before[name], v) for name, v in learner.target.state_dict().items())
    assert not torch.equal(before[name], learner.online.weights.state_dict()[name])
    learner.sync_target()
    for name, value in learner.online.weights.state_dict().items():
        assert torch.equal(value, learner.target.state_dict()[name])


def test_metrics_are_means_since_the_last_reading():
    learner = small_learner()
    assert all(math.isnan(value) for value in learner.online.take_metrics().values())
    singles = []
    for seed in (1, 2):
        twin = copy.deepcopy(learner)
        twin.online.take_metrics()
        twin.update(random_batch(seed), 1e-9)
        singles.append(twin.online.take_metrics())
        learner.update(random_batch(seed), 1e-9)
    both = learner.online.take_metrics()
    for name, value in both.items():
        assert value == pytest.approx((singles[0][name] + singles[1][name]) / 2, rel=1e-4)
    assert math.isnan(learner.online.take_metrics()["loss"])


# --- Resume


def assert_resumes_with_the_same_bits(loss, optimizer, config):
    """Save after four updates, restore into a learner that shares nothing, compare after eight."""
    whole, first = (small_learner(loss, optimizer, config=config) for _ in range(2))
    for learner in (whole, first):
        for seed in range(4):
            learner.update(random_batch(seed), 0.01)
            if seed == 1:
                learner.sync_target()
    second = small_learner(loss, optimizer, config=config, seed=3)
    second.restore(
        first.online.state(),
        online=load(save(first.online.weights.state_dict())),
        target=load(save(first.target.state_dict())),
        optimizer=first.online.optimizer_bytes(),
    )
    for seed in range(4, 8):
        priorities = [each.update(random_batch(seed), 0.01) for each in (whole, second)]
        assert torch.equal(*priorities)
    for one, other in [
        (whole.online.weights, second.online.weights),
        (whole.target, second.target),
    ]:
        for name, value in one.state_dict().items():
            assert torch.equal(value, other.state_dict()[name]), name
    assert whole.online.state() == second.online.state()
    assert whole.online.take_metrics() == second.online.take_metrics()
    observation = random_batch().observation.numpy()
    assert np.array_equal(
        whole.online.noisy_q_values(observation), second.online.noisy_q_values(observation)
    )


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop"])
def test_saved_and_restored_between_updates_ends_with_the_same_bits(optimizer):
    settings = OptimizerSettings(optimizer, 1e-4, 10.0)
    assert_resumes_with_the_same_bits(HUBER, settings, small_config("huber"))


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_noise_and_random_fractions_continue_where_they_were_saved(loss):
    config = small_config(loss, noisy_sigma=0.5, dueling=True)
    assert_resumes_with_the_same_bits(build_loss(config), ADAM, config)


# --- bfloat16


@pytest.mark.parametrize(("loss", "bootstrap"), [(n, "greedy") for n in LOSSES] + [("iqn", "soft")])
def test_bfloat16_gives_every_weight_nearly_the_float32_gradient(loss, bootstrap):
    config = small_config(loss, bootstrap, network="small")
    frames = np.random.default_rng(0).integers(0, 256, (2, 16, 4, 84, 84), dtype=np.uint8)
    observation, following = torch.from_numpy(frames)
    batch = random_batch(size=16)._replace(observation=observation, next_observation=following)
    gradients = []
    for bfloat16 in (False, True):
        network = build_network(network_settings(config), num_actions=4, seed=1)
        learner = Learner(network, build_loss(config), ADAM, seed=0, bfloat16=bfloat16)
        learner.update(batch, 1e-4)
        gradients.append(
            {n: p.grad.flatten() for n, p in learner.online.weights.named_parameters()}
        )
    for name, exact in gradients[0].items():
        similarity = torch.cosine_similarity(exact, gradients[1][name], dim=0)
        assert float(similarity) > 0.97, name


def test_action_values_keep_float32_resolution_in_bfloat16():
    settings = NetworkSettings(torso="nature", frame_stack=4, head=HeadSettings(kind=ScalarHead))
    network = build_network(settings, num_actions=4, seed=1)
    with torch.no_grad():
        network.head.layers.stream.output.bias += torch.tensor([5.0, 5.001, 5.002, 5.003])
    learner = Learner(network, HUBER, ADAM, seed=0, bfloat16=True)
    frames = torch.randint(0, 256, (8, 4, 84, 84), dtype=torch.uint8).numpy()
    values = learner.online.q_values(frames)
    rounded = torch.from_numpy(values).bfloat16().float().numpy()
    assert (values != rounded).mean() > 0.8


# --- A compiled torso


def learners_of_frames(**changes) -> tuple[Learner, Batch]:
    config = small_config("iqn", network="impala", network_pool=2)
    network = build_network(network_settings(config), num_actions=4, seed=1)
    device = changes.pop("device", "cpu")
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 4, 84, 84), dtype=np.uint8)
    observation, following = torch.from_numpy(frames)
    batch = random_batch(size=8)._replace(observation=observation, next_observation=following)
    learner = Learner(
        network.to(device), build_loss(config), ADAM, seed=0, bfloat16=False, **changes
    )
    return learner, Batch(*(column.to(device) for column in batch))


def compile_with(monkeypatch, backend) -> None:
    torch.compiler.reset()
    real = torch.compile
    monkeypatch.setattr(
        torch, "compile", lambda module, **options: real(module, backend=backend, **options)
    )


def assert_updates_alike(device: str = "cpu") -> None:
    plain, batch = learners_of_frames(device=device)
    compiled, _ = learners_of_frames(device=device, compiled_torso=True)
    for learner in (plain, compiled):
        two = Batch(*(torch.cat([column, column]) for column in batch))
        learner.update(two, 1e-3, num_updates=2)
        learner.sync_target()
        learner.update(batch, 1e-3)
    expected, found = plain.online.take_metrics(), compiled.online.take_metrics()
    assert found == pytest.approx(expected, rel=1e-3)
    assert compiled.online.weights.state_dict().keys() == plain.online.weights.state_dict().keys()
    observation = batch.observation.cpu().numpy()
    np.testing.assert_allclose(
        compiled.online.q_values(observation),
        plain.online.q_values(observation),
        rtol=0.05,
        atol=0.01,
    )


def test_a_compiled_torso_learns_as_a_plain_one_does(monkeypatch):
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph

    compile_with(monkeypatch, count)
    assert_updates_alike()
    assert len(graphs) >= 2  # with and without gradients


def test_a_torso_that_cannot_be_compiled_learns_all_the_same(monkeypatch):
    def fail(graph, _):
        raise RuntimeError("no compiler here")

    compile_with(monkeypatch, fail)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert_updates_alike()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_torso_compiled_for_a_gpu_learns_as_a_plain_one_does():
    torch.compiler.reset()
    assert_updates_alike("cuda")


# --- Another kind of device


def test_a_generator_state_of_another_kind_of_device_is_left_out():
    learner = small_learner()
    state = learner.online.state() | {"generator": bytes(16).hex()}  # that of a GPU has 16 bytes
    weights = learner.online.weights.state_dict()
    other = small_learner(seed=3)
    before = other.online.state()["generator"]
    other.restore(state, online=weights, target=weights, optimizer=learner.online.optimizer_bytes())
    assert other.online.state()["generator"] == before
