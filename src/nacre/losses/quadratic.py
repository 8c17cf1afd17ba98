"""Penalties on the distance from an anchor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..core.shards import is_sharded, over_parts


class _Quadratic(torch.autograd.Function):
    """Value and gradient of the penalty by hand: no graph over its terms, and one product each."""

    @staticmethod
    def forward(ctx: Any, strength: float, count: int, *tensors: Tensor) -> Tensor:
        weights, importance, anchors = tensors[:count], tensors[count : 2 * count], tensors[2 * count :]
        far = torch._foreach_sub(weights, anchors)
        ctx.slopes = torch._foreach_mul(far, importance)
        ctx.strength = strength
        return strength / 2 * torch.stack([(f * s).sum() for f, s in zip(far, ctx.slopes, strict=True)]).sum()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        slopes = torch._foreach_mul(ctx.slopes, ctx.strength * outputs[0])
        return (None, None, *slopes, *[None] * (2 * len(slopes)))


def quadratic(
    weights: Sequence[Tensor], importance: Sequence[Tensor], anchors: Sequence[Tensor], strength: float
) -> Tensor:
    """Strength / 2 * sum_i F_i (w_i - a_i)^2 over all entries, a scalar.

    Args:
        weights: Parameters w, which receive the gradient strength * F (w - a).
        importance: F, of the same shapes, not negative.
        anchors: a, of the same shapes.
        strength: Multiplies the penalty.

    >>> w = torch.tensor([3.0], requires_grad=True)
    >>> loss = quadratic([w], [torch.tensor([2.0])], [torch.tensor([1.0])], 10.0)
    >>> loss.backward()
    >>> loss.item(), w.grad.item()
    (40.0, 40.0)
    """
    kinds = sorted(set(map(is_sharded, weights)))
    if kinds == [False]:
        return _Quadratic.apply(strength, len(weights), *weights, *importance, *anchors)
    terms = []
    for kind in kinds:  # weights of which each rank holds a part do not mix with others
        here = [k for k, w in enumerate(weights) if is_sharded(w) is kind]
        held = [tensors[k] for tensors in (weights, importance, anchors) for k in here]
        terms.append(over_parts(_Quadratic.apply(strength, len(here), *held)))
    return torch.stack(terms).sum()
