"""Groups of weights that share one factor: single entries, channels, tensors, layers, or all of them.

Shapes: one tensor per parameter; what is said of its group has a shape that broadcasts to the parameter's.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..core.state import Tensors

Level = Literal["entry", "channel", "tensor", "layer", "global"]


def group_sums(terms: Tensors, level: Level) -> Tensors:
    """The sum of each group's terms, for every tensor; nothing is read back from the device.

    A channel is a row of a tensor (of one with one dimension: an entry); a layer is all tensors of one module, told by the
    name before the last dot. Sums are taken in fp32 or better.
    """
    if not terms:
        return {}
    held = {n: t.to(torch.promote_types(t.dtype, torch.float32)) for n, t in terms.items()}
    if level == "entry":
        return held
    if level == "channel":
        return {n: _rows(t) for n, t in held.items()}
    sums = [t.sum() for t in held.values()]
    if level == "tensor":
        return dict(zip(held, sums, strict=True))
    modules = [n.rpartition(".")[0] if level == "layer" else "" for n in held]
    together = {m: torch.stack([s for s, of in zip(sums, modules, strict=True) if of == m]).sum() for m in set(modules)}
    return {n: together[m] for n, m in zip(held, modules, strict=True)}


def _rows(t: Tensor) -> Tensor:
    return t if t.ndim < 2 else t.sum(tuple(range(1, t.ndim)), keepdim=True)
