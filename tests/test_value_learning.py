"""The equations against numbers computed by hand, with decoys."""

import pytest
import torch

from dqn_zoo import value_learning

# The best target action is 1 (value 7), the best online action is 2: its target value is 4.
Q_TARGET = torch.tensor([[5.0, 7.0, 4.0], [-1.0, -9.0, -3.0]])
Q_ONLINE = torch.tensor([[99.0, 91.0, 100.0], [-50.0, -60.0, -40.0]])


def test_select_takes_the_value_of_the_action_in_its_own_row():
    assert value_learning.select(Q_TARGET, torch.tensor([2, 1])).tolist() == [4.0, -9.0]


def test_greedy_value_is_the_target_networks_own_maximum():
    assert value_learning.greedy_value(Q_TARGET).tolist() == [7.0, -1.0]


def test_double_value_is_the_targets_value_of_the_online_choice():
    assert value_learning.double_value(Q_TARGET, Q_ONLINE).tolist() == [4.0, -3.0]


def test_td_error_is_target_minus_prediction():
    error = value_learning.td_error(
        q_selected=torch.tensor([2.0, 2.0, 2.0]),
        reward=torch.tensor([1.0, -1.0, 0.5]),
        discount=torch.tensor([0.9, 0.0, 0.81]),
        next_value=torch.tensor([10.0, 99.0, -10.0]),
    )
    assert error.tolist() == pytest.approx([8.0, -3.0, -9.6])


def test_td_error_refuses_shapes_that_would_broadcast():
    column = torch.zeros(3, 1)
    with pytest.raises(ValueError, match="one shape"):
        value_learning.td_error(torch.zeros(3), column, torch.zeros(3), torch.zeros(3))


def test_huber_is_quadratic_inside_one_and_linear_outside():
    error = torch.tensor([-3.0, -1.0, 0.0, 0.5, 2.0], requires_grad=True)
    loss = value_learning.huber(error)
    assert loss.tolist() == [2.5, 0.5, 0.0, 0.125, 1.5]
    loss.sum().backward()
    assert error.grad is not None
    assert error.grad.tolist() == [-1.0, -1.0, 0.0, 0.5, 1.0]


def test_squared_is_the_square():
    assert value_learning.squared(torch.tensor([-3.0, 0.5])).tolist() == [9.0, 0.25]
