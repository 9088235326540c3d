"""Errors of distributions of returns, as pure functions of tensors; batches lead."""

import torch
from torch import Tensor
from torch.nn import functional


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
