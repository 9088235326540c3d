"""The average of the weights: which updates it looks at, what each counts, what it leaves alone."""

import pytest
import torch
from support.network_makers import ADAM, build, file_bytes, random_frames, tiny_network
from torch import Tensor

from dqn_zoo.learning.averaged import EVERY_UPDATES, PlayedWeights
from dqn_zoo.learning.online_network import OnlineNetwork

HALF = 0.5 ** (1 / EVERY_UPDATES)  # of two looks in a row the earlier counts half
FRAMES = random_frames(5, 1, 2, 3).numpy()


def online_network(network=None, *, bfloat16: bool = False) -> OnlineNetwork:
    return OnlineNetwork(network or tiny_network(), ADAM, seed=0, bfloat16=bfloat16)


def fill(network, value: float) -> None:
    network.load_state_dict({n: torch.full_like(t, value) for n, t in network.state_dict().items()})


def only_value(network) -> float:
    numbers = torch.cat([parameter.flatten() for parameter in network.parameters()])
    assert (numbers == numbers[0]).all()
    return float(numbers[0])


def averages(*steps: tuple[int, float], decay: float = HALF) -> list[float]:
    """Return the average after each (updates, value that all weights have then)."""
    online, found = online_network(), []
    fill(online.weights, 100.0)  # no part of any average
    played = PlayedWeights(online, decay)
    for updates, value in steps:
        fill(online.weights, value)
        played.follow(updates)
        found.append(only_value(played.network))
    return found


def test_the_average_by_hand():
    # 1; (1/2 + 2) / 1.5; (1/4 + 2/2 + 4) / 1.75. Without the correction it would begin at 50.5.
    assert averages((8, 1.0), (16, 2.0), (24, 4.0)) == pytest.approx([1.0, 5 / 3, 3.0])


def test_between_two_looks_nothing_is_looked_at():
    steps = (7, 9.0), (9, 1.0), (15, 9.0), (17, 2.0), (23, 9.0), (30, 4.0)
    assert averages(*steps) == pytest.approx([100.0, 1.0, 1.0, 5 / 3, 5 / 3, 3.0])


def test_after_many_updates_at_once_what_came_before_counts_as_little_as_it_is_old():
    # Three looks later 1 counts 1/8 * 1/2, and 16 all the rest: 1/2 + 1/4 + 1/8, of 15/16 in all.
    assert averages((8, 1.0), (32, 16.0)) == pytest.approx([1.0, 15.0])


def test_a_slow_average_is_the_plain_mean_at_first():
    found = averages((8, 1.0), (16, 2.0), (24, 6.0), decay=1 - 1e-9)
    assert found == pytest.approx([1.0, 1.5, 3.0], rel=1e-4)


def test_an_average_that_was_put_back_goes_on_as_if_it_had_never_stopped():
    whole, online = averages((8, 1.0), (16, 2.0), (24, 4.0)), online_network()
    resumed = PlayedWeights(online, HALF)
    fill(online.weights, 5 / 3)
    files = {"model.safetensors": file_bytes(online.weights)}
    resumed.restore(files.__getitem__, 17)
    fill(online.weights, 4.0)
    resumed.follow(23)  # the look at 16 was made
    assert only_value(resumed.network) == pytest.approx(whole[1])
    resumed.follow(24)
    assert only_value(resumed.network) == pytest.approx(whole[2])


def test_without_a_decay_what_learns_is_what_plays():
    online = online_network()
    played = PlayedWeights(online, 0.0)
    played.follow(8)
    assert (played.network, played.online_file) == (online.weights, "model.safetensors")
    assert (played.q_values(FRAMES) == online.q_values(FRAMES)).all()


@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_average_plays_and_the_online_network_does_not(bfloat16):
    online = online_network(bfloat16=bfloat16)
    played = PlayedWeights(online, HALF)
    played.follow(8)
    expected = online_network(tiny_network(), bfloat16=bfloat16).q_values(FRAMES)
    before = online.q_values(FRAMES)
    with torch.no_grad():
        online.weights.head.layers.stream.output.bias.add_(3.0)
    assert (played.q_values(FRAMES) == expected).all(), "until the next look"
    played.follow(16)
    assert played.q_values(FRAMES) == pytest.approx(before + 2.0, abs=1e-5)  # 3 / 1.5
    assert online.q_values(FRAMES) == pytest.approx(before + 3.0, abs=1e-5)


def test_noise_is_not_played():
    online = online_network(tiny_network(noisy_sigma=0.5))
    online.noisy_q_values(FRAMES)
    played = PlayedWeights(online, HALF)
    played.follow(8)
    assert (played.q_values(FRAMES) == online.q_values(FRAMES)).all()


def largest_singular_values(network) -> Tensor:
    convolutions = [m for m in network.modules() if hasattr(m, "parametrizations")]
    assert convolutions
    return torch.stack([torch.linalg.matrix_norm(c.weight.flatten(1), 2) for c in convolutions])


def test_spectral_norms_are_those_of_the_average():
    online = online_network(build("impala", spectral_norm=True))
    other = build("impala", seed=1, spectral_norm=True)
    played = PlayedWeights(online, HALF)
    online.load_weights(other.state_dict())
    first = played.network.state_dict()
    names = [name for name in first if name.endswith(("._u", "._v"))]
    kept = {name: first[name].clone() for name in names}
    for look in range(1, 13):
        played.follow(look * EVERY_UPDATES)
    with torch.no_grad():
        assert largest_singular_values(played.network) == pytest.approx(torch.ones(12), abs=0.1)
        # Vectors that stay are those of other weights.
        played.network.load_state_dict(kept, strict=False)
        assert (largest_singular_values(played.network) > 2.0).all()
