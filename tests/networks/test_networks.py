"""Torsos and whole networks: sizes, seeds, twins written by hand, spectral norm, bfloat16."""

import copy

import numpy as np
import pytest
import torch
from safetensors.torch import load
from support.network_makers import (
    BTR,
    KINDS,
    NUM_OUTPUTS,
    build,
    file_bytes,
    make_learner,
    random_batch,
    random_features,
    random_frames,
    same_tensors,
    scramble_norms,
    set_outputs,
    tiny_head,
)
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from dqn_zoo.learning.losses import DoubleBootstrap, ImplicitQuantileLoss, SoftBootstrap
from dqn_zoo.learning.losses import network_settings as network_settings_of
from dqn_zoo.networks.heads import CategoricalHead, HeadSettings
from dqn_zoo.networks.network import NetworkSettings, QNetwork
from dqn_zoo.settings.config import build_config
from dqn_zoo.system.devices import channels_last

# --- Every combination works


@pytest.mark.parametrize(
    ("torso", "loss", "options"),
    [
        *(
            ("small", loss, {"dueling": dueling, "noisy_sigma": sigma})
            for loss in KINDS
            for dueling in (False, True)
            for sigma in (None, 0.5)
        ),
        ("nature", "huber", {"dueling": True}),
        ("nature", "c51", {"dueling": True, "noisy_sigma": 0.5}),
        ("nature", "qrdqn", {}),
        ("nature", "iqn", {"noisy_sigma": 0.5, "layer_norm": True}),
        ("impala", "huber", {"layer_norm": True}),
        ("impala", "c51", {"spectral_norm": True}),
        ("impala", "qrdqn", {"noisy_sigma": 0.5}),
        ("impala", "iqn", {"dueling": True, "noisy_sigma": 0.5, "width": 2, "pool_size": 6}),
    ],
)
def test_every_network_gives_values_and_a_gradient_to_every_parameter(torso, loss, options):
    network = build(torso, loss=loss, frame_stack=3, num_actions=5, num_quantiles=9, **options)
    network.reset_noise(torch.Generator())  # without noise its sigmas have no gradient
    values = network.q_values(random_frames(2, 3, 84, 84))
    assert values.shape == (2, 5)
    assert values.dtype == torch.float32
    # Not the plain sum: it would cancel the advantages.
    (values * torch.tensor([0.3, -1.0, 2.0, 0.7, -0.4])).sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0.0, name
    has_sigmas = any("sigma" in name for name, _ in network.named_parameters())
    assert has_sigmas == (options.get("noisy_sigma") is not None)


@pytest.mark.parametrize("flag", ["layer_norm", "spectral_norm", "dueling", "mean_expansion"])
def test_settings_of_a_network_come_from_the_keys_of_their_names(flag):
    config = build_config({
        "network": "impala", "frame_stack": 3, "network_width": 2, "network_pool": 6,
        "loss": "c51", "noisy_sigma": 0.4, "num_atoms": 11, "v_min": -5.0, "v_max": 7.0,
        "num_quantiles": 12, "num_target_quantiles": 13, "num_acting_quantiles": 14,
        "num_cosines": 15, flag: True,
    })  # fmt: skip
    assert network_settings_of(config) == NetworkSettings(
        torso="impala", frame_stack=3, width=2, pool_size=6,
        layer_norm=flag == "layer_norm", spectral_norm=flag == "spectral_norm",
        head=HeadSettings(
            kind=CategoricalHead, dueling=flag == "dueling", noisy_sigma=0.4,
            layer_norm=flag == "layer_norm", mean_expansion=flag == "mean_expansion",
            num_atoms=11, v_min=-5.0, v_max=7.0,
            num_quantiles=12, num_acting_quantiles=14, num_cosines=15,
        ),
    )  # fmt: skip


# --- Sizes and seeds


@pytest.mark.parametrize(
    ("torso", "options", "feature_size", "hidden_size"),
    [
        ("nature", {}, 3_136, 512),
        ("small", {}, 1_568, 256),
        ("impala", {}, 3_872, 512),
        ("impala", {"width": 2}, 7_744, 512),
        ("impala", {"pool_size": 6}, 1_152, 512),
        ("impala", {"width": 2, "pool_size": 6}, 2_304, 512),
    ],
)
def test_torsos_have_the_published_numbers_of_features(torso, options, feature_size, hidden_size):
    network = build(torso, **options)
    assert network.features(random_frames(1, 4, 84, 84)).shape == (1, feature_size)
    assert network.head.layers.stream.hidden.weight.shape == (hidden_size, feature_size)


def test_the_network_of_beyond_the_rainbow_has_the_parameters_counted_by_hand():
    def convolution(inputs: int, outputs: int) -> int:
        return (3 * 3 * inputs + 1) * outputs

    def noisy(inputs: int, outputs: int) -> int:
        return 2 * (inputs + 1) * outputs  # means and sigmas

    torso = (
        convolution(4, 32) + 4 * convolution(32, 32)
        + convolution(32, 64) + 4 * convolution(64, 64)
        + convolution(64, 64) + 4 * convolution(64, 64)
    )  # fmt: skip
    features = 64 * 6 * 6
    embedding = (64 + 1) * features
    streams = 2 * noisy(features, 512) + noisy(512, 1) + noisy(512, 6)
    network = build(width=2, **BTR)
    assert torso == 389_024
    assert embedding == 149_760
    assert streams == 4_727_822
    assert sum(weight.numel() for weight in network.parameters()) == torso + embedding + streams


@pytest.mark.parametrize("options", [{"torso": "small", "loss": "qrdqn"}, BTR])
def test_weights_come_from_the_seed_alone_and_the_global_generator_is_left_alone(options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first = build(seed=3, **options)
        assert torch.equal(torch.get_rng_state(), before)
        torch.manual_seed(2)
        assert same_tensors(first.state_dict(), build(seed=3, **options).state_dict())
    other = build(seed=4, **options)
    for name, weight in first.named_parameters():
        if "sigma" not in name:  # sigmas start as constants
            assert not torch.equal(weight, other.get_parameter(name)), name


def test_a_new_network_is_in_evaluation_mode():
    assert not any(module.training for module in build(**BTR).modules())


# --- Torsos


def test_the_nature_network_equals_its_layers_called_by_hand():
    network = build("nature", frame_stack=3)
    weights = list(network.parameters())
    frames = random_frames(3, 3, 84, 84)
    hidden = frames.float() / 255.0
    for layer, stride in enumerate((4, 2, 1)):
        hidden = functional.conv2d(
            hidden, weights[2 * layer], weights[2 * layer + 1], stride=stride
        ).clamp(min=0.0)
    assert [tuple(weight.shape) for weight in weights[:6:2]] == [
        (32, 3, 8, 8), (64, 32, 4, 4), (64, 64, 3, 3)
    ]  # fmt: skip
    hidden = functional.linear(hidden.flatten(1), weights[6], weights[7]).clamp(min=0.0)
    expected = functional.linear(hidden, weights[8], weights[9])
    assert len(weights) == 10
    torch.testing.assert_close(network.q_values(frames), expected, atol=1e-6, rtol=1e-5)


def normalized(values: Tensor, layer: nn.Module) -> Tensor:
    """Normalise every row over all its values, then scale and shift channel by channel."""
    rows = []
    for row in values:
        variance = ((row - row.mean()) ** 2).mean()
        rows.append((row - row.mean()) / torch.sqrt(variance + 1e-5))
    shape = (-1, *[1] * (values.dim() - 2))
    return torch.stack(rows) * layer.weight.view(shape) + layer.bias.view(shape)


def impala_by_hand(network: QNetwork, frames: Tensor, pool_size: int | None) -> Tensor:
    convolutions = (m for m in network.torso.modules() if isinstance(m, nn.Conv2d))
    norms = [m for m in network.torso.modules() if isinstance(m, nn.GroupNorm)]

    def convolve(values: Tensor) -> Tensor:
        layer = next(convolutions)
        return functional.conv2d(values, layer.weight, layer.bias, padding=1)

    hidden = frames.float() / 255.0
    for stage in range(3):
        hidden = functional.max_pool2d(convolve(hidden), 3, stride=2, padding=1)
        if norms:
            hidden = normalized(hidden, norms[stage])
        for _ in range(2):
            residual = convolve(hidden.clamp(min=0.0))
            hidden = hidden + convolve(residual.clamp(min=0.0))
    assert next(convolutions, None) is None
    hidden = hidden.clamp(min=0.0)
    if pool_size is not None:
        hidden = functional.adaptive_max_pool2d(hidden, pool_size)
    return hidden.flatten(1)


@pytest.mark.parametrize(
    "options",
    [
        {"pool_size": 6},
        {"width": 2, "spectral_norm": True},
        {"layer_norm": True, "pool_size": 6, "frame_stack": 3},
    ],
)
def test_the_impala_torso_equals_its_layers_called_by_hand(options):
    network = build("impala", **options)
    scramble_norms(network)
    frames = random_frames(2, options.get("frame_stack", 4), 84, 84)
    expected = impala_by_hand(network, frames, options.get("pool_size"))
    torch.testing.assert_close(network.features(frames), expected, atol=1e-5, rtol=1e-4)


def test_the_stages_of_the_impala_torso_shrink_84_to_42_to_21_to_11():
    network = build("impala", width=2)
    shapes = []
    for module in network.torso.modules():
        if isinstance(module, nn.MaxPool2d):
            module.register_forward_hook(
                lambda _, inputs, output: shapes.append((*inputs[0].shape[1:], *output.shape[1:]))
            )
    network.features(random_frames(1, 4, 84, 84))
    assert shapes == [
        (32, 84, 84, 32, 42, 42), (64, 42, 42, 64, 21, 21), (64, 21, 21, 64, 11, 11)
    ]  # fmt: skip


@pytest.mark.parametrize("layer_norm", [False, True])
def test_layer_norm_makes_values_independent_of_the_scale_of_the_layer_before(layer_norm):
    network = build("impala", layer_norm=layer_norm, dueling=True)
    frames = random_frames(1, 4, 84, 84)
    before = network.q_values(frames)
    stages = [layer for layer in network.torso.layers if isinstance(layer, nn.Conv2d)]
    layers = network.head.layers
    assert len(stages) == 3
    for layer in (*stages, layers.value.hidden, layers.advantage.hidden):
        twin = copy.deepcopy(layer.state_dict())
        with torch.no_grad():
            layer.weight.mul_(10.0)
            layer.bias.mul_(10.0)
        after = network.q_values(frames)
        assert torch.allclose(before, after, atol=2e-3) == layer_norm
        layer.load_state_dict(twin)


# --- Spectral normalisation


def power_vectors(network: QNetwork) -> dict[str, Tensor]:
    """Return copies of the vectors with which power iteration estimates the norms."""
    buffers = network.state_dict().items()
    return {name: b.clone() for name, b in buffers if name.endswith(("._u", "._v"))}


def largest_singular_value(convolution: nn.Conv2d) -> float:
    return float(torch.linalg.svdvals(convolution.weight.detach().flatten(1))[0])


@pytest.mark.parametrize("width", [1, 2])
def test_spectral_norm_is_that_of_the_twelve_residual_convolutions_alone(width):
    network = build(width=width, **BTR)
    normed = [m for m in network.modules() if parametrize.is_parametrized(m)]
    convolutions = [m for m in network.torso.modules() if isinstance(m, nn.Conv2d)]
    others = [m for m in convolutions if m not in normed]
    assert len(normed) == 12
    assert [m.out_channels for m in normed] == [16 * width] * 4 + [32 * width] * 8
    assert others == [layer for layer in network.torso.layers if isinstance(layer, nn.Conv2d)]
    assert len(power_vectors(network)) == 24
    for convolution in normed:  # fifteen iterations at the start leave a few percent
        assert 0.999 < largest_singular_value(convolution) < 1.08
    assert not any(0.95 < largest_singular_value(convolution) < 1.05 for convolution in others)
    frames = random_frames(2, 4, 84, 84)
    before = network.q_values(frames)
    with torch.no_grad():
        for convolution in normed:
            convolution.parametrizations.weight.original.mul_(3.0)
    torch.testing.assert_close(network.q_values(frames), before, atol=1e-5, rtol=1e-4)


def test_computing_values_changes_no_buffer():
    learner = make_learner(build(**BTR))
    frames = random_frames(2, 4, 84, 84)
    for act in (
        lambda: learner.online.weights.q_values(frames),
        lambda: learner.online.q_values(frames.numpy()),
        lambda: learner.online.noisy_q_values(frames.numpy()),
    ):
        before = copy.deepcopy(learner.online.weights.state_dict())
        act()
        assert same_tensors(learner.online.weights.state_dict(), before)
        learner.update(random_batch(2, 4, 84, 84), 1e-3)  # which must end in evaluation mode


def test_power_iteration_follows_the_online_network_and_not_the_target():
    learner = make_learner(build("impala", spectral_norm=True).train())
    start = power_vectors(learner.online.weights)
    for _ in range(2):
        before = power_vectors(learner.online.weights)
        learner.update(random_batch(2, 4, 84, 84), 1e-3)
        moved = power_vectors(learner.online.weights)
        for name, vector in moved.items():
            assert not torch.equal(vector, before[name]), name
        assert same_tensors(power_vectors(learner.target), start)
    learner.sync_target()
    assert same_tensors(power_vectors(learner.target), moved)
    # The decoy: a target network in training mode does move, so equality above means something.
    learner.target.train()
    learner.update(random_batch(2, 4, 84, 84), 1e-3)
    assert not same_tensors(power_vectors(learner.target), moved)


def test_training_keeps_the_estimated_norms_close_to_the_true_ones():
    learner = make_learner(build("impala", spectral_norm=True))
    normed = [m for m in learner.online.weights.modules() if parametrize.is_parametrized(m)]
    before = [m.parametrizations.weight.original.detach().clone() for m in normed]
    for _ in range(8):
        learner.update(random_batch(2, 4, 84, 84), 1e-2)
    for convolution, original in zip(normed, before, strict=True):
        change = convolution.parametrizations.weight.original.detach() - original
        assert change.abs().max() > 0.03  # weights start below 0.09
        assert 0.999 < largest_singular_value(convolution) < 1.08


def test_spectral_norms_survive_a_safetensors_file():
    learner = make_learner(build(**BTR))
    learner.update(random_batch(2, 4, 84, 84), 1e-3)
    weights = load(file_bytes(learner.online.weights))
    restored = build(seed=5, **BTR)
    restored.load_state_dict(weights)
    frames = random_frames(2, 4, 84, 84)
    assert same_tensors(restored.state_dict(), learner.online.weights.state_dict())
    learner.online.weights.remove_noise()
    assert torch.equal(restored.q_values(frames), learner.online.weights.q_values(frames))


# --- bfloat16


@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("loss", KINDS)
def test_outputs_keep_float32_resolution_in_bfloat16(loss, dueling):
    head = tiny_head(loss, dueling=dueling)
    num_outputs = NUM_OUTPUTS[loss]
    # At 5 the steps of bfloat16 are 0.03: rounded, all of these would be equal.
    outputs = 5.0 + 0.001 * torch.outer(torch.arange(-1, 2), torch.arange(1, num_outputs + 1))
    if dueling:
        set_outputs(head.layers.value, [5.0] * num_outputs)
        set_outputs(head.layers.advantage, outputs.tolist())
        outputs = 5.0 + outputs - outputs.mean(dim=0)
    else:
        set_outputs(head.layers.stream, outputs.tolist())
    expected = outputs.mean(dim=1)
    if loss == "c51":
        expected = outputs.softmax(dim=1) @ torch.tensor([-2.0, 1.0, 4.0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        values = head.q_values(random_features(2).bfloat16())
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, expected.expand(2, 3), atol=1e-5, rtol=0.0)
    assert (expected.diff() >= 0.00099).all()


@pytest.mark.parametrize("torso", ["small", "impala"])
def test_a_learner_in_bfloat16_multiplies_in_it_and_returns_float32(torso):
    network = build(torso, pool_size=6, loss="c51", layer_norm=True)
    frames = random_frames(4, 4, 84, 84).numpy()
    exact, rounded = (
        make_learner(network, bfloat16=bfloat16).online.q_values(frames)
        for bfloat16 in (False, True)
    )
    assert rounded.dtype == exact.dtype == np.float32
    assert not np.allclose(rounded, exact, atol=1e-5)
    np.testing.assert_allclose(rounded, exact, atol=0.1)


# Double evaluates the online network without gradients first: weights that autocast rounded then
# must not be taken for the ones that need gradients.
@pytest.mark.parametrize(
    "bootstrap", [SoftBootstrap(alpha=0.9, temperature=0.03, clip=-1.0), DoubleBootstrap()]
)
def test_the_network_of_beyond_the_rainbow_learns_in_bfloat16(bootstrap):
    loss = ImplicitQuantileLoss(
        bootstrap=bootstrap, kappa=1.0, num_quantiles=8, num_target_quantiles=8
    )
    learner = make_learner(build(width=2, **BTR), loss, bfloat16=True)
    learner.update(random_batch(2, 4, 84, 84), 1e-4)
    for name, weight in learner.online.weights.named_parameters():
        assert weight.dtype == weight.grad.dtype == torch.float32
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0.0, name
    assert all(
        vector.dtype == torch.float32 for vector in power_vectors(learner.online.weights).values()
    )


@pytest.mark.parametrize("stack", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("batch", [1, 3])
def test_pixels_are_laid_out_with_the_channels_last(batch: int, stack: int) -> None:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (batch, stack, 84, 84), dtype=torch.uint8, generator=generator)
    before = pixels.clone()
    for observation in (pixels, pixels.contiguous(memory_format=torch.channels_last)):
        laid_out = channels_last(observation)
        assert laid_out.dtype == torch.uint8
        assert torch.equal(laid_out, before)
        assert laid_out.stride() == (stack * 84 * 84, 1, stack * 84, stack)
    assert torch.equal(pixels, before)
