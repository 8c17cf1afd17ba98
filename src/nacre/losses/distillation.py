"""Losses that hold a model's answers to answers that were given before.

Shapes: logits (rows, classes); targets (rows, known), known <= classes, of a head that had fewer rows then.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def weighted_mean(loss: Tensor, weight: Tensor | None) -> Tensor:
    """The mean of the rows' losses (rows,), by their weights where there are any; 0 where no row counts."""
    if weight is None:
        return loss.mean()
    return (loss * weight).sum() / weight.sum().clamp_min(1e-12)


def distillation(logits: Tensor, targets: Tensor, temperature: float = 2.0, weight: Tensor | None = None) -> Tensor:
    """Mean over rows of KL(p || q), with p = softmax(targets / T) and q = softmax(logits / T).

    Classes beyond the targets' width have p = 0. There is no factor T^2; its gradient for the logits is (q - p) / T a row,
    which adds up to 0 and vanishes where both are equal.

    Args:
        logits: The student's, which receive the gradient.
        targets: The teacher's.
        temperature: T, which softens both.
        weight: (rows,) weights of the mean.

    Paper: Distilling the Knowledge in a Neural Network (arXiv 1503.02531).

    >>> z = torch.tensor([[2.0, 0.0]])
    >>> distillation(z, z).item(), round(distillation(z, torch.zeros(1, 2)).item(), 4)
    (0.0, 0.1201)
    """
    logits, targets = _exact(logits) / temperature, _exact(targets) / temperature
    log_p, log_q = targets.log_softmax(1), logits.log_softmax(1)[:, : targets.shape[1]]
    return weighted_mean((log_p.exp() * (log_p - log_q)).sum(1), weight)


def stored_logits(logits: Tensor, stored: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over rows of the mean squared distance from logits that were stored, each on the columns that it had.

    Args:
        logits: (rows, ..., classes), which receive the gradient.
        stored: (rows, ..., known); NaN where a row has none.
        weight: (rows,) weights of the mean.

    >>> stored = torch.tensor([[1.0, torch.nan], [3.0, 1.0]])
    >>> stored_logits(torch.zeros(2, 3), stored).item()  # (1 + (9 + 1) / 2) / 2
    3.0
    """
    mine = _exact(logits)[..., : stored.shape[-1]]
    known = stored == stored
    far = (mine - torch.where(known, stored.to(mine), mine.detach())).square()
    return weighted_mean(far.flatten(1).sum(1) / known.flatten(1).sum(1).clamp_min(1), weight)


def sigmoid_targets(logits: Tensor, targets: Tensor, columns: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean over rows of the binary cross-entropies of some columns, summed: each class is a question of its own.

    Args:
        logits: (rows, classes), which receive the gradient.
        targets: (rows, classes) probabilities in [0, 1].
        columns: (classes,) bool: which classes are asked about.
        weight: (rows,) weights of the mean.

    >>> loss = sigmoid_targets(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), torch.tensor([True, False]))
    >>> round(loss.item(), 4)
    0.6931
    """
    each = F.binary_cross_entropy_with_logits(_exact(logits), targets.to(_exact(logits)), reduction="none")
    return weighted_mean(torch.where(columns, each, 0.0).sum(1), weight)


def _exact(t: Tensor) -> Tensor:
    """In fp32 or better."""
    return t if t.dtype == torch.float64 else t.float()
