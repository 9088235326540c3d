"""Torsos and heads against plain twins, hand-computed numbers and decoys."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from dqn_zoo import value_learning
from dqn_zoo.config import build_config
from dqn_zoo.heads import HEADS, HeadSettings, NoisyLinear, build_head, count_actions, midpoints
from dqn_zoo.learner import Learner, OptimizerSettings
from dqn_zoo.losses import DoubleBootstrap, ImplicitQuantileLoss, Loss, SoftBootstrap, TDLoss
from dqn_zoo.networks import NetworkSettings, QNetwork, build_network
from dqn_zoo.replay import Batch

KINDS = ("huber", "c51", "qrdqn", "iqn")
NUM_OUTPUTS = {"huber": 1, "squared": 1, "c51": 3, "qrdqn": 5, "iqn": 1}  # of `tiny_head`
TD = TDLoss(bootstrap=DoubleBootstrap(), penalty=value_learning.squared)
ADAM = OptimizerSettings("adam", 1e-8, 10.0)
BTR = {
    "torso": "impala", "pool_size": 6, "spectral_norm": True, "loss": "iqn", "dueling": True,
    "noisy_sigma": 0.5,
}  # fmt: skip


def network_settings(torso: str = "small", *, loss: str = "huber", **options) -> NetworkSettings:
    """Sort options by whether they belong to the torso, to the head or to both."""
    names = {"frame_stack", "width", "pool_size", "layer_norm", "spectral_norm"}
    of_torso = {name: value for name, value in options.items() if name in names}
    of_head = {n: value for n, value in options.items() if n not in names or n == "layer_norm"}
    head = HeadSettings(loss=loss, **of_head)
    return NetworkSettings(torso=torso, head=head, **{"frame_stack": 4} | of_torso)


def build(torso: str = "small", *, num_actions: int = 6, seed: int = 0, **options) -> QNetwork:
    return build_network(network_settings(torso, **options), num_actions=num_actions, seed=seed)


def tiny_head(loss: str, *, seed: int = 0, **options) -> nn.Module:
    """Build a head for 6 features and 3 actions; every size is a different number."""
    settings = HeadSettings(
        loss=loss, num_atoms=3, v_min=-2.0, v_max=4.0, num_quantiles=5, num_acting_quantiles=4,
        num_cosines=7, **options,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build_head(settings, feature_size=6, hidden_size=16, num_actions=3).eval()


def tiny_network(loss: str = "huber", **options) -> QNetwork:
    """Return a network for frames [batch, 1, 2, 3] whose features are its six pixels."""
    return QNetwork(nn.Flatten(), tiny_head(loss, **options)).eval()


def make_learner(
    network: QNetwork, loss: Loss = TD, *, seed: int = 0, bfloat16: bool = False
) -> Learner:
    return Learner(network, loss, ADAM, generator=np.random.default_rng(seed), bfloat16=bfloat16)


def random_frames(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def random_features(batch_size: int = 4) -> Tensor:
    return torch.randn(batch_size, 6, generator=torch.Generator().manual_seed(9))


def random_batch(*shape: int) -> Batch:
    size = shape[0]
    return Batch(
        observation=random_frames(*shape, seed=1),
        action=torch.arange(size) % 3,
        reward=torch.linspace(-1.0, 2.0, size),
        discount=torch.full((size,), 0.9),
        next_observation=random_frames(*shape, seed=2),
        weight=torch.linspace(0.5, 1.0, size),
        rows=torch.arange(size),
    )


def scramble_norms(module: nn.Module) -> None:
    """Make scales and shifts of norms differ; the initial ones and zeros would hide them."""
    norms = [m for m in module.modules() if isinstance(m, (nn.GroupNorm, nn.LayerNorm))]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm in norms:
            norm.weight.uniform_(0.5, 2.0, generator=generator)
            norm.bias.uniform_(-1.0, 1.0, generator=generator)


def same_tensors(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


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
    network.reset_noise(np.random.default_rng(0))  # without noise its sigmas have no gradient
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


@pytest.mark.parametrize("flag", ["layer_norm", "spectral_norm", "dueling"])
def test_settings_of_a_network_come_from_the_keys_of_their_names(flag):
    config = build_config({
        "network": "impala", "frame_stack": 3, "network_width": 2, "network_pool": 6,
        "loss": "c51", "noisy_sigma": 0.4, "num_atoms": 11, "v_min": -5.0, "v_max": 7.0,
        "num_quantiles": 12, "num_target_quantiles": 13, "num_acting_quantiles": 14,
        "num_cosines": 15, flag: True,
    })  # fmt: skip
    assert NetworkSettings.from_config(config) == NetworkSettings(
        torso="impala", frame_stack=3, width=2, pool_size=6,
        layer_norm=flag == "layer_norm", spectral_norm=flag == "spectral_norm",
        head=HeadSettings(
            loss="c51", dueling=flag == "dueling", noisy_sigma=0.4,
            layer_norm=flag == "layer_norm", num_atoms=11, v_min=-5.0, v_max=7.0,
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


# --- Heads against a plain twin


def stream_by_hand(stream: nn.Module, features: Tensor) -> Tensor:
    hidden = features @ stream.hidden.weight.T + stream.hidden.bias
    if isinstance(stream.norm, nn.LayerNorm):
        norm = stream.norm
        centred = hidden - hidden.mean(dim=-1, keepdim=True)
        deviation = (centred.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()
        hidden = centred / deviation * norm.weight + norm.bias
    return hidden.clamp(min=0.0) @ stream.output.weight.T + stream.output.bias


def outputs_by_hand(head: nn.Module, features: Tensor, num_outputs: int) -> list[Tensor]:
    """Return [rows, outputs] for each of the three actions."""
    if hasattr(head.layers, "stream"):
        flat = stream_by_hand(head.layers.stream, features)
        return [flat[:, a * num_outputs : (a + 1) * num_outputs] for a in range(3)]
    value = stream_by_hand(head.layers.value, features)
    flat = stream_by_hand(head.layers.advantage, features)
    advantages = [flat[:, a * num_outputs : (a + 1) * num_outputs] for a in range(3)]
    mean = (advantages[0] + advantages[1] + advantages[2]) / 3.0
    return [value + advantage - mean for advantage in advantages]


def embedding_by_hand(head: nn.Module, fraction: float) -> Tensor:
    """Return phi of equation 4 of Dabney et al. (2018b): float32 [6]."""
    weight, bias = head.embedding.weight.tolist(), head.embedding.bias.tolist()
    return torch.tensor([
        max(0.0, bias[j] + sum(math.cos(math.pi * i * fraction) * weight[j][i] for i in range(7)))
        for j in range(6)
    ])  # fmt: skip


def q_values_by_hand(head: nn.Module, loss: str, features: Tensor) -> Tensor:
    if loss == "iqn":
        samples = [
            torch.cat(outputs_by_hand(head, features * embedding_by_hand(head, fraction), 1), dim=1)
            for fraction in (0.125, 0.375, 0.625, 0.875)
        ]
        return sum(samples) / 4.0
    outputs = outputs_by_hand(head, features, NUM_OUTPUTS[loss])
    if loss == "c51":
        atoms = torch.tensor([-2.0, 1.0, 4.0])
        outputs = [(o.exp() / o.exp().sum(dim=1, keepdim=True) * atoms).sum(dim=1) for o in outputs]
    elif loss == "qrdqn":
        outputs = [o.sum(dim=1) / 5.0 for o in outputs]
    else:
        outputs = [o[:, 0] for o in outputs]
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("loss", sorted(HEADS))
def test_every_head_equals_a_twin_written_out_by_hand(loss, dueling, layer_norm):
    head = tiny_head(loss, dueling=dueling, layer_norm=layer_norm)
    scramble_norms(head)
    features = random_features()
    expected = q_values_by_hand(head, loss, features)
    torch.testing.assert_close(head.q_values(features), expected, atol=1e-6, rtol=1e-5)


def set_outputs(stream: nn.Module, outputs: list) -> None:
    """Let a stream give the same outputs whatever it sees."""
    with torch.no_grad():
        stream.output.weight.zero_()
        stream.output.bias.copy_(torch.tensor(outputs).flatten())


@pytest.mark.parametrize("loss", ["huber", "iqn"])
def test_dueling_adds_the_value_and_the_advantage_less_its_mean(loss):
    head = tiny_head(loss, dueling=True)
    set_outputs(head.layers.value, [10.0])
    set_outputs(head.layers.advantage, [1.0, 2.0, 6.0])
    assert head.q_values(random_features(2)).tolist() == [[8.0, 9.0, 13.0]] * 2


def test_dueling_takes_the_mean_over_actions_and_not_over_outputs():
    head = tiny_head("c51", dueling=True)
    set_outputs(head.layers.value, [10.0, 20.0, 30.0])
    set_outputs(head.layers.advantage, [[1.0, 10.0, 0.0], [2.0, 20.0, 300.0], [6.0, 60.0, 600.0]])
    assert head.layers(random_features(1)).tolist() == [
        [[8.0, 0.0, -270.0], [9.0, 10.0, 30.0], [13.0, 50.0, 330.0]]
    ]


@pytest.mark.parametrize("loss", KINDS)
def test_dueling_sends_back_a_gradient_smaller_by_the_root_of_two(loss):
    head = tiny_head(loss, dueling=True)
    weights = torch.tensor([0.3, -1.0, 2.0])
    gradients = []
    for compute in (head.q_values, lambda values: q_values_by_hand(head, loss, values)):
        features = random_features().requires_grad_()
        head.zero_grad()
        (compute(features) * weights).sum().backward()
        streams = [weight.grad.clone() for weight in head.layers.parameters()]
        gradients.append((features.grad, streams))
    (scaled, own), (whole, plain) = gradients
    torch.testing.assert_close(scaled, whole * 0.7071068, atol=1e-6, rtol=1e-4)
    for first, second in zip(own, plain, strict=True):  # those of the streams stay whole
        torch.testing.assert_close(first, second, atol=1e-6, rtol=1e-4)


# --- Distributions


def test_c51_values_are_the_expectation_of_the_atoms():
    head = tiny_head("c51")  # atoms -2, 1 and 4
    shares = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.1, 0.3], [0.0625, 0.9, 0.0375]])
    shift = torch.tensor([[5.0], [-3.0], [1.0]])  # of one action's logits: changes nothing
    set_outputs(head.layers.stream, (shares.log() + shift).tolist())
    features = random_features(2)
    probabilities = head.log_probabilities(features).exp()
    torch.testing.assert_close(probabilities, shares.expand(2, 3, 3))
    # -0.4 + 0.3 + 2.0, -1.2 + 0.1 + 1.2, -0.125 + 0.9 + 0.15
    assert head.q_values(features)[1].tolist() == pytest.approx([1.9, 0.1, 0.925], abs=1e-5)


def test_qrdqn_values_are_the_mean_over_the_quantiles_of_each_action():
    head = tiny_head("qrdqn")
    quantiles = [[1.0, 2.0, 3.0, 4.0, 40.0], [-1.0, -2.0, 0.0, 1.0, 2.0], [5.0] * 5]
    set_outputs(head.layers.stream, quantiles)
    assert head.quantiles(random_features(2))[1].tolist() == quantiles
    assert head.q_values(random_features(2)).tolist() == [[10.0, 0.0, 5.0]] * 2


def test_midpoints_lie_in_the_middle_of_equal_shares():
    assert midpoints(4).tolist() == [0.125, 0.375, 0.625, 0.875]
    assert midpoints(1).tolist() == [0.5]


def test_iqn_quantiles_equal_a_loop_over_rows_and_fractions():
    head = tiny_head("iqn")
    features = random_features(2)
    fractions = torch.tensor([[0.0, 0.3, 0.5, 0.9], [1.0, 0.1, 0.7, 0.5]])
    quantiles = head.quantiles(features, fractions)
    assert quantiles.shape == (2, 3, 4)
    for row, column in itertools.product(range(2), range(4)):
        embedded = embedding_by_hand(head, float(fractions[row, column]))
        expected = stream_by_hand(head.layers.stream, features[row] * embedded)
        torch.testing.assert_close(quantiles[row, :, column], expected, atol=1e-6, rtol=1e-5)


def test_iqn_fractions_belong_to_their_rows_unless_there_is_one_row_for_all():
    head = tiny_head("iqn")
    features = random_features(1).repeat(2, 1)
    fractions = torch.tensor([[0.1, 0.6], [0.9, 0.3]])
    own = head.quantiles(features, fractions)
    assert (own[0] - own[1]).abs().min() > 1e-4
    different = random_features(2)
    shared = head.quantiles(different, fractions[:1])
    torch.testing.assert_close(shared, head.quantiles(different, fractions[:1].repeat(2, 1)))


def test_iqn_values_are_the_mean_at_midpoints_and_always_the_same():
    head = tiny_head("iqn")
    features = random_features()
    at_midpoints = head.quantiles(features, torch.tensor([[0.125, 0.375, 0.625, 0.875]]))
    torch.testing.assert_close(head.q_values(features), at_midpoints.mean(dim=2))
    assert torch.equal(head.q_values(features), head.q_values(features))


# --- Noise


def noisy_layer(in_features: int = 5, out_features: int = 3, sigma: float = 0.5) -> NoisyLinear:
    """Return a layer whose means and sigmas are all different numbers."""
    layer = NoisyLinear(in_features, out_features, sigma)
    with torch.no_grad():
        for seed, weight in enumerate(layer.parameters()):
            weight.uniform_(-1.0, 1.0, generator=torch.Generator().manual_seed(seed))
    return layer


def test_noise_is_factorised_as_in_the_paper():
    layer = noisy_layer()
    layer.reset_noise(np.random.default_rng(4))
    normal = np.random.default_rng(4).standard_normal(8, np.float32).tolist()
    noise = [math.copysign(math.sqrt(abs(x)), x) for x in normal]
    assert min(noise) < 0.0 < max(noise)
    noise_in, noise_out = noise[:5], noise[5:]
    inputs = torch.randn(2, 5, generator=torch.Generator().manual_seed(1))
    weight, bias = layer.weight.tolist(), layer.bias.tolist()
    weight_sigma, bias_sigma = layer.weight_sigma.tolist(), layer.bias_sigma.tolist()
    expected = [
        [
            bias[j] + bias_sigma[j] * noise_out[j]
            + sum(
                (weight[j][i] + weight_sigma[j][i] * noise_in[i] * noise_out[j]) * x
                for i, x in enumerate(row)
            )
            for j in range(3)
        ]
        for row in inputs.tolist()
    ]  # fmt: skip
    torch.testing.assert_close(layer(inputs), torch.tensor(expected), atol=1e-5, rtol=1e-5)


def test_equal_generators_give_equal_noise_and_without_noise_the_means_are_left():
    layer, inputs = noisy_layer(), torch.ones(1, 5)
    means = functional.linear(inputs, layer.weight, layer.bias)
    outputs = [layer(inputs)]
    generator = np.random.default_rng(1)
    for _ in range(2):
        layer.reset_noise(generator)
        outputs += [layer(inputs), layer(inputs)]
    assert torch.equal(outputs[0], means)  # no noise before the first draw
    assert torch.equal(outputs[1], outputs[2])  # one draw holds until the next
    assert torch.equal(outputs[3], outputs[4])
    assert not torch.allclose(outputs[1], outputs[3])
    assert not torch.allclose(outputs[1], means)
    layer.reset_noise(np.random.default_rng(1))
    assert torch.equal(layer(inputs), outputs[1])
    layer.remove_noise()
    assert torch.equal(layer(inputs), means)


def test_noisy_weights_start_in_the_ranges_of_the_paper():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = NoisyLinear(100, 400, 0.3)
    for mean in (layer.weight.detach(), layer.bias.detach()):
        assert 0.095 < mean.abs().max() <= 0.1  # uniform up to 1 / sqrt(100)
        assert mean.abs().mean() == pytest.approx(0.05, rel=0.1)
    for sigma in (layer.weight_sigma.detach(), layer.bias_sigma.detach()):
        torch.testing.assert_close(sigma, torch.full_like(sigma, 0.03))  # 0.3 / sqrt(100)


@pytest.mark.parametrize("loss", KINDS)
def test_with_sigma_zero_a_noisy_network_is_the_plain_one(loss):
    plain = tiny_network(loss, dueling=True)
    noisy = tiny_network(loss, dueling=True, noisy_sigma=0.0, seed=1)
    missing = noisy.load_state_dict(plain.state_dict(), strict=False).missing_keys
    frames = random_frames(4, 1, 2, 3)
    noisy.reset_noise(np.random.default_rng(0))
    torch.testing.assert_close(noisy.q_values(frames), plain.q_values(frames))
    with torch.no_grad():
        for name in missing:
            noisy.get_parameter(name).fill_(0.5)
    assert len(missing) == 8  # weight and bias of two layers in two streams
    assert not torch.allclose(noisy.q_values(frames), plain.q_values(frames), atol=0.01)


def test_every_noisy_layer_has_noise_of_its_own():
    network = tiny_network(dueling=True, noisy_sigma=0.5)
    network.reset_noise(np.random.default_rng(0))
    hidden = [network.head.layers.value.hidden, network.head.layers.advantage.hidden]
    with torch.no_grad():
        for layer in hidden:
            layer.weight.zero_()
            layer.bias.zero_()
    first, second = (layer(torch.ones(1, 6)) for layer in hidden)
    assert (first - second).abs().min() > 0.0


def test_values_to_judge_by_have_no_noise_and_values_to_explore_with_have_new_noise():
    network = tiny_network(noisy_sigma=0.5)
    learner = make_learner(network)
    frames = random_frames(4, 1, 2, 3)
    means = q_values_by_hand(network.head, "huber", frames.flatten(1) / 255.0).detach()
    torch.testing.assert_close(network.q_values(frames), means)  # as built
    explored = [learner.noisy_q_values(frames.numpy()) for _ in range(2)]
    assert not np.allclose(explored[0], explored[1], atol=0.01)
    assert not np.allclose(explored[0], means, atol=0.01)
    for _ in range(2):
        np.testing.assert_allclose(learner.q_values(frames.numpy()), means, rtol=1e-5, atol=1e-6)
    learner.update(random_batch(4, 1, 2, 3), 0.0)
    np.testing.assert_allclose(learner.q_values(frames.numpy()), means, rtol=1e-5, atol=1e-6)


def test_an_update_draws_new_noise_for_the_online_and_for_the_target_network():
    learner = make_learner(tiny_network(noisy_sigma=0.5))
    frames = random_frames(4, 1, 2, 3)
    values = [learner.online.q_values(frames), learner.target.q_values(frames)]
    torch.testing.assert_close(values[0], values[1])  # both without noise
    for _ in range(2):
        learner.update(random_batch(4, 1, 2, 3), 0.0)  # the weights stay
        values += [learner.online.q_values(frames), learner.target.q_values(frames)]
    for first, second in itertools.combinations(values[1:], 2):
        assert not torch.allclose(first, second, atol=0.01)


@pytest.mark.parametrize("network", ["online", "target"])
def test_the_loss_of_an_update_is_computed_under_its_noise(network):
    losses = set()
    for seed in range(3):
        learner = make_learner(tiny_network(noisy_sigma=0.5), seed=seed)
        quiet = learner.target if network == "online" else learner.online
        with torch.no_grad():
            for name, weight in quiet.named_parameters():
                if "sigma" in name:
                    weight.zero_()
        learner.update(random_batch(4, 1, 2, 3), 0.0)
        losses.add(learner.take_metrics()["loss"])
    assert len(losses) == 3


def test_without_noisy_layers_nothing_is_drawn():
    frames = random_frames(4, 1, 2, 3).numpy()
    for sigma in (None, 0.5):
        learner = make_learner(tiny_network(noisy_sigma=sigma))
        states = [learner.state()["generator"]]
        learner.q_values(frames)
        states.append(learner.state()["generator"])
        learner.noisy_q_values(frames)
        states.append(learner.state()["generator"])
        learner.update(random_batch(4, 1, 2, 3), 0.0)
        states.append(learner.state()["generator"])
        draws = [before != after for before, after in itertools.pairwise(states)]
        assert draws == ([False, False, False] if sigma is None else [False, True, True])


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
        lambda: learner.online.q_values(frames),
        lambda: learner.q_values(frames.numpy()),
        lambda: learner.noisy_q_values(frames.numpy()),
    ):
        before = copy.deepcopy(learner.online.state_dict())
        act()
        assert same_tensors(learner.online.state_dict(), before)
        learner.update(random_batch(2, 4, 84, 84), 1e-3)  # which must end in evaluation mode


def test_power_iteration_follows_the_online_network_and_not_the_target():
    learner = make_learner(build("impala", spectral_norm=True).train())
    start = power_vectors(learner.online)
    for _ in range(2):
        before = power_vectors(learner.online)
        learner.update(random_batch(2, 4, 84, 84), 1e-3)
        moved = power_vectors(learner.online)
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
    normed = [m for m in learner.online.modules() if parametrize.is_parametrized(m)]
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
    weights = load(save(learner.online.state_dict()))
    restored = build(seed=5, **BTR)
    restored.load_state_dict(weights)
    frames = random_frames(2, 4, 84, 84)
    assert same_tensors(restored.state_dict(), learner.online.state_dict())
    learner.online.remove_noise()
    assert torch.equal(restored.q_values(frames), learner.online.q_values(frames))


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
        make_learner(network, bfloat16=bfloat16).q_values(frames) for bfloat16 in (False, True)
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
    for name, weight in learner.online.named_parameters():
        assert weight.dtype == weight.grad.dtype == torch.float32
        assert weight.grad.isfinite().all(), name
        assert weight.grad.abs().max() > 0.0, name
    assert all(vector.dtype == torch.float32 for vector in power_vectors(learner.online).values())


# --- Weights of unknown origin


@pytest.mark.parametrize("noisy_sigma", [None, 0.5])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("loss", sorted(HEADS))
def test_actions_are_counted_from_the_weights(loss, dueling, noisy_sigma):
    options = {"dueling": dueling, "noisy_sigma": noisy_sigma, "num_atoms": 11, "num_quantiles": 13}
    settings = network_settings("small", loss=loss, **options)
    weights = build_network(settings, num_actions=7, seed=0).state_dict()
    assert count_actions(settings.head, weights) == 7
    other = network_settings("small", loss=loss, **options | {"dueling": not dueling})
    assert count_actions(other.head, weights) is None
    assert count_actions(settings.head, {}) is None
    name = f"head.layers.{'advantage' if dueling else 'stream'}.output.bias"
    assert count_actions(settings.head, {name: weights[name].unsqueeze(0)}) is None
