"""The equations against numbers computed by hand, with decoys, and against slow loops."""

import math

import pytest
import torch
from support.tiny import slow_projection, slow_quantile_huber
from torch import Tensor

from dqn_zoo.learning import distributions, value_learning

# The best target action is 1 (value 7), the best online action is 2: its target value is 4.
Q_TARGET = torch.tensor([[5.0, 7.0, 4.0], [-1.0, -9.0, -3.0]])
Q_ONLINE = torch.tensor([[99.0, 91.0, 100.0], [-50.0, -60.0, -40.0]])
# Logits of the policies [1/8, 3/8, 4/8] and [1/2, 1/4, 1/4].
LOGITS = torch.tensor([[1.0, 3.0, 4.0], [2.0, 1.0, 1.0]]).log()


# --- Policies


def test_select_takes_what_belongs_to_the_action_in_its_own_row():
    action = torch.tensor([2, 1])
    assert value_learning.select(Q_TARGET, action).tolist() == [4.0, -9.0]
    distributions = torch.stack([Q_TARGET, 10 * Q_TARGET], dim=2)
    selected = value_learning.select(distributions, action)
    assert selected.tolist() == [[4.0, 40.0], [-9.0, -90.0]]


def test_greedy_policy_is_one_at_the_best_action_of_each_row():
    assert value_learning.greedy_policy(Q_TARGET).tolist() == [[0, 1, 0], [1, 0, 0]]
    assert value_learning.greedy_policy(Q_ONLINE).tolist() == [[0, 0, 1], [0, 0, 1]]
    assert value_learning.greedy_policy(torch.zeros(1, 3)).sum() == 1.0  # a tie is one action


def test_the_greedy_expectation_is_the_maximum_and_the_double_one_the_value_of_the_choice():
    greedy = value_learning.greedy_policy(Q_TARGET)
    double = value_learning.greedy_policy(Q_ONLINE)
    assert value_learning.expectation(greedy, Q_TARGET).tolist() == [7.0, -1.0]
    assert value_learning.expectation(double, Q_TARGET).tolist() == [4.0, -3.0]


def test_the_expectation_of_distributions_is_over_actions_for_each_outcome():
    policy = torch.tensor([[0.25, 0.75], [1.0, 0.0]])
    # As many outcomes as actions as rows: a wrong axis would fit.
    values = torch.tensor([[[4.0, 8.0], [12.0, 40.0]], [[1.0, 2.0], [9.0, 9.0]]])
    assert value_learning.expectation(policy, values).tolist() == [[10.0, 32.0], [1.0, 2.0]]
    assert value_learning.expectation(policy, values[:, :, 0]).tolist() == [10.0, 1.0]


def test_log_softmax_policy_divides_by_the_temperature():
    log_policy = value_learning.log_softmax_policy(0.5 * LOGITS, temperature=0.5)
    expected = torch.tensor([[0.125, 0.375, 0.5], [0.5, 0.25, 0.25]])
    torch.testing.assert_close(log_policy.exp(), expected)


def test_log_softmax_policy_stays_finite_at_low_temperatures():
    q_values = torch.tensor([[1000.0, -1000.0, 999.9]])  # exp(1000 / 0.01) is infinite
    log_policy = value_learning.log_softmax_policy(q_values, temperature=0.01)
    assert log_policy[0].tolist() == pytest.approx([0.0, -200_000.0, -10.0], abs=0.05)
    assert float(value_learning.entropy(log_policy)) == pytest.approx(0.0, abs=1e-3)


def test_entropy_is_that_of_each_row():
    uniform = torch.full((3,), 1 / 3).log()
    log_policy = torch.stack([*LOGITS.log_softmax(dim=1), uniform])
    by_hand = [
        math.log(8) / 8 + 3 / 8 * math.log(8 / 3) + math.log(2) / 2,
        math.log(2) / 2 + 2 * math.log(4) / 4,
        math.log(3),
    ]
    assert value_learning.entropy(log_policy).tolist() == pytest.approx(by_hand)


def test_munchausen_bonus_clips_the_scaled_log_policy_and_then_takes_its_share():
    log_policy = torch.tensor([[-9.0, -1.0], [-6.0, -0.5], [0.0, -9.0], [1e-3, -9.0]])
    bonus = value_learning.munchausen_bonus(
        log_policy, torch.tensor([1, 0, 0, 0]), alpha=0.8, temperature=0.5, clip=-1.0
    )
    # -0.5 is above the clip and -3 below it; clipping after the share would leave -1.
    assert bonus.tolist() == pytest.approx([-0.4, -0.8, 0.0, 0.0])


# --- Errors of expected values


def test_td_target_discounts_the_next_value():
    target = value_learning.td_target(
        reward=torch.tensor([1.0, -1.0, 0.5]),
        discount=torch.tensor([0.9, 0.0, 0.81]),
        next_value=torch.tensor([10.0, 99.0, -10.0]),
    )
    assert target.tolist() == pytest.approx([10.0, -1.0, -7.6])


def test_td_target_shifts_and_scales_each_rows_distribution():
    target = value_learning.td_target(
        reward=torch.tensor([1.0, -1.0]),
        discount=torch.tensor([0.5, 0.0]),
        next_value=torch.tensor([[10.0, 20.0], [30.0, 40.0]]),  # square: rows might be columns
    )
    assert target.tolist() == [[6.0, 11.0], [-1.0, -1.0]]


@pytest.mark.parametrize(
    ("reward", "discount", "next_value"),
    [
        ((3, 1), (3,), (3,)),
        ((3,), (3, 1), (3,)),
        ((3,), (3,), (1,)),
        ((1,), (3,), (3,)),
        ((3,), (3,), (1, 3)),
        ((3,), (3,), (3, 2, 4)),
        ((), (), ()),
    ],
)
def test_td_target_refuses_shapes_that_would_broadcast(reward, discount, next_value):
    with pytest.raises(ValueError, match=r"td_target expects .* got"):
        value_learning.td_target(
            torch.zeros(reward), torch.zeros(discount), torch.zeros(next_value)
        )


def test_td_error_is_target_minus_prediction():
    error = value_learning.td_error(torch.tensor([2.0, -3.0]), torch.tensor([10.0, -1.0]))
    assert error.tolist() == [8.0, 2.0]


@pytest.mark.parametrize(("selected", "target"), [((3,), (3, 1)), ((3,), (1,)), ((3, 2), (3, 2))])
def test_td_error_refuses_shapes_that_would_broadcast(selected, target):
    with pytest.raises(ValueError, match="one shape"):
        value_learning.td_error(torch.zeros(selected), torch.zeros(target))


def test_huber_is_quadratic_inside_one_and_linear_outside():
    error = torch.tensor([-3.0, -1.0, 0.0, 0.5, 2.0], requires_grad=True)
    loss = value_learning.huber(error)
    assert loss.tolist() == [2.5, 0.5, 0.0, 0.125, 1.5]
    loss.sum().backward()
    assert error.grad is not None
    assert error.grad.tolist() == [-1.0, -1.0, 0.0, 0.5, 1.0]


def test_huber_turns_linear_at_kappa():
    loss = value_learning.huber(torch.tensor([-3.0, 1.0, 2.5]), kappa=2.0)
    assert loss.tolist() == [4.0, 0.5, 3.0]


def test_squared_is_the_square():
    assert value_learning.squared(torch.tensor([-3.0, 0.5])).tolist() == [9.0, 0.25]


# --- Errors of distributions


def test_categorical_projection_shares_every_atom_out_to_its_neighbours():
    support = torch.tensor([-0.5, 0.0, 0.5, 1.0])
    # On an atom, a fifth of the way to the next, beyond the top, beyond the bottom; in the second
    # row a terminal reward halfway between two atoms, whatever follows.
    atoms = torch.tensor([[0.5, 0.1, 7.0, -3.0], [0.25, 0.25, 0.25, 0.25]])
    probabilities = torch.tensor([[0.1, 0.2, 0.3, 0.4], [0.7, 0.1, 0.15, 0.05]])
    projected = distributions.categorical_projection(atoms, probabilities, support)
    expected = torch.tensor([[0.4, 0.16, 0.14, 0.3], [0.0, 0.5, 0.5, 0.0]])
    torch.testing.assert_close(projected, expected)


def test_categorical_projection_keeps_what_is_on_its_atoms():
    support = torch.linspace(-10.0, 10.0, 51)
    probabilities = torch.rand(1, 51, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    projected = distributions.categorical_projection(support[None], probabilities, support)
    torch.testing.assert_close(projected, probabilities, atol=1e-6, rtol=0.0)


@pytest.mark.parametrize(("lowest", "highest", "number"), [(-10.0, 10.0, 51), (-1.0, 2.0, 8)])
@pytest.mark.parametrize("gamma", [0.99, 0.99**3, 0.9])
def test_categorical_projection_equals_algorithm_1(lowest, highest, number, gamma):
    generator = torch.Generator().manual_seed(number)
    support = torch.linspace(lowest, highest, number)
    reward = 1.5 * highest * torch.randn(20, generator=generator)  # many returns leave the support
    discount = torch.where(torch.arange(20) % 5 == 0, 0.0, gamma)
    atoms = reward.unsqueeze(1) + discount.unsqueeze(1) * support
    probabilities = (3 * torch.randn(20, number, generator=generator)).softmax(dim=1)
    projected = distributions.categorical_projection(atoms, probabilities, support)
    for row in range(20):
        slow = slow_projection(atoms[row].tolist(), probabilities[row].tolist(), support.tolist())
        assert projected[row].tolist() == pytest.approx(slow, abs=2e-6)
    assert projected.min() >= 0.0
    assert projected.sum(dim=1).tolist() == pytest.approx([1.0] * 20, abs=1e-5)


def test_cross_entropy_weighs_log_probabilities_by_the_target():
    target = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    log_probabilities = torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.2, 0.7]]).log()
    loss = distributions.cross_entropy(target, log_probabilities)
    by_hand = [0.5 * math.log(4) + 0.5 * math.log(2), -math.log(0.7)]
    assert loss.tolist() == pytest.approx(by_hand)


def test_kl_divergence_is_that_of_the_target_from_the_prediction():
    target = torch.tensor([[0.5, 0.5, 0.0], [0.1, 0.2, 0.7]])
    log_probabilities = torch.tensor([[0.25, 0.5, 0.25], [0.1, 0.2, 0.7]]).log()
    divergence = distributions.kl_divergence(target, log_probabilities)
    # The zero in the target adds nothing; the other direction would be infinite there.
    assert divergence.tolist() == pytest.approx([0.5 * math.log(2), 0.0], abs=1e-6)


def test_kl_divergence_is_not_negative_and_has_the_gradient_of_the_cross_entropy():
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(50, 6, generator=generator).softmax(dim=1)
    target[:10, 2:] = 0.0
    target = target / target.sum(dim=1, keepdim=True)
    logits = torch.randn(50, 6, generator=generator, requires_grad=True)
    divergence = distributions.kl_divergence(target, logits.log_softmax(dim=1))
    entropy = distributions.cross_entropy(target, logits.log_softmax(dim=1))
    assert divergence.min() > -1e-6
    assert not torch.allclose(divergence, entropy)
    gradients: list[Tensor] = [
        torch.autograd.grad(loss.sum(), logits)[0] for loss in (divergence, entropy)
    ]
    torch.testing.assert_close(*gradients)


# Pair by pair with kappa 1, prediction 0 at fraction 1/4: sizes 1.5, 0.125 and 0.5 with weights
# 1/4, 1/4 and 3/4; prediction 1.5 at fraction 3/4: 0.125, 0.5 and 2 with 3/4, 1/4 and 1/4.
# Together 1.5, over three targets. (The mean over predictions and sum over targets is 0.75.)
@pytest.mark.parametrize(("kappa", "by_hand"), [(1.0, 0.5), (0.5, 2.0 / 3.0), (0.0, 0.875)])
def test_quantile_huber_is_summed_over_predictions_and_averaged_over_targets(kappa, by_hand):
    loss = distributions.quantile_huber(
        torch.tensor([[0.0, 1.5]]),
        torch.tensor([[2.0, 0.5, -1.0]]),
        torch.tensor([[0.25, 0.75]]),
        kappa,
    )
    assert loss.tolist() == pytest.approx([by_hand])


@pytest.mark.parametrize("kappa", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("num_predictions", "num_targets"), [(3, 5), (5, 2), (4, 4)])
def test_quantile_huber_equals_a_loop_over_pairs(kappa, num_predictions, num_targets):
    generator = torch.Generator().manual_seed(num_targets)
    quantiles = torch.randn(6, num_predictions, generator=generator, requires_grad=True)
    targets = torch.randn(6, num_targets, generator=generator)
    fractions = torch.rand(6, num_predictions, generator=generator)
    for given in (fractions, fractions[:1]):  # of each row, or one for all rows
        loss = distributions.quantile_huber(quantiles, targets, given, kappa)
        slow = torch.stack(
            [
                slow_quantile_huber(predicted, goals, shares, kappa)
                for predicted, goals, shares in zip(
                    quantiles, targets, given.expand(6, -1), strict=True
                )
            ]
        )
        torch.testing.assert_close(loss, slow)
        gradients = [torch.autograd.grad(each.sum(), quantiles)[0] for each in (loss, slow)]
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize(("fraction", "quantile"), [(0.1, 10), (0.5, 50), (0.9, 90)])
def test_the_quantile_loss_is_least_at_the_quantile(fraction, quantile):
    targets = torch.arange(100.0).expand(101, -1) + 0.5
    candidates = torch.arange(101.0).unsqueeze(1)
    loss = distributions.quantile_huber(candidates, targets, torch.tensor([[fraction]]), 0.0)
    assert int(loss.argmin()) == quantile
