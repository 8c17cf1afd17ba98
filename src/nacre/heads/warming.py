"""New rows of a head, trained alone before anything is read off a gradient that passes through them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..core.model import evaluating, head_prefixes
from ..core.shards import gradients


@torch.enable_grad()
def warm_rows(model: nn.Module, classes: Sequence[int], loss: Callable[[int], Tensor], steps: int, rate: float) -> None:
    """Move the head's rows of some classes down a loss by plain gradient steps; every other weight keeps its bits.

    The model is in eval mode meanwhile. On several ranks each must give the same losses, so that all end with the same rows.

    Args:
        model: Whose head it is; tensors of the head with a row for each class are trained, if they require a gradient.
        classes: Whose rows.
        loss: The loss of the step with this number, a scalar.
        steps: How many.
        rate: The learning rate.

    >>> head = nn.Linear(2, 3)
    >>> model, x, y = nn.Sequential(), torch.eye(2), torch.tensor([1, 2])
    >>> model.add_module("head", head)
    >>> old = head.weight.detach()[0].clone()
    >>> warm_rows(model, (1, 2), lambda k: nn.functional.cross_entropy(head(x), y), 200, 1.0)
    >>> head(x).argmax(1).tolist(), torch.equal(head.weight[0], old)
    ([1, 2], True)
    """
    heads, rows = tuple(f"{h}." for h in head_prefixes(model)), sorted(set(classes))
    free = [p for n, p in model.named_parameters() if p.requires_grad and n.startswith(heads)]
    params = [p for p in free if p.ndim and rows and len(p) > rows[-1]]
    with evaluating(model):
        for k in range(steps if params else 0):
            for p, g in zip(params, gradients(loss(k), params), strict=True):
                if g is not None:
                    p.data[rows] -= rate * g[rows]
