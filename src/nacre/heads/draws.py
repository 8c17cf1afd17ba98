"""Rows drawn from what is kept of a class: its mean and its covariance, as a factor and what is left over.

Shapes: mean (width,), factor (rank, width), draws (count, width). A covariance is factor' factor, plus `residual` in each
direction that is orthogonal to the factor's rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import BadSetting


def draws(mean: Tensor, factor: Tensor, count: int, generator: torch.Generator, residual: float = 0.0) -> Tensor:
    """Rows whose own mean and covariance are exactly those asked for: no sampling error in the first two moments.

    x = m + Z factor + sqrt(residual) Y W', with W an orthonormal basis of the directions that are orthogonal to the factor's
    rows, and [Z Y] orthonormal columns, orthogonal to (1, ..., 1), turned at random and times sqrt(count). The covariance is
    the population's: the sum of squares is divided by `count`, not by count - 1.

    What holds up to rounding, with r the rank of the factor, whose rows may depend on each other:

    - The mean, always.
    - With residual = 0: the covariance, if count > r.
    - With residual > 0: the covariance, if count > width. If r + 1 < count <= width: it is exact on the factor's directions,
      between these and the others, and in its trace; of the others only count - 1 - r, drawn at random, carry the residual
      variance of all, so that the covariance is right in the mean over dice.
    - If count <= r + 1 there is no room for the residual, and if count <= r only for the count - 1 largest directions of the
      factor: these are exact, and all else is left out. A single row is the mean.

    Args:
        mean: (width,).
        factor: (rank, width), rows in any basis; see `factor_of` for a covariance. No rows mean no such directions.
        count: How many rows.
        generator: A CPU generator, of which the dice are drawn in float64, alike for every device.
        residual: The variance in each direction that is orthogonal to the factor's rows.

    Returns:
        (count, width), float64, where the mean lies.

    Raises:
        BadSetting: a count below 1, or a negative residual.

    >>> x = draws(torch.tensor([1.0, 2.0]), torch.tensor([[3.0, 0.0]]), 5, torch.Generator().manual_seed(0), residual=0.25)
    >>> x.mean(0).round(decimals=9).tolist(), x.T.cov(correction=0).round(decimals=9).abs().tolist()
    ([1.0, 2.0], [[9.0, 0.0], [0.0, 0.25]])
    """
    mean, factor = _checked(mean, factor, count, residual)
    if residual or len(factor) >= count:
        size, directions = _directions(factor)
        rank, width = directions.shape
        if not len(factor) == rank < count:  # rows that depend on each other, or too many directions
            factor = (size[:, None] * directions)[: count - 1]
        across = min(width - rank, max(count - 1 - rank, 0)) if residual else 0
        if across:
            others = _complement(directions, across, generator)
            factor = torch.cat([factor, (residual * (width - rank) / across) ** 0.5 * others])
    if not len(factor):
        return mean.expand(count, -1).clone()
    dice = torch.randn(count, len(factor), generator=generator, dtype=torch.float64)
    return mean + count**0.5 * (_turned(dice - dice.mean(0)).to(factor) @ factor)


def draws_of_each(means: Tensor, factors: Tensor, count: int, generator: torch.Generator, left: Tensor) -> Tensor:
    """As `draws`, for many classes at once and with as many points each; of what is left over only the trace is exact.

    x = m + sqrt(count) Z F + Y, with Z orthonormal, centred and turned at random, and Y random, centred, at right angles to Z
    and to the directions of F, so that means, covariances along the factors and traces are exact; `count` must exceed the
    directions of a factor, else only so many of them are met as there is room for.

    Args:
        means: (classes, width), float64.
        factors: (classes, directions, width); rows of zeros are none.
        count: Rows drawn of each class.
        generator: A CPU generator, of which the dice are drawn in float64, alike for every device.
        left: (classes,) the trace of what is spread over all other directions.

    Returns:
        (classes, count, width), float64.

    >>> x = draws_of_each(torch.ones(1, 3).double(), torch.eye(3)[:1][None], 9, torch.Generator(), torch.tensor([2.0]))
    >>> x[0].mean(0).round(decimals=9).tolist(), round(float(x[0].T.cov(correction=0).trace()), 9)
    ([1.0, 1.0, 1.0], 3.0)
    """
    classes, directions, width = factors.shape
    if directions > count - 1:
        _, size, turned = torch.linalg.svd(factors.double(), full_matrices=False)
        factors, directions = (size[..., None] * turned)[:, : count - 1], count - 1
    factors = factors.to(means)

    def dice(columns: int) -> Tensor:
        drawn = torch.randn(classes, count, columns, generator=generator, dtype=torch.float64).to(means)
        return drawn - drawn.mean(1, keepdim=True)

    basis = _turned(dice(directions))
    x = means[:, None] + count**0.5 * basis @ factors
    if count - 1 > directions and bool((left > 0).any()):
        rest = dice(width)
        rest = rest - basis @ (basis.transpose(1, 2) @ rest)
        _, size, along = torch.linalg.svd(factors, full_matrices=False)
        along = (
            along * (size > size[:, :1] * width * torch.finfo(size.dtype).eps)[..., None]
        )  # rows of zeros span nothing
        rest = rest - (rest @ along.transpose(1, 2)) @ along
        size = rest.square().sum((1, 2))
        x = x + rest * (count * left.to(means) / size.clamp_min(1e-300)).sqrt()[:, None, None]
    return x


def gaussian_draws(
    mean: Tensor, factor: Tensor, count: int, generator: torch.Generator, residual: float = 0.0
) -> Tensor:
    """Independent rows of the normal distribution with this mean and covariance, by plain sampling.

    Args:
        mean: (width,).
        factor: (rank, width), rows in any basis; see `factor_of` for a covariance.
        count: How many rows.
        generator: A CPU generator, of which the dice are drawn in float64, alike for every device.
        residual: The variance in each direction that is orthogonal to the factor's rows.

    Returns:
        (count, width), float64, where the mean lies.

    Raises:
        BadSetting: a count below 1, or a negative residual.

    >>> x = gaussian_draws(torch.zeros(2), torch.tensor([[3.0, 0.0]]), 10_000, torch.Generator().manual_seed(0))
    >>> round(x[:, 0].std().item(), 1), x[:, 1].abs().max().item()
    (3.0, 0.0)
    """
    mean, factor = _checked(mean, factor, count, residual)
    x = mean.expand(count, len(mean))
    if len(factor):
        x = x + torch.randn(count, len(factor), generator=generator, dtype=torch.float64).to(factor) @ factor
    if residual:
        _, directions = _directions(factor)
        rest = torch.randn(count, len(mean), generator=generator, dtype=torch.float64).to(factor)
        x = x + residual**0.5 * (rest - (rest @ directions.T) @ directions)
    return x if x.is_contiguous() else x.clone()


def factor_of(covariance: Tensor) -> Tensor:
    """A factor (rank, width) in float64 with factor' factor = covariance, (width, width).

    By Cholesky where the covariance is positive definite; else by its eigenvectors, of which negative ones, which only
    rounding makes, count as 0.

    >>> factor = factor_of(torch.tensor([[4.0, 2.0], [2.0, 1.0]]))  # of rank 1
    >>> tuple(factor.shape), (factor.T @ factor).round(decimals=9).tolist()
    ((1, 2), [[4.0, 2.0], [2.0, 1.0]])
    """
    covariance = covariance.double()
    lower, failed = torch.linalg.cholesky_ex(covariance)
    if not bool(failed):
        return lower.T
    variance, directions = torch.linalg.eigh(covariance)
    kept = variance > variance.abs().max() * len(variance) * torch.finfo(torch.float64).eps
    return variance[kept].sqrt()[:, None] * directions.T[kept]


def _checked(mean: Tensor, factor: Tensor, count: int, residual: float) -> tuple[Tensor, Tensor]:
    if count < 1 or not residual >= 0:
        raise BadSetting(f"draws need a count of at least 1 and a residual of at least 0, not {count} and {residual}")
    mean = mean.detach().double()
    return mean, factor.detach().to(mean)


def _directions(factor: Tensor) -> tuple[Tensor, Tensor]:
    """The singular values of a factor that are not 0, the largest first, (rank,), and their directions, (rank, width)."""
    if not factor.numel():
        return factor.new_zeros(0), factor.new_zeros(0, factor.shape[1])
    _, size, directions = torch.linalg.svd(factor, full_matrices=False)
    kept = size > size[0] * max(factor.shape) * torch.finfo(torch.float64).eps
    return size[kept], directions[kept]


def _complement(directions: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """So many orthonormal directions, (count, width), that are orthogonal to these, drawn at random."""
    width = directions.shape[1]
    drawn = torch.randn(width, count, generator=generator, dtype=torch.float64).to(directions)
    for _ in range(2):  # once more, for what rounding left of the first time
        drawn = _turned(drawn - directions.T @ (directions @ drawn))
    return drawn.T


def _turned(dice: Tensor) -> Tensor:
    """An orthonormal basis of the columns, uniform over all of them where the columns are normal."""
    basis, scale = torch.linalg.qr(dice)
    return basis * torch.where(scale.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0)[..., None, :]
