"""How class means move with the features around them: kernel-weighted drift of rows seen before and after.

Shapes: means (classes, width); features of the same rows before and after, (rows, width) each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import BadData

PIECE = 1 << 24  # weights that are held at once


def kernel_shift(means: Tensor, before: Tensor, after: Tensor, width: float, floor: float = 1e-5) -> Tensor:
    """The move of each mean: the moves of rows that were seen before and after, weighted by how near each lay to it.

    With weights w_ci = exp(-|b_i - mu_c|^2 / (2 width^2)) + floor, divided by their sum over i, the move of mu_c is
    sum_i w_ci (a_i - b_i). Where no row lies near a mean the floor alone counts, and the move is the mean one of all rows.

    Both sides must be of the same rows in the same order, in eval mode and without augmentation: rows that are paired at
    random give moves that are mostly differences between rows.

    Args:
        means: Where the means lay before, (classes, width).
        before: The rows' features with the old weights.
        after: The rows' features with the new weights.
        width: How far a row's move reaches (sigma), in units of the features.
        floor: What every row counts at least; more than 0, so that no weight is 0 / 0.

    Returns:
        (classes, width), float64.

    Raises:
        BadData: the two sides differ in shape, or there are no rows.

    Paper: Semantically-Shifted Incremental Adapter-Tuning is A Continual ViTransformer (arXiv 2403.19979).

    >>> before = torch.tensor([[0.0, 0.0], [9.0, 9.0]])
    >>> after = before + torch.tensor([[1.0, 0.0], [0.0, 2.0]])
    >>> kernel_shift(torch.tensor([[0.1, 0.0], [9.0, 8.9]]), before, after, 1.0).round(decimals=3).tolist()
    [[1.0, 0.0], [0.0, 2.0]]
    """
    if before.shape != after.shape or not len(before):
        raise BadData(
            f"a drift is read off the same rows before and after, at least one: not off {tuple(before.shape)} and "
            f"{tuple(after.shape)}"
        )
    means, before, after = (t.detach().double() for t in (means, before, after))
    return averaged(means, before, after - before, width, floor)


def averaged(z: Tensor, points: Tensor, moves: Tensor, width: float, floor: float = 1e-5) -> Tensor:
    """The average of `moves` at each z, (rows, width), weighed by how near its point lies, as `kernel_shift` says."""
    found = [
        (near := (torch.cdist(some, points).square() / (-2 * width**2)).exp() + floor) @ moves / near.sum(1)[:, None]
        for some in z.split(max(PIECE // len(points), 1))
    ]
    return torch.cat(found) if found else z
