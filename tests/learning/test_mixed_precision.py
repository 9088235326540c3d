"""bfloat16: weights that are cast once an update give the bits of plain autocast."""

import copy

import pytest
import torch
from safetensors.torch import load
from support.network_makers import BTR, build, file_bytes, random_batch, random_frames
from support.tiny import judge, small_config
from torch import nn

from dqn_zoo.learning.learner import Learner
from dqn_zoo.learning.losses import build_loss
from dqn_zoo.learning.mixed_precision import WorkingNetwork
from dqn_zoo.learning.online_network import OptimizerSettings

ADAM = OptimizerSettings("adam", 1e-8, 10.0)
NETWORKS = {
    "huber": {"torso": "nature"},
    "c51": {"loss": "c51", "noisy_sigma": 0.5, "dueling": True, "num_atoms": 7},
    "qrdqn": {"loss": "qrdqn", "num_quantiles": 5, "layer_norm": True},
    "iqn": BTR | {"layer_norm": True, "num_cosines": 6},
}


def make_learner(name, *, bfloat16=True):
    config = small_config(name, "double", v_min=-10.0, v_max=10.0, network="nature")
    network = build(**NETWORKS[name])
    return Learner(network, build_loss(config), ADAM, seed=3, bfloat16=bfloat16)


def update_under_autocast(networks, loss, optimizer, generator, batch):
    """Update as the learner does, but with networks that autocast casts at every use."""
    online, target = networks
    for network in networks:
        network.reset_noise(generator)
    norms = [m for m in online.modules() if isinstance(m, nn.utils.parametrize.ParametrizationList)]
    for norm in norms:
        norm.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        uniform = lambda *size: torch.rand(size, generator=generator)  # noqa: E731
        output = judge(loss, online, target, batch, uniform)
        mean = (batch.weight * output.per_example).mean()
    for norm in norms:
        norm.eval()
    optimizer.zero_grad()
    mean.backward()
    nn.utils.clip_grad_norm_(online.parameters(), ADAM.max_grad_norm)
    optimizer.step()


@pytest.mark.parametrize("name", NETWORKS)
def test_updates_and_values_have_the_bits_of_plain_autocast(name):
    learner = make_learner(name)
    online, target = copy.deepcopy((learner.online.weights, learner.target))
    optimizer = torch.optim.Adam(online.parameters(), lr=1e-3, eps=1e-8, fused=True)
    generator = torch.Generator().manual_seed(3)
    for number in range(4):
        batch = random_batch(4, 4, 84, 84, seed=number)
        learner.update(batch, 1e-3)
        update_under_autocast((online, target), learner._loss, optimizer, generator, batch)
        if number == 1:
            learner.sync_target()
            target.load_state_dict(online.state_dict())
    for ours, plain in ((learner.online.weights, online), (learner.target, target)):
        for key, value in ours.state_dict().items():
            assert value.dtype == torch.float32
            assert torch.equal(value, plain.state_dict()[key]), key
    frames = random_frames(3, 4, 84, 84)
    online.remove_noise()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        expected = online.q_values(frames)
    assert torch.equal(torch.from_numpy(learner.online.q_values(frames.numpy())), expected)


def test_float32_computes_with_the_weights_that_learn():
    network = build()
    assert WorkingNetwork(network, bfloat16=False).network is network


@pytest.mark.parametrize("name", NETWORKS)
def test_only_plain_layers_are_copied_and_all_else_is_shared(name):
    network = build(**NETWORKS[name])
    working = WorkingNetwork(network, bfloat16=True).network
    copied = set()
    for (key, ours), theirs in zip(network.named_parameters(), working.parameters(), strict=True):
        assert (theirs.dtype == torch.bfloat16) == (theirs is not ours)
        if theirs is not ours:
            copied.add(key)
    assert "torso.layers.0.weight" in copied
    assert not any("output" in key or "sigma" in key or "norm" in key for key in copied)
    for (key, ours), theirs in zip(network.named_buffers(), working.buffers(), strict=True):
        assert theirs is ours, key


def test_weights_that_are_loaded_are_computed_with():
    learner, other = make_learner("huber"), make_learner("huber")
    for _ in range(2):
        other.update(random_batch(4, 4, 84, 84), 1e-2)
    frames = random_frames(3, 4, 84, 84).numpy()
    assert not (learner.online.q_values(frames) == other.online.q_values(frames)).all()
    online, target = (load(file_bytes(n)) for n in (other.online.weights, other.target))
    learner.load_weights(online=online, target=target)
    assert (learner.online.q_values(frames) == other.online.q_values(frames)).all()
    batch = random_batch(4, 4, 84, 84, seed=5)
    assert torch.equal(learner.update(batch, 1e-9), other.update(batch, 1e-9))


@pytest.mark.parametrize("bfloat16", [False, True])
def test_an_optimizer_that_was_saved_in_another_memory_layout_goes_on_with_the_same_bits(bfloat16):
    whole, resumed = (make_learner("huber", bfloat16=bfloat16) for _ in range(2))
    whole.update(random_batch(4, 4, 84, 84), 1e-3)
    resumed.restore(
        whole.online.state(),
        online=load(file_bytes(whole.online.weights)),
        target=load(file_bytes(whole.target)),
        optimizer=whole.online.optimizer_bytes(),  # where channels come first
    )
    for weight, average in zip(
        resumed.online.weights.parameters(), resumed.online.optimizer.kept["exp_avg"], strict=True
    ):
        assert average.stride() == weight.stride()
    for seed in (6, 7):
        for learner in (whole, resumed):
            learner.update(random_batch(4, 4, 84, 84, seed=seed), 1e-3)
    for key, value in whole.online.weights.state_dict().items():
        assert torch.equal(value, resumed.online.weights.state_dict()[key]), key
