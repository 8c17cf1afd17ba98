"""How far two directions agree: by entry, by row, by tensor, or over a whole list of tensors.

One measure serves many rules; they differ in the reference. Against the average of a weight's own gradients it says whether the
weight still goes the way it went; against the gradient of an old task it says how much of a step the old task would take too.

Directions and references are lists of equal shapes. Sums are kept in fp32 or better, and nothing is read back to the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..core.shards import is_sharded, local, whole

Per = Literal["entry", "row", "tensor", "list"]
Measure = Literal["share", "cosine", "peak"]
TINY = 1e-30
"""A squared length that counts as none."""


def agreement(
    reference: Sequence[Tensor],
    direction: Sequence[Tensor],
    per: Per = "tensor",
    measure: Measure = "cosine",
    *,
    damping: float = TINY,
    room: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """The inner product <r, g> over each unit, measured by the lengths of both.

    Where a length is 0 the answer is 0. Rescaling a direction does not change a cosine.

    Args:
        reference: r, such as an average of gradients, or the gradient of an old task.
        direction: g, such as the gradient of the present step.
        per: The unit over which is summed: an entry, a row (dim 0), a tensor, or the list as one vector. Of a group of tensors
            give the list of them.
        measure: `"share"`: <r, g> / |g|^2, how far along g the reference goes; `"cosine"`: <r, g> / (|r| |g|), in [-1, 1];
            `"peak"`: <r, g> / (|g|_1 max |r|), in [-1, 1], with the largest entry of the whole tensor (of the list, where that
            is the unit): an entry far below it agrees only a little.
        damping: Added to what is divided by, so that directions which are nothing but rounding agree with nothing.
        room: Memory for answers by entry, in fp32 or better, of the tensors' shapes.

    Returns:
        A tensor for each of the list that broadcasts over it: of its shape by entry, (rows, 1, ...) by row, () otherwise.

    >>> r, g = [torch.tensor([3.0, 4.0])], [torch.tensor([1.0, 0.0])]
    >>> agreement(r, g, measure="share"), agreement(r, g), agreement(r, g, "entry", "peak")
    ([tensor(3.)], [tensor(0.6000)], [tensor([0.7500, 0.0000])])
    """
    if per == "entry":
        return _by_entry(reference, direction, measure, damping, room)
    products = _sums(reference, direction, per)
    if measure == "share":
        lengths = _sums(direction, direction, per)
    elif measure == "cosine":
        squares = zip(_sums(reference, reference, per), _sums(direction, direction, per), strict=True)
        lengths = [r.sqrt() * g.sqrt() for r, g in squares]
    else:
        signs = [g.sign() for g in direction]
        lengths = [n * m for n, m in zip(_sums(signs, direction, per), _peaks(reference, per), strict=True)]
    return [p / (n + damping) for p, n in zip(products, lengths, strict=True)]


def gate(
    reference: Sequence[Tensor], direction: Sequence[Tensor], per: Per = "tensor", *, silent: float = 0.0
) -> list[Tensor]:
    """The share of a step that an old task would take too: clip(<r, g> / |g|^2, 0, 1).

    Of a quadratic whose gradient is r it is the best length of a step along -g: a conflict (<r, g> < 0) closes the gate. A unit
    with |r|^2 <= silent |g|^2 says nothing, as at the first step after a task that has converged: there the gate is open.

    >>> gate([torch.tensor([1.0, 1.0])], [torch.tensor([2.0, 0.0])])
    [tensor(0.5000)]
    """
    shares = agreement(reference, direction, per, "share")
    if per == "entry":
        lengths = [[local(t).abs() for t in side] for side in (reference, direction)]
        silent = silent**0.5
    else:
        lengths = [_sums(side, side, per) for side in (reference, direction)]
    return [torch.where(r <= silent * g, 1.0, s.clamp(0, 1)) for r, g, s in zip(*lengths, shares, strict=True)]


def _by_entry(
    reference: Sequence[Tensor],
    direction: Sequence[Tensor],
    measure: Measure,
    damping: float,
    room: Sequence[Tensor] | None,
) -> list[Tensor]:
    """<r, g> / (length + damping) as g / (length + damping) r, in the memory of the length."""
    peaks = _peaks(reference, "tensor") if measure == "peak" else [None] * len(reference)
    found: list[Tensor] = []
    for k, (r, g, peak) in enumerate(zip(map(local, reference), map(local, direction), peaks, strict=True)):
        out = torch.empty_like(g, dtype=_kind(g)) if room is None else room[k]
        g = g.to(out.dtype)
        torch.abs(g, out=out)
        out.mul_(g.abs() if measure == "share" else r.abs() if peak is None else peak.clamp_min(TINY))
        found.append(torch.div(g, out.add_(damping), out=out).mul_(r))
    return found


def _sums(a: Sequence[Tensor], b: Sequence[Tensor], per: Per) -> list[Tensor]:
    """The inner products of the units."""
    if per == "row":
        return [_by_row(x.to(_kind(x)) * y.to(_kind(y))) for x, y in zip(a, b, strict=True)]
    found = [_dot(x, y) for x, y in zip(a, b, strict=True)]
    return [torch.stack(found).sum()] * len(found) if per == "list" and found else found


def _by_row(products: Tensor) -> Tensor:
    """(rows, 1, ...); of a vector each entry is a row."""
    return products.flatten(1).sum(1).view(-1, *[1] * (products.ndim - 1)) if products.ndim > 1 else products


def _dot(x: Tensor, y: Tensor) -> Tensor:
    if is_sharded(x) or is_sharded(y):
        return whole((x.to(_kind(x)) * y.to(_kind(y))).sum())
    return torch.dot(x.reshape(-1).to(_kind(x)), y.reshape(-1).to(_kind(y)))


def _peaks(tensors: Sequence[Tensor], per: Per) -> list[Tensor]:
    """The largest absolute entry of each tensor, or of all."""
    found = [_peak(t).to(_kind(t)) for t in tensors]
    return [torch.stack(found).amax()] * len(found) if per == "list" and found else found


def _peak(t: Tensor) -> Tensor:
    if not t.numel():
        return t.new_zeros(())
    if is_sharded(t):
        return whole(t.abs().amax())
    low, high = torch.aminmax(t)
    return torch.maximum(high, -low)


def _kind(t: Tensor) -> torch.dtype:
    return torch.promote_types(t.dtype, torch.float32)
