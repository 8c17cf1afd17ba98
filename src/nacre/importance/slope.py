"""The mean gradient over rows of one's choice: which way a loss falls from here.

Shapes: one tensor per parameter, of its shape.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..core import ranks
from ..core.rows import Batch, Rows
from ..core.shards import gradients
from ..core.state import Tensors


def mean_slope(
    objective: Callable[[Batch, int], Tensor],
    params: dict[str, nn.Parameter],
    rows: Rows,
    index: Tensor,
    *,
    batch: int = 64,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensors]:
    """The mean loss over rows and its gradient; a last batch with fewer rows counts less.

    Args:
        objective: The loss of a batch, a scalar; it is told the number of the batch, a place for dice.
        params: Parameters by name.
        rows: Where rows are taken from.
        index: Which rows, (rows,), cut into batches in this order.
        batch: Rows in a batch.
        device: Where the batches are put.

    Returns:
        The loss, and the gradient by parameter name in fp32 or better; zero where a parameter is not used. Where several
        ranks learn together each takes its share of the batches, and all of them get the mean over all; all must ask.
    """
    total = {n: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for n, p in params.items()}
    value, pieces = torch.zeros((), device=device), index.split(batch)
    with torch.enable_grad():
        for k in ranks.share_of(torch.arange(len(pieces))).tolist():
            loss, share = objective(rows.take(pieces[k]).to(device), k), len(pieces[k]) / len(index)
            value = value + share * loss.detach()
            for sum_n, g in zip(total.values(), gradients(loss, list(params.values())), strict=True):
                if g is not None:
                    sum_n.add_(g.to(sum_n.dtype), alpha=share)
    ranks.total([value, *total.values()])
    return value, total
