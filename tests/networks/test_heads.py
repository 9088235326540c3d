"""Heads, distributions and noise against plain twins, hand-computed numbers and decoys."""

import itertools
import math

import numpy as np
import pytest
import torch
from support.network_makers import (
    KINDS,
    NUM_OUTPUTS,
    make_learner,
    network_settings,
    random_batch,
    random_features,
    random_frames,
    scramble_norms,
    set_outputs,
    tiny_head,
    tiny_network,
)
from torch import Tensor, nn
from torch.nn import functional

from dqn_zoo.learning.losses import LOSSES
from dqn_zoo.networks.heads import midpoints
from dqn_zoo.networks.network import build_network
from dqn_zoo.networks.noisy import NoisyLinear
from dqn_zoo.networks.shapes import count_actions

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
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_every_head_equals_a_twin_written_out_by_hand(loss, dueling, layer_norm):
    head = tiny_head(loss, dueling=dueling, layer_norm=layer_norm)
    scramble_norms(head)
    features = random_features()
    expected = q_values_by_hand(head, loss, features)
    torch.testing.assert_close(head.q_values(features), expected, atol=1e-6, rtol=1e-5)


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


@pytest.mark.parametrize("loss", ["huber", "iqn"])
def test_mean_expansion_adds_three_times_the_mean_of_three_actions(loss):
    head = tiny_head(loss, mean_expansion=True)
    set_outputs(head.layers.stream, [1.0, 2.0, 6.0])
    assert head.q_values(random_features(2)).tolist() == [[10.0, 11.0, 15.0]] * 2


def test_mean_expansion_takes_the_mean_over_actions_and_not_over_quantiles():
    head = tiny_head("qrdqn", mean_expansion=True)
    outputs = [[1.0, 0.0, 0.0, 10.0, 5.0], [2.0, 0.0, 3.0, 20.0, 5.0], [6.0, 0.0, 0.0, 30.0, 5.0]]
    set_outputs(head.layers.stream, outputs)
    assert head.quantiles(random_features(1)).tolist() == [
        [[10.0, 0.0, 3.0, 70.0, 20.0], [11.0, 0.0, 6.0, 80.0, 20.0], [15.0, 0.0, 3.0, 90.0, 20.0]]
    ]


def test_with_mean_expansion_one_actions_error_moves_all_and_its_own_output_twice_as_much():
    head = tiny_head("huber", mean_expansion=True)
    head.q_values(random_features(1))[0, 1].backward()
    assert head.layers.stream.output.bias.grad.tolist() == [1.0, 2.0, 1.0]


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
    layer.reset_noise(torch.Generator().manual_seed(4))
    normal = torch.randn(8, generator=torch.Generator().manual_seed(4)).tolist()
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
    generator = torch.Generator().manual_seed(1)
    for _ in range(2):
        layer.reset_noise(generator)
        outputs += [layer(inputs), layer(inputs)]
    assert torch.equal(outputs[0], means)  # no noise before the first draw
    assert torch.equal(outputs[1], outputs[2])  # one draw holds until the next
    assert torch.equal(outputs[3], outputs[4])
    assert not torch.allclose(outputs[1], outputs[3])
    assert not torch.allclose(outputs[1], means)
    layer.reset_noise(torch.Generator().manual_seed(1))
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
    noisy.reset_noise(torch.Generator())
    torch.testing.assert_close(noisy.q_values(frames), plain.q_values(frames))
    with torch.no_grad():
        for name in missing:
            noisy.get_parameter(name).fill_(0.5)
    assert len(missing) == 8  # weight and bias of two layers in two streams
    assert not torch.allclose(noisy.q_values(frames), plain.q_values(frames), atol=0.01)


def test_every_noisy_layer_has_noise_of_its_own():
    network = tiny_network(dueling=True, noisy_sigma=0.5)
    network.reset_noise(torch.Generator())
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
    explored = [learner.online.noisy_q_values(frames.numpy()) for _ in range(2)]
    assert not np.allclose(explored[0], explored[1], atol=0.01)
    assert not np.allclose(explored[0], means, atol=0.01)
    for _ in range(2):
        np.testing.assert_allclose(
            learner.online.q_values(frames.numpy()), means, rtol=1e-5, atol=1e-6
        )
    learner.update(random_batch(4, 1, 2, 3), 0.0)
    np.testing.assert_allclose(learner.online.q_values(frames.numpy()), means, rtol=1e-5, atol=1e-6)


def test_an_update_draws_new_noise_for_the_online_and_for_the_target_network():
    learner = make_learner(tiny_network(noisy_sigma=0.5))
    frames = random_frames(4, 1, 2, 3)
    values = [learner.online.weights.q_values(frames), learner.target.q_values(frames)]
    torch.testing.assert_close(values[0], values[1])  # both without noise
    for _ in range(2):
        learner.update(random_batch(4, 1, 2, 3), 0.0)  # the weights stay
        values += [learner.online.weights.q_values(frames), learner.target.q_values(frames)]
    for first, second in itertools.combinations(values[1:], 2):
        assert not torch.allclose(first, second, atol=0.01)


@pytest.mark.parametrize("network", ["online", "target"])
def test_the_loss_of_an_update_is_computed_under_its_noise(network):
    losses = set()
    for seed in range(3):
        learner = make_learner(tiny_network(noisy_sigma=0.5), seed=seed)
        quiet = learner.target if network == "online" else learner.online.weights
        with torch.no_grad():
            for name, weight in quiet.named_parameters():
                if "sigma" in name:
                    weight.zero_()
        learner.update(random_batch(4, 1, 2, 3), 0.0)
        losses.add(learner.online.take_metrics()["loss"])
    assert len(losses) == 3


def test_without_noisy_layers_nothing_is_drawn():
    frames = random_frames(4, 1, 2, 3).numpy()
    for sigma in (None, 0.5):
        learner = make_learner(tiny_network(noisy_sigma=sigma))
        states = [learner.online.state()["generator"]]
        learner.online.q_values(frames)
        states.append(learner.online.state()["generator"])
        learner.online.noisy_q_values(frames)
        states.append(learner.online.state()["generator"])
        learner.update(random_batch(4, 1, 2, 3), 0.0)
        states.append(learner.online.state()["generator"])
        draws = [before != after for before, after in itertools.pairwise(states)]
        assert draws == ([False, False, False] if sigma is None else [False, True, True])


# --- Weights of unknown origin


@pytest.mark.parametrize("noisy_sigma", [None, 0.5])
@pytest.mark.parametrize("dueling", [False, True])
@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_actions_are_counted_from_the_weights(loss, dueling, noisy_sigma):
    options = {"dueling": dueling, "noisy_sigma": noisy_sigma, "num_atoms": 11, "num_quantiles": 13}
    settings = network_settings("small", loss=loss, **options)
    weights = build_network(settings, num_actions=7, seed=0).state_dict()
    shapes = {name: tuple(value.shape) for name, value in weights.items()}
    before = torch.get_rng_state()
    assert count_actions(settings.head, shapes) == 7
    assert torch.equal(torch.get_rng_state(), before)
    other = network_settings("small", loss=loss, **options | {"dueling": not dueling})
    assert count_actions(other.head, shapes) is None
    assert count_actions(settings.head, {}) is None
    name = f"head.layers.{'advantage' if dueling else 'stream'}.output.bias"
    assert count_actions(settings.head, {name: (1, *shapes[name])}) is None
