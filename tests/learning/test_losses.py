"""Losses and bootstraps: against a slow reference, row by row, and against numbers by hand."""

import copy
import math

import pytest
import torch
from support.tiny import (
    COMBINATIONS,
    judge,
    lit_pixels,
    random_batch,
    slow_projection,
    slow_quantile_huber,
    small_config,
    small_network,
)
from torch import Tensor, nn

from dqn_zoo.learning.bootstraps import BOOTSTRAPS, DoubleBootstrap, GreedyBootstrap, SoftBootstrap
from dqn_zoo.learning.learner import Learner
from dqn_zoo.learning.losses import (
    LOSSES,
    CategoricalLoss,
    ImplicitQuantileLoss,
    QuantileLoss,
    TDLoss,
    build_loss,
)
from dqn_zoo.learning.online_network import OptimizerSettings
from dqn_zoo.learning.value_learning import squared
from dqn_zoo.networks.heads import (
    CategoricalHead,
    HeadSettings,
    QuantileHead,
    ScalarHead,
    midpoints,
)
from dqn_zoo.networks.network import QNetwork
from dqn_zoo.replay.memory import Batch
from dqn_zoo.settings.config import Config


class FixedFractions:
    """Gives for each number of columns always the same fractions."""

    def __init__(self, fractions: dict[int, Tensor]) -> None:
        self.fractions = fractions

    def __call__(self, rows: int, columns: int) -> Tensor:
        return self.fractions[columns].expand(rows, columns)


def fixed_fractions(config: Config, size: int = 12) -> FixedFractions:
    """Return the fractions that a learner of seed 3 draws: the target's first."""
    generator = torch.Generator().manual_seed(3)
    numbers = (config.num_target_quantiles, config.num_quantiles)
    return FixedFractions({n: torch.rand((size, n), generator=generator) for n in numbers})


# --- The slow reference


def reference_backup(
    online: QNetwork, target: QNetwork, batch: Batch, row: int, config: Config
) -> tuple[list[float], float, float]:
    """Return the next policy, what is added to the reward and what to the next value."""
    following = batch.next_observation[row : row + 1]
    if config.bootstrap in ("greedy", "double"):
        chooser = online if config.bootstrap == "double" else target
        values = chooser.q_values(following)[0].tolist()
        return [float(value == max(values)) for value in values], 0.0, 0.0
    temperature = config.munchausen_temperature

    def policy(observation: Tensor) -> list[float]:
        exponentials = [math.exp(q / temperature) for q in target.q_values(observation)[0].tolist()]
        return [exponential / sum(exponentials) for exponential in exponentials]

    taken = policy(batch.observation[row : row + 1])[int(batch.action[row])]
    clipped = max(config.munchausen_clip, temperature * math.log(taken))
    following_policy = policy(following)
    entropy = -sum(p * math.log(p) for p in following_policy)
    return following_policy, config.munchausen_alpha * clipped, temperature * entropy


def reference_row(online, target, batch, row, config, fractions):
    """Return loss (with its gradient), priority and value of one row, in Python numbers."""
    observation, following = batch.observation[row : row + 1], batch.next_observation[row : row + 1]
    action, discount = int(batch.action[row]), float(batch.discount[row])
    policy, extra_reward, extra_value = reference_backup(online, target, batch, row, config)
    reward = float(batch.reward[row]) + extra_reward

    def expected(values: list[float]) -> float:
        return sum(p * value for p, value in zip(policy, values, strict=True))

    if config.loss in ("huber", "squared"):
        value = online.q_values(observation)[0, action]
        next_value = expected(target.q_values(following)[0].tolist()) + extra_value
        error = reward + discount * next_value - value
        if config.loss == "squared":
            return error**2, abs(error), value
        return (0.5 * error**2 if abs(error) <= 1.0 else abs(error) - 0.5), abs(error), value

    if config.loss == "c51":
        support = torch.linspace(config.v_min, config.v_max, config.num_atoms).tolist()
        logs = online.head.log_probabilities(online.features(observation))[0, action]
        next_logs = target.head.log_probabilities(target.features(following))[0]
        probabilities = [expected(column.exp().tolist()) for column in next_logs.T]
        atoms = [reward + discount * atom for atom in support]
        goal = slow_projection(atoms, probabilities, support)
        value = sum(z * log.exp() for z, log in zip(support, logs, strict=True))
        loss = -sum(p * log for p, log in zip(goal, logs, strict=True))
        return loss, loss + sum(p * math.log(p) for p in goal if p > 0.0), value

    if config.loss == "qrdqn":
        shares = [(2 * i + 1) / (2 * config.num_quantiles) for i in range(config.num_quantiles)]
        quantiles = online.head.quantiles(online.features(observation))[0, action]
        next_quantiles = target.head.quantiles(target.features(following))[0]
    else:
        own, theirs = (
            fractions[n][row : row + 1] for n in (config.num_quantiles, config.num_target_quantiles)
        )
        shares = own[0].tolist()
        quantiles = online.head.quantiles(online.features(observation), own)[0, action]
        next_quantiles = target.head.quantiles(target.features(following), theirs)[0]
    goals = [reward + discount * (expected(c.tolist()) + extra_value) for c in next_quantiles.T]
    loss = slow_quantile_huber(quantiles, goals, shares, config.huber_kappa)
    return loss, loss, quantiles.mean()


def reference(online, target, batch, config, fractions) -> tuple[Tensor, Tensor, Tensor]:
    """Return losses, priorities and values of all rows."""
    rows = [
        reference_row(online, target, batch, row, config, fractions)
        for row in range(len(batch.action))
    ]
    losses, priorities, values = zip(*rows, strict=True)
    return torch.stack(losses), torch.stack(priorities).detach(), torch.stack(values).detach()


@pytest.mark.parametrize(("loss", "bootstrap"), COMBINATIONS)
def test_an_update_has_the_weighted_gradient_of_a_reference_computed_row_by_row(loss, bootstrap):
    config = small_config(loss, bootstrap)
    twin, target, batch = small_network(config), small_network(config, seed=6), random_batch()
    uniform = fixed_fractions(config)
    learner = Learner(
        small_network(config), build_loss(config), OptimizerSettings("adam", 1e-8, 1e9),
        seed=3, bfloat16=False,
    )  # fmt: skip
    learner.target.load_state_dict(target.state_dict())
    priorities = learner.update(batch, 1e-3)

    losses, expected_priorities, values = reference(twin, target, batch, config, uniform.fractions)
    weighted = sum(w * each for w, each in zip(batch.weight, losses, strict=True)) / len(losses)
    weighted.backward()
    for (name, own), other in zip(
        learner.online.weights.named_parameters(), twin.parameters(), strict=True
    ):
        torch.testing.assert_close(own.grad, other.grad, atol=1e-5, rtol=1e-4, msg=name)
    torch.testing.assert_close(priorities, expected_priorities, atol=1e-5, rtol=1e-4)
    metrics = learner.online.take_metrics()
    assert metrics["loss"] == pytest.approx(weighted.item(), rel=1e-4)
    assert metrics["q_mean"] == pytest.approx(values.mean().item(), rel=1e-4)


@pytest.mark.parametrize("loss", sorted(LOSSES))
def test_bootstraps_weights_and_networks_make_a_difference_on_these_batches(loss):
    """Without this the comparison with the reference could hold for the wrong reasons."""
    outputs = []
    for bootstrap in [b for name, b in COMBINATIONS if name == loss]:
        config = small_config(loss, bootstrap)
        online, target = small_network(config), small_network(config, seed=6)
        for pair in [(online, target), (online, online), (target, target)]:
            output = judge(build_loss(config), *pair, random_batch(), fixed_fractions(config))
            outputs.append(output.per_example.detach())
    # With one network for both, greedy and double are the same.
    pairs = [(0, 1), (0, 2), (0, 3), (3, 4), (3, 5)] + [(0, 6), (3, 6)] * (loss != "c51")
    for one, other in pairs:
        assert ((outputs[one] - outputs[other]).abs() > 0.02).sum() >= 3
    assert random_batch().weight.std() > 0.2


@pytest.mark.parametrize(("loss", "bootstrap"), COMBINATIONS)
def test_no_gradient_flows_through_the_target(loss, bootstrap):
    config = small_config(loss, bootstrap)
    network, uniform = small_network(config), fixed_fractions(config)
    gradients = []
    for target in (network, copy.deepcopy(network)):
        output = judge(build_loss(config), network, target, random_batch(), uniform)
        assert not output.priority.requires_grad
        assert not output.q_mean.requires_grad
        gradients.append(torch.autograd.grad(output.per_example.sum(), [*network.parameters()]))
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other)


@pytest.mark.parametrize(("loss", "bootstrap"), COMBINATIONS)
def test_losses_stay_float32_under_autocast(loss, bootstrap):
    """With layers that keep float32 nothing that is left may round: see each number unchanged."""
    config = small_config(loss, bootstrap)
    networks = small_network(config), small_network(config, seed=6)
    for network in networks:
        network.torso = Exact(network.torso)
        network.head.layers = Exact(network.head.layers)
        if loss == "iqn":
            network.head.embedding = Exact(network.head.embedding)
    # Black and white pixels, 0.0 and 1.0, are exact in bfloat16.
    batch = random_batch()
    observation, following = (
        (pixels > 127).to(torch.uint8) * 255
        for pixels in (batch.observation, batch.next_observation)
    )
    batch = batch._replace(observation=observation, next_observation=following)
    exact = judge(build_loss(config), *networks, batch, fixed_fractions(config))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = judge(build_loss(config), *networks, batch, fixed_fractions(config))
    for own, other in [(exact.per_example, cast.per_example), (exact.priority, cast.priority)]:
        assert other.dtype == torch.float32
        torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-5)


class Exact(nn.Module):
    """Computes a layer in float32 whatever autocast says."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            outputs: Tensor = self.layer(inputs.float())
        return outputs


@pytest.mark.parametrize(("loss", "bootstrap"), COMBINATIONS)
def test_bfloat16_layers_give_nearly_the_float32_loss(loss, bootstrap):
    config = small_config(loss, bootstrap)
    online, batch = small_network(config), random_batch(size=64)
    # One network for both, else a rounded near-tie changes the chosen action.
    arguments = (online, online, batch, fixed_fractions(config, size=64))
    exact = judge(build_loss(config), *arguments).per_example
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = judge(build_loss(config), *arguments).per_example
    assert not torch.equal(exact, cast)
    assert cast.mean().item() == pytest.approx(exact.mean().item(), rel=0.01)


# --- Numbers by hand, on networks that are tables


def table_network(table: list[list[float]]) -> QNetwork:
    """Return a network whose values are rows of a table, one for each lit pixel."""
    actions = len(table[0])
    layer = nn.Linear(6, actions, bias=False)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, : len(table)] = torch.tensor(table).T
    layers = nn.Sequential(layer, nn.Unflatten(1, (actions, 1)))
    head = ScalarHead(layers, HeadSettings(kind=ScalarHead), feature_size=6)
    return QNetwork(nn.Flatten(), head)


def table_batch(**fields: list[float]) -> Batch:
    """Return action 1 from state 0 to state 1, twice; the second time the game ends."""
    values = {"reward": [2.0, -1.0], "discount": [0.5, 0.0], **fields}
    return Batch(
        observation=lit_pixels(0, 0),
        action=torch.tensor([1, 1]),
        next_observation=lit_pixels(1, 1),
        weight=torch.ones(2),
        rows=torch.arange(2),
        **{name: torch.tensor(value) for name, value in values.items()},
    )


ONLINE_TABLE = [[70.0, 10.0, 90.0], [0.0, 0.0, 5.0]]  # likes action 2 best in state 1
TARGET_TABLE = [[60.0, 50.0, 40.0], [3.0, 8.0, 6.0]]  # likes action 1 best there


@pytest.mark.parametrize(
    # 2 + 0.5 * 8 - 10 and 2 + 0.5 * 6 - 10; the end of the game leaves -1 - 10.
    ("bootstrap", "errors"),
    [(GreedyBootstrap(), [4.0, 11.0]), (DoubleBootstrap(), [5.0, 11.0])],
)
def test_td_errors_by_hand(bootstrap, errors):
    loss = TDLoss(bootstrap=bootstrap, penalty=squared)
    networks = table_network(ONLINE_TABLE), table_network(TARGET_TABLE)
    output = judge(loss, *networks, table_batch(), torch.rand)
    assert output.priority.tolist() == pytest.approx(errors)
    assert output.per_example.tolist() == pytest.approx([error**2 for error in errors])
    assert float(output.q_mean) == pytest.approx(10.0)


def test_the_soft_bonus_is_not_discounted_and_the_entropy_is():
    temperature = 0.5
    logits = torch.tensor([[1.0, 3.0, 4.0], [2.0, 4.0, 2.0]]).log()
    target = table_network((temperature * logits).tolist())
    bootstrap = SoftBootstrap(alpha=0.6, temperature=temperature, clip=-9.0)
    loss = TDLoss(bootstrap=bootstrap, penalty=squared)
    output = judge(loss, table_network(ONLINE_TABLE), target, table_batch(), torch.rand)
    # The policies are [1/8, 3/8, 4/8] and [1/4, 1/2, 1/4]. Values and entropy together make
    # temperature * log of the sum of exp(q / temperature), which is 8 in state 1.
    bonus = 0.6 * 0.5 * math.log(3 / 8)
    goals = [2.0 + bonus + 0.5 * 0.5 * math.log(8), -1.0 + bonus]
    assert output.priority.tolist() == pytest.approx([10.0 - goal for goal in goals])


def test_the_soft_bonus_is_clipped_before_its_share():
    target = table_network([[5.0, 0.0, 0.0], [0.0, -99.0, -99.0]])  # log-policy -5 of action 1
    bootstrap = SoftBootstrap(alpha=0.6, temperature=1.0, clip=-2.0)
    loss = TDLoss(bootstrap=bootstrap, penalty=squared)
    output = judge(loss, table_network(ONLINE_TABLE), target, table_batch(), torch.rand)
    assert output.priority.tolist() == pytest.approx([10 - (2 - 1.2), 10 - (-1 - 1.2)])


def test_the_soft_bootstrap_reads_the_target_network_alone():
    config = small_config("huber", "soft")
    target, batch = small_network(config), random_batch()
    bootstrap = BOOTSTRAPS["soft"](config)
    next_q = target.q_values(batch.next_observation)
    backups = [
        bootstrap(next_q, small_network(config, seed=seed), target, batch) for seed in (1, 2)
    ]
    for one, other in zip(*backups, strict=True):
        assert torch.equal(one, other)
    swapped = bootstrap(next_q, target, small_network(config, seed=6), batch)
    assert not torch.allclose(backups[0].reward, swapped.reward)


@pytest.mark.parametrize("loss", sorted(set(LOSSES) - {"c51"}))
def test_soft_without_the_bonus_tends_to_greedy_at_low_temperatures(loss):
    def output(bootstrap: str, temperature: float) -> Tensor:
        config = small_config(
            loss, bootstrap, munchausen_alpha=0.0, munchausen_temperature=temperature
        )
        networks = small_network(config), small_network(config, seed=6)
        batch, fractions = random_batch(), fixed_fractions(config)
        return judge(build_loss(config), *networks, batch, fractions).per_example

    greedy = output("greedy", 1.0)
    distances = [(output("soft", t) - greedy).abs().max().item() for t in (1.0, 0.1, 1e-6)]
    assert distances[0] > 0.1
    assert distances[0] > distances[1]
    assert distances[2] < 1e-5


# --- Distributions


def fixed_categorical(rows: list[list[float]]) -> QNetwork:
    """Return a network with given probabilities of -1, 0 and 1 per action, whatever it sees."""
    probabilities = torch.tensor(rows)
    layer = nn.Linear(6, probabilities.numel())
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(probabilities.log().flatten())
    layers = nn.Sequential(layer, nn.Unflatten(1, tuple(probabilities.shape)))
    settings = HeadSettings(kind=CategoricalHead, num_atoms=3, v_min=-1.0, v_max=1.0)
    return QNetwork(nn.Flatten(), CategoricalHead(layers, settings, feature_size=6))


def test_a_sum_of_rewards_beyond_the_support_is_its_last_atom():
    online = fixed_categorical([[0.2, 0.7, 0.1], [0.5, 0.3, 0.2], [0.6, 0.3, 0.1]])
    loss = CategoricalLoss(bootstrap=GreedyBootstrap())
    batch = table_batch(reward=[2.97, -2.97], discount=[0.97, 0.97])  # three clipped rewards
    output = judge(loss, online, online, batch, torch.rand)
    assert output.per_example.tolist() == pytest.approx([-math.log(0.2), -math.log(0.5)])
    assert output.priority.tolist() == pytest.approx([-math.log(0.2), -math.log(0.5)])


def test_a_well_predicted_random_outcome_has_no_priority_but_a_cross_entropy():
    online = fixed_categorical([[0.2, 0.7, 0.1], [0.5, 0.2, 0.3], [0.6, 0.3, 0.1]])
    # The best next action, 0 (mean -0.1), becomes what action 1 has: nothing moves but the action.
    target = fixed_categorical([[0.5, 0.2, 0.3], [0.6, 0.3, 0.1], [0.8, 0.1, 0.1]])
    batch = table_batch(reward=[0.0, 0.0], discount=[1.0, 1.0])
    output = judge(CategoricalLoss(bootstrap=GreedyBootstrap()), online, target, batch, torch.rand)
    assert output.priority.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)
    entropy = 0.5 * math.log(2) + 0.2 * math.log(5) + 0.3 * math.log(1 / 0.3)
    assert output.per_example.tolist() == pytest.approx([entropy] * 2)


class AtMidpoints(nn.Module):
    """The quantiles that an implicit quantile head has at the midpoints."""

    def __init__(self, head: nn.Module, number: int) -> None:
        super().__init__()
        self.head, self.number = head, number

    def forward(self, features: Tensor) -> Tensor:
        return self.head.quantiles(features, midpoints(self.number).unsqueeze(0))


@pytest.mark.parametrize("bootstrap", sorted(BOOTSTRAPS))
def test_implicit_quantiles_at_the_midpoints_are_qrdqn(bootstrap):
    number = 8
    config = small_config("iqn", bootstrap, num_acting_quantiles=number)
    implicit = [small_network(config, seed=seed) for seed in (0, 6)]
    settings = HeadSettings(kind=QuantileHead, num_quantiles=number)
    explicit = [
        QNetwork(n.torso, QuantileHead(AtMidpoints(n.head, number), settings, feature_size=16))
        for n in implicit
    ]
    build = BOOTSTRAPS[bootstrap](config)
    uniform = FixedFractions({number: midpoints(number)})
    iqn = ImplicitQuantileLoss(
        bootstrap=build, kappa=0.7, num_quantiles=number, num_target_quantiles=number
    )
    qrdqn = QuantileLoss(bootstrap=build, kappa=0.7)
    outputs = [
        judge(iqn, *implicit, random_batch(), uniform),
        judge(qrdqn, *explicit, random_batch(), uniform),
    ]
    torch.testing.assert_close(outputs[0].per_example, outputs[1].per_example)
    parameters = [*implicit[0].parameters()]
    gradients = [torch.autograd.grad(out.per_example.sum(), parameters) for out in outputs]
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other, atol=1e-5, rtol=1e-4)


def test_implicit_quantiles_draw_separate_fractions_for_every_row_and_both_networks():
    drawn = []

    def recording(rows: int, columns: int) -> Tensor:
        drawn.append(torch.rand(rows, columns))
        return drawn[-1]

    config = small_config("iqn", num_quantiles=5, num_target_quantiles=6)
    networks = small_network(config), small_network(config, seed=6)
    batch = random_batch()
    output = judge(build_loss(config), *networks, batch, recording)
    fractions = {each.shape[1]: each for each in drawn}
    assert [each.shape[0] for each in fractions.values()] == [12, 12]
    assert len(torch.cat(drawn, dim=1).unique()) == 12 * (5 + 6)
    expected, _, _ = reference(*networks, batch, config, fractions)
    torch.testing.assert_close(output.per_example, expected)


def test_implicit_quantile_losses_grow_with_the_predictions_and_not_with_the_targets():
    config = small_config("iqn")
    networks = small_network(config), small_network(config, seed=6)

    def output(num_quantiles: int, num_target_quantiles: int) -> Tensor:
        loss = ImplicitQuantileLoss(
            bootstrap=GreedyBootstrap(), kappa=1.0,
            num_quantiles=num_quantiles, num_target_quantiles=num_target_quantiles,
        )  # fmt: skip
        always_half = FixedFractions({n: torch.tensor([0.5]) for n in (3, 4, 8)})
        return judge(loss, *networks, random_batch(), always_half).per_example

    torch.testing.assert_close(output(8, 3), 2 * output(4, 3))
    torch.testing.assert_close(output(4, 8), output(4, 3))
