"""Scores that need no pass over rows: of weights, of their gradients, of nothing.

Shapes: one tensor per parameter, of its shape. High means: choose me. `top_share` and `top_share_of_all` choose.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from ..core.dice import dice
from ..core.state import Tensors


@torch.no_grad()
def first_order(weights: Mapping[str, Tensor], grads: Mapping[str, Tensor]) -> Tensors:
    """|w g|: to first order, how much the loss changes if the weight is set to 0.

    What it says depends on the gradient: that of one batch is noisy, so whoever uses it at each step averages it over steps.

    Args:
        weights: By name.
        grads: By name; weights that have none are left out.

    Paper: No Parameters Left Behind: Sensitivity Guided Adaptive Learning Rate for Training Large Transformer Models
    (arXiv 2202.02664).

    >>> first_order({"w": torch.tensor([2.0, -3.0])}, {"w": torch.tensor([0.5, 1.0])})["w"]
    tensor([1., 3.])
    """
    names = [n for n in grads if n in weights]
    if not names:
        return {}
    found = torch._foreach_mul([weights[n].detach() for n in names], [grads[n].detach() for n in names])
    torch._foreach_abs_(found)
    return dict(zip(names, found, strict=True))


@torch.no_grad()
def magnitude(weights: Mapping[str, Tensor], which: Literal["large", "small"] = "large") -> Tensors:
    """|w|, or -|w| where small weights are to be chosen.

    >>> magnitude({"w": torch.tensor([2.0, -3.0])}, "small")["w"]
    tensor([-2., -3.])
    """
    found = torch._foreach_abs([w.detach() for w in weights.values()])
    if which == "small":
        torch._foreach_neg_(found)
    return dict(zip(weights, found, strict=True))


def random_scores(weights: Mapping[str, Tensor], *place: int | str) -> Tensors:
    """Uniform draws from [0, 1) by counted dice of a place and the weight's name: a choice by nothing, to compare with.

    They are drawn on the CPU in fp32, so they are the same on every device and on every rank; no other weight changes them.

    >>> a = random_scores({"w": torch.empty(3), "v": torch.empty(2)}, 0, "demo")
    >>> torch.equal(a["w"], random_scores({"w": torch.empty(3)}, 0, "demo")["w"])
    True
    """
    return {n: torch.rand(w.shape, generator=dice(*place, "score", n)).to(w.device) for n, w in weights.items()}
