"""The equations of value learning, as pure functions of tensors.

Batches lead; every argument that carries no gradient must be detached by the caller.
"""

import torch
from torch import Tensor
from torch.nn import functional


def select(q_values: Tensor, action: Tensor) -> Tensor:
    """Return the value of one action per row: float32 [batch] of [batch, num_actions]."""
    return q_values.gather(1, action.unsqueeze(1)).squeeze(1)


def greedy_value(q_target: Tensor) -> Tensor:
    """Return the value of the best next action, max_a Q(s', a; target).

    Mnih et al. (2015), equation 3, https://www.nature.com/articles/nature14236.

    Args:
        q_target: float32 [batch, num_actions], target network on the next observation.

    Returns:
        float32 [batch].
    """
    return q_target.amax(dim=1)


def double_value(q_target: Tensor, q_online: Tensor) -> Tensor:
    """Return the target network's value of the online network's choice.

    Q(s', argmax_a Q(s', a; online); target): van Hasselt et al. (2016), equation 4,
    https://arxiv.org/abs/1509.06461.

    Args:
        q_target: float32 [batch, num_actions], target network on the next observation.
        q_online: float32 [batch, num_actions], online network on the same observation.

    Returns:
        float32 [batch].
    """
    return select(q_target, q_online.argmax(dim=1))


def td_error(q_selected: Tensor, reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    """Return target minus prediction, reward + discount * next_value - q_selected.

    The term inside equation 3 of Mnih et al. (2015). With n steps, `reward` is their discounted sum
    and `discount` is gamma**n (Sutton and Barto, 2018, equation 7.1).

    Args:
        q_selected: float32 [batch], online value of the action taken; carries the gradient.
        reward: float32 [batch].
        discount: float32 [batch], 0 where bootstrapping stops.
        next_value: float32 [batch], detached.

    Returns:
        float32 [batch].

    Raises:
        ValueError: if the shapes differ or are not one-dimensional.
    """
    shapes = {tuple(tensor.shape) for tensor in (q_selected, reward, discount, next_value)}
    if len(shapes) != 1 or q_selected.dim() != 1:
        raise ValueError(f"td_error expects four tensors of one shape [batch], got {shapes}")
    return reward + discount * next_value - q_selected


def huber(error: Tensor) -> Tensor:
    """Return 0.5 x^2 within one unit of zero and |x| - 0.5 beyond: its gradient is x clipped to 1.

    This is the "error clipping" of Mnih et al. (2015), Methods.
    """
    return functional.huber_loss(error, torch.zeros_like(error), reduction="none")


def squared(error: Tensor) -> Tensor:
    """Return x^2, the mean of which is the mean squared error."""
    return error.square()
