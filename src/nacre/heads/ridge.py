"""Ridge regression on randomly projected features.

Shapes: features z (rows, width), projected h (rows, M), one-hot targets Y (rows, classes).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.dice import dice

GRID = tuple(10.0**e for e in range(-8, 9))
"""The ridges tried, as in the reference code of RanPAC."""


class RandomFeatures:
    """h = relu(z R) with R drawn once from N(0, 1), by counted dice of (seed, width of z, M)."""

    def __init__(self, width: int, seed: int):
        self.width, self.seed = width, seed
        self.projection: Tensor | None = None  # (width of z, M)

    def __call__(self, z: Tensor) -> Tensor:
        """The projected features, (rows, M), in the dtype of z."""
        if self.projection is None or self.projection.dtype != z.dtype or self.projection.device != z.device:
            generator = dice(self.seed, "project", z.shape[1], self.width)
            drawn = torch.randn(z.shape[1], self.width, generator=generator, dtype=torch.float64)
            self.projection = drawn.to(z)
        return F.relu(z @ self.projection)


def choose_ridge(
    h: Tensor, targets: Tensor, held_out: float, generator: torch.Generator, grid: Sequence[float] = GRID
) -> float | None:
    """The ridge with the least squared error on a held-out share of the rows, fitted on the others.

    One eigendecomposition serves the whole grid: of H H' where there are fewer rows than features, else of H' H.

    Args:
        h: Projected features, (rows, M), float64.
        targets: (rows, classes).
        held_out: Share of the rows, chosen at random, that the fit does not see.
        generator: Chooses them.
        grid: The ridges tried.

    Returns:
        The best ridge, or None where there are too few rows to hold any out.
    """
    count = round(len(h) * held_out)
    if count < 1 or count >= len(h):
        return None
    order = torch.randperm(len(h), generator=generator).to(h.device)
    test, fit = order[:count], order[count:]
    inner, outer = h[fit], h[test]
    if len(fit) < h.shape[1]:
        size, basis = torch.linalg.eigh(inner @ inner.T)
        left, right = (outer @ inner.T) @ basis, basis.T @ targets[fit]
    else:
        size, basis = torch.linalg.eigh(inner.T @ inner)
        left, right = outer @ basis, basis.T @ (inner.T @ targets[fit])
    size = size.clamp_min(0)[:, None]
    errors = [(left @ (right / (size + ridge)) - targets[test]).square().mean().item() for ridge in grid]
    return grid[min(range(len(grid)), key=errors.__getitem__)]
