"""Losses that compare rows with rows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def supervised_info_nce(z: Tensor, y: Tensor, pair: Tensor, temperature: float = 0.07) -> Tensor:
    """Mean over rows of how badly a row finds its other view and the rows of its class among all rows.

    With s_ij the cosine of rows i and j and l_ij = -log softmax_{k != i}(s_ik / temperature)_j:

        L = mean_i [ l_{i, pair(i)} + 2 * sum_{j != i, y_j = y_i} l_ij / (n_i + 1) ]

    where n_i counts the other rows of i's class. (The mean over a class is taken as in the reference code of MIST, which
    counts the row itself among the n_i + 1.)

    Args:
        z: Embeddings, (rows, width); normalised here.
        y: Class ids, (rows,).
        pair: Position of each row's other view, (rows,); -1 = it has none.
        temperature: Divides the cosines.

    Paper: Sparse Tuning Enhances Plasticity in PTM-based Continual Learning (arXiv 2505.19943).

    >>> z = torch.eye(2).repeat(2, 1)
    >>> round(supervised_info_nce(z, torch.tensor([0, 1, 0, 1]), torch.tensor([2, 3, 0, 1]), 1.0).item(), 4)
    1.1029
    """
    z = F.normalize(z.float() if z.dtype in (torch.bfloat16, torch.float16) else z, dim=1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    log_p = (z @ z.T / temperature).masked_fill(itself, -1e9).log_softmax(1)
    same = (y[:, None] == y) & ~itself
    classmates = -(log_p * same).sum(1) / (same.sum(1) + 1)
    views = -log_p.gather(1, pair.clamp_min(0)[:, None])[:, 0] * (pair >= 0)
    return (views + 2 * classmates).mean()
