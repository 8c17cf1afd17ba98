"""Linear discriminant analysis from class statistics.

Shapes: features (rows, width), means (classes, width), one covariance (width, width).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import BadSetting
from .statistics import ClassStatistics


def discriminant(statistics: ClassStatistics, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Weights and biases of the classes' scores z W + b, in the precision of the statistics.

    W = P M', b_c = -1/2 mu_c' P mu_c with P = ((1 - e) S / n + e I)^-1, S the scatter within all classes, n the number of
    rows, e the shrinkage: the logarithms of the classes' densities, up to what they have in common. Classes count alike.

    Args:
        statistics: With a covariance of any kind; those of single classes are pooled.
        shrinkage: e, in (0, 1].

    Returns:
        W, (width, classes), and b, (classes,).

    Raises:
        BadSetting: no covariance is kept, or it cannot be inverted.

    >>> statistics = ClassStatistics(covariance="shared")
    >>> statistics.add(torch.tensor([[0.0], [2.0], [4.0], [6.0]]), torch.tensor([0, 0, 1, 1]))
    >>> weight, bias = discriminant(statistics, 1e-4)
    >>> (torch.tensor([[2.9], [3.1]]).double() @ weight + bias).argmax(1)
    tensor([0, 1])
    """
    within, rows = statistics.within(), statistics.count.sum()
    assert statistics.mean is not None
    mean = statistics.mean.double()
    spread = (1 - shrinkage) * within / rows + shrinkage * torch.eye(mean.shape[1]).to(mean)
    factor, failed = torch.linalg.cholesky_ex(spread)
    if bool(failed):
        raise BadSetting(
            f"the covariance of the classes cannot be inverted with shrinkage = {shrinkage:g}: use a larger one"
        )
    weight = torch.cholesky_solve(mean.T, factor)
    return weight, -(mean.T * weight).sum(0) / 2
