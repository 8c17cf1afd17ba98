"""Squared gradients of batches: which weights a batch would move most.

Shapes: one tensor per parameter, of its shape.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..core import ranks
from ..core.shards import gradients, whole
from ..core.state import Tensors


def squared_gradients(
    loss: Callable[[int, Tensor], Tensor], params: dict[str, nn.Parameter], order: Tensor, batch: int
) -> Tensors:
    """Mean over batches of the squared gradient of a batch's loss.

    It is not the Fisher information: the gradient of a batch mean is squared, not that of each row, and labels are the rows'
    own. MIST is published with it.

    Args:
        loss: The loss of batch k, made of the rows at some positions.
        params: Parameters by name.
        order: The positions of all rows, (rows,), in the order in which batches take them.
        batch: Rows in a batch.

    Returns:
        The scores by parameter name, whole tensors in fp32 or better; zero where a parameter is not used. Where several ranks
        learn together each takes its share of the batches, and all get the mean over all of them; all must ask.

    >>> w, x = nn.Parameter(torch.zeros(1)), torch.tensor([1.0, 3.0, 4.0])
    >>> squared_gradients(lambda k, rows: (w * x[rows]).mean(), {"w": w}, torch.arange(3), 2)
    {'w': tensor([10.])}
    """
    kinds = {n: torch.promote_types(p.dtype, torch.float32) for n, p in params.items()}
    total = {n: torch.zeros_like(p, dtype=kinds[n], requires_grad=False) for n, p in params.items()}
    count = -(-len(order) // batch)
    for k in ranks.share_of(torch.arange(count)).tolist():
        grads = gradients(loss(k, order[k * batch : (k + 1) * batch]), list(params.values()))
        for score, g in zip(total.values(), grads, strict=True):
            if g is not None:
                score.add_(g.to(score.dtype).square())
    ranks.total(list(total.values()))
    return {n: whole(score / count) for n, score in total.items()}  # a ranking sees all of a tensor
