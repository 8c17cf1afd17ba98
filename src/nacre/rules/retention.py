"""How much of the way so far a gradient wants kept: a share alpha in [0, 1] for each group of weights.

With w_0 the first weights and D = w - w_0 the way, alpha puts a group at w_0 + alpha D. Slopes g are those of a loss at w.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from ..core.state import Tensors
from .levels import Level, group_sums


@torch.no_grad()
def far_from(start: Tensor, now: Tensor) -> Tensor:
    """The way D from the first weights to these, in fp32 or better; rows that came later have gone none."""
    way = torch.zeros_like(now, dtype=torch.promote_types(now.dtype, start.dtype))
    known = slice(None, len(start)) if now.ndim else ...
    way[known] = now[known] - start
    return way


@torch.no_grad()
def go_back(weight: Tensor, start: Tensor, alpha: Tensor | float) -> Tensor:
    """Move a weight to w_0 + alpha D, in place: 1 keeps its bits, 0 gives it those of w_0. Rows that came later stay.

    Args:
        weight: (rows, ...) or ().
        start: w_0, (as many rows or fewer, ...).
        alpha: A number, or a tensor that broadcasts to the weight.

    Returns:
        Alpha as a tensor.
    """
    share = torch.as_tensor(alpha, dtype=start.dtype, device=start.device)
    known = weight.detach()[: len(start)] if weight.ndim else weight.detach()
    known.copy_(torch.lerp(start, known.to(start.dtype), share[: len(known)] if share.ndim else share))
    return share


@torch.no_grad()
def along(
    slope: Tensors,
    way: Tensors,
    estimator: Literal["cosine", "sign"],
    level: Level,
    kappa: float = 1.0,
    groups: str | None = None,
) -> Tensors:
    """Alpha from directions alone: a group whose loss falls along its way is kept, one that it rises along goes back.

    "cosine": (1 + kappa cos(-g, D)) / 2, clipped; "sign": the share of a group's entries in which -g and D have one sign, of
    those in which both are not 0. Neither depends on the lengths of g and D. A group without slope or way is kept.
    """

    def sums(terms: Tensors) -> Tensors:
        return group_sums(terms, level, groups)

    if estimator == "sign":
        signs = {n: slope[n].sign() * way[n].sign() for n in way}
        for_it = sums({n: (s < 0).float() for n, s in signs.items()})
        said = sums({n: (s != 0).float() for n, s in signs.items()})
        return {n: torch.where(said[n] > 0, for_it[n] / said[n].clamp_min(1), 1.0) for n in way}
    product = sums({n: slope[n] * way[n] for n in way})
    sizes = [sums({n: t[n].square() for n in way}) for t in (slope, way)]
    found = {}
    for n in way:
        both = sizes[0][n].sqrt() * sizes[1][n].sqrt()
        cosine = torch.where(both > 0, -product[n] / both, 1.0)
        found[n] = torch.where(both > 0, ((1 + kappa * cosine) / 2).clamp(0, 1), 1.0)
    return found


@torch.no_grad()
def lowest(rise: Tensors, bend: Tensors) -> Tensors:
    """The lowest point of each group's parabola along its way, clipped: 1 - g.D / D.HD.

    Where it bends down or not at all, the end toward which the loss falls.

    Args:
        rise: g.D of each group.
        bend: D.HD of each group.
    """
    ends = {n: (r <= 0).to(r.dtype) for n, r in rise.items()}
    return {
        n: torch.where(bend[n] > 0, (1 - r / torch.where(bend[n] > 0, bend[n], 1.0)).clamp(0, 1), ends[n])
        for n, r in rise.items()
    }


@torch.no_grad()
def parabola(losses: Tensor) -> Tensor:
    """The lowest point in [0, 1] of the parabola that fits losses at equally spaced places from 0 to 1 best.

    Where it bends down or not at all, the place of the lowest loss.

    Args:
        losses: (places,), three or more.
    """
    at = torch.linspace(0, 1, len(losses), dtype=torch.float64, device=losses.device)
    base = torch.stack([torch.ones_like(at), at, at.square()], 1)
    values = losses.to(torch.float64)
    _, slope, bend = (torch.linalg.pinv(base) @ values).unbind()
    inside = (-slope / (2 * torch.where(bend > 0, bend, 1.0))).clamp(0, 1)
    return torch.where(bend > 0, inside, at[values.argmin()]).float()


@contextmanager
def part_way(params: Mapping[str, nn.Parameter], way: Tensors, at: float) -> Iterator[None]:
    """Inside, the weights are at a share of their way; outside, where they were, bit for bit."""
    held = {n: p.detach().clone() for n, p in params.items()}
    try:
        for n, p in params.items():
            p.data.sub_(way[n], alpha=1 - at)
        yield
    finally:
        for n, p in params.items():
            p.data.copy_(held[n])
