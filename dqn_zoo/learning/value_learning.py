"""The equations of value learning, as pure functions of tensors.

Batches lead; every argument that carries no gradient must be detached by the caller. A target is
an expectation of next values under some policy over the next actions: one-hot at the best action
(DQN, Double DQN) or a softmax (Munchausen).
"""

import torch
from torch import Tensor
from torch.nn import functional

# --- Policies over the next actions


def select(values: Tensor, action: Tensor) -> Tensor:
    """Return what belongs to one action per row: [batch, ...] of [batch, num_actions, ...]."""
    return values[torch.arange(len(action), device=action.device), action]


def greedy_policy(q_values: Tensor) -> Tensor:
    """Return 1 at the best action of each row and 0 elsewhere: float32 [batch, num_actions].

    With the target network's values the expectation of them is max_a Q(s', a; target), equation 3
    of Mnih et al. (2015), https://www.nature.com/articles/nature14236. With the online network's it
    is Q(s', argmax_a Q(s', a; online); target), equation 4 of van Hasselt et al. (2016),
    https://arxiv.org/abs/1509.06461.
    """
    best = q_values.argmax(dim=1, keepdim=True)
    return torch.zeros_like(q_values).scatter_(1, best, 1.0)


def log_softmax_policy(q_values: Tensor, temperature: float) -> Tensor:
    """Return log softmax(q_values / temperature): float32 [batch, num_actions].

    Vieillard et al. (2020), section 3, https://arxiv.org/abs/2007.14430. Subtracting the maximum
    first keeps it exact and finite at low temperatures (appendix B.1).
    """
    advantage = q_values - q_values.amax(dim=1, keepdim=True)
    return (advantage / temperature).log_softmax(dim=1)


def expectation(policy: Tensor, values: Tensor) -> Tensor:
    """Return sum_a policy(a) values(a).

    Args:
        policy: float32 [batch, num_actions].
        values: float32 [batch, num_actions] or [batch, num_actions, n].

    Returns:
        float32 [batch] or [batch, n].
    """
    # No einsum: under autocast it would multiply in bfloat16.
    weights = policy if values.dim() == 2 else policy.unsqueeze(2)
    return (weights * values).sum(dim=1)


def entropy(log_policy: Tensor) -> Tensor:
    """Return -sum_a policy(a) log policy(a): float32 [batch] for [batch, num_actions]."""
    return -(log_policy.exp() * log_policy).sum(dim=1)


def munchausen_bonus(
    log_policy: Tensor, action: Tensor, *, alpha: float, temperature: float, clip: float
) -> Tensor:
    """Return alpha [temperature log policy(action | s)] clipped to [clip, 0]: float32 [batch].

    Vieillard et al. (2020), equation 1 and "clipping" in section 3.1.

    Args:
        log_policy: float32 [batch, num_actions] at the current observation.
        action: int64 [batch], the action taken.
        alpha: share of the bonus.
        temperature: of the policy.
        clip: at most 0; the lowest value of the bracket.
    """
    return alpha * (temperature * select(log_policy, action)).clamp(min=clip, max=0.0)


# --- Errors of expected values


def td_target(reward: Tensor, discount: Tensor, next_value: Tensor) -> Tensor:
    """Return reward + discount * next_value.

    With n steps, `reward` is their discounted sum and `discount` is gamma**n (Sutton and Barto,
    2018, equation 7.1). A distribution is shifted and scaled as a whole: [batch, n] for a
    `next_value` [batch, n].

    Args:
        reward: float32 [batch].
        discount: float32 [batch], 0 where bootstrapping stops.
        next_value: float32 [batch] or [batch, n], detached.

    Raises:
        ValueError: if `reward` and `discount` are not [batch].
    """
    shapes = {tuple(reward.shape), tuple(discount.shape), tuple(next_value.shape[:1])}
    if len(shapes) != 1 or next_value.dim() not in (1, 2):
        raise ValueError(
            f"td_target expects reward and discount [batch] and next_value [batch] or [batch, n], "
            f"got {list(reward.shape)}, {list(discount.shape)} and {list(next_value.shape)}"
        )
    if next_value.dim() == 2:
        reward, discount = reward.unsqueeze(1), discount.unsqueeze(1)
    return reward + discount * next_value


def td_error(q_selected: Tensor, target: Tensor) -> Tensor:
    """Return target minus prediction, the term inside equation 3 of Mnih et al. (2015).

    Args:
        q_selected: float32 [batch], online value of the action taken; carries the gradient.
        target: float32 [batch], detached.

    Raises:
        ValueError: if the shapes differ or are not one-dimensional.
    """
    if q_selected.shape != target.shape or target.dim() != 1:
        raise ValueError(
            "td_error expects two tensors of one shape [batch], "
            f"got {list(q_selected.shape)} and {list(target.shape)}"
        )
    return target - q_selected


def huber(error: Tensor, kappa: float = 1.0) -> Tensor:
    """Return 0.5 x^2 up to `kappa` from zero and kappa (|x| - 0.5 kappa) beyond.

    With `kappa` 1 its gradient is x clipped to 1, the "error clipping" of Mnih et al. (2015),
    Methods.
    """
    return functional.huber_loss(error, torch.zeros_like(error), reduction="none", delta=kappa)


def squared(error: Tensor) -> Tensor:
    """Return x^2, the mean of which is the mean squared error."""
    return error.square()


# --- Errors of distributions


def categorical_projection(atoms: Tensor, probabilities: Tensor, support: Tensor) -> Tensor:
    """Share probabilities of atoms out to the two nearest atoms of the support.

    Bellemare et al. (2017), equation 7 and algorithm 1, https://arxiv.org/abs/1707.06887.

    Args:
        atoms: float32 [batch, num_atoms], returns; those beyond the support count as its ends.
        probabilities: float32 [batch, num_atoms], of `atoms`.
        support: float32 [num_atoms], equally spaced and rising.

    Returns:
        float32 [batch, num_atoms], probabilities of `support`.
    """
    spacing = (support[-1] - support[0]) / (len(support) - 1)
    clipped = atoms.clamp(support[0], support[-1])
    # Each atom of the support takes 1 - distance / spacing from those nearer than one spacing.
    distance = (clipped.unsqueeze(1) - support.unsqueeze(1)).abs() / spacing  # [batch, to, from]
    share = (1.0 - distance).clamp(min=0.0)
    return (share * probabilities.unsqueeze(1)).sum(dim=2)


def cross_entropy(target: Tensor, log_probabilities: Tensor) -> Tensor:
    """Return -sum_i target_i log p_i: float32 [batch] for two tensors [batch, num_atoms].

    Its gradient is that of the KL divergence (Bellemare et al., 2017, section 4.1).
    """
    return -(target * log_probabilities).sum(dim=1)


def kl_divergence(target: Tensor, log_probabilities: Tensor) -> Tensor:
    """Return sum_i target_i log(target_i / p_i): float32 [batch], >= 0."""
    return functional.kl_div(log_probabilities, target, reduction="none").sum(dim=1)


def quantile_huber(quantiles: Tensor, targets: Tensor, fractions: Tensor, kappa: float) -> Tensor:
    """Return the quantile Huber loss: summed over predictions, averaged over targets.

    Dabney et al. (2018b), equation 3, https://arxiv.org/abs/1806.06923. With `kappa` 1 it is also
    that of Dabney et al. (2018a), equations 9 and 10, https://arxiv.org/abs/1710.10044, which do
    not divide by `kappa`.

    Args:
        quantiles: float32 [batch, n], predictions; carry the gradient.
        targets: float32 [batch, m], detached samples of the target distribution.
        fractions: float32 [batch, n] or [1, n], the fraction that each prediction stands for.
        kappa: where the loss turns linear; 0 gives the plain quantile loss.

    Returns:
        float32 [batch].
    """
    pairs = (*quantiles.shape, targets.shape[1])  # [batch, n, m]
    prediction, target = quantiles.unsqueeze(2).expand(pairs), targets.unsqueeze(1).expand(pairs)
    # This is the Huber loss divided by kappa, and |target - prediction| where kappa is 0.
    size = functional.smooth_l1_loss(prediction, target, reduction="none", beta=kappa)
    above = fractions.unsqueeze(2)
    asymmetry = torch.where(target < prediction, 1.0 - above, above)
    return (asymmetry * size).mean(dim=2).sum(dim=1)


# --- Returns of whole rollouts


def lambda_returns(
    reward: Tensor, discount: Tensor, next_value: Tensor, goes_on: Tensor, decay: float
) -> Tensor:
    """Return Peng's Q(lambda) returns of a rollout: float32 [steps, num_envs].

    G_t = r_t + d_t ((1 - lambda) V_t + lambda G_(t+1)) while a game goes on, and
    G_t = r_t + d_t V_t at its last step of the rollout (Gallici et al., 2024, section 3.2 and
    algorithm 1, https://arxiv.org/abs/2407.04811).

    Args:
        reward: float32 [steps, num_envs], r.
        discount: float32 [steps, num_envs], d: gamma, or 0 where bootstrapping must stop.
        next_value: float32 [steps, num_envs], V: the best value of what each step led to.
        goes_on: bool [steps, num_envs]: the next step of the rollout continues this one.
        decay: lambda; 0 gives one-step targets, 1 the discounted sums.
    """
    returns = torch.empty_like(reward)
    following = next_value[-1]
    for step in reversed(range(len(reward))):
        mixed = (1.0 - decay) * next_value[step] + decay * following
        worth = torch.where(goes_on[step], mixed, next_value[step])
        following = returns[step] = reward[step] + discount[step] * worth
    return returns
