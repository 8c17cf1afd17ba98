"""Output sensitivity: how much the size of the model's answer depends on each weight.

Shapes: one tensor per parameter, of its shape.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..core import ranks
from ..core.model import Outputs
from ..core.rows import Batch, Rows
from ..core.shards import gradients
from ..core.state import Tensors


def sensitivity(
    outputs: Callable[[Batch], Outputs],
    params: dict[str, nn.Parameter],
    rows: Rows,
    index: Tensor,
    *,
    device: torch.device | str = "cpu",
) -> Tensors:
    """Omega = mean over rows of |d |f(x)|^2 / dw|, with f(x) the logits; labels are not used.

    Rows are taken one at a time: the size of a mean gradient is not the mean of the gradients' sizes.

    Args:
        outputs: The model's answer.
        params: Parameters by name.
        rows: Where rows are taken from.
        index: Which rows, (rows,).
        device: Where the batches are put.

    Returns:
        Omega by parameter name, in fp32 or better; zero where a parameter is not used. Where several ranks learn together each
        takes its share of the rows, and all of them get the mean over all rows; all must ask.

    Paper: Memory Aware Synapses: Learning what (not) to forget (arXiv 1711.09601).
    """
    total = {n: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for n, p in params.items()}
    for i in ranks.share_of(index).tolist():
        logits = outputs(rows.take(torch.tensor([i])).to(device)).logits
        size = (logits if logits.dtype == torch.float64 else logits.float()).square().sum()
        for total_n, g in zip(total.values(), gradients(size, list(params.values())), strict=True):
            if g is not None:
                total_n.add_(g.to(total_n.dtype).abs(), alpha=1 / len(index))
    ranks.total(list(total.values()))
    return total
