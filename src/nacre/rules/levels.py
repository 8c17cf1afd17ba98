"""Groups of weights that share one factor: single entries, channels, tensors, layers, groups by name, or all of them.

Shapes: one tensor per parameter; what is said of its group has a shape that broadcasts to the parameter's.
"""

from __future__ import annotations

import re
from typing import Literal

import torch
from torch import Tensor

from ..core.state import Tensors

Level = Literal["entry", "channel", "tensor", "layer", "group", "global"]


def unit_of(name: str, level: Level, groups: str | None = None) -> str:
    """What several tensors share: their module, what an expression finds in their names, or nothing but the model.

    Args:
        name: Of a parameter.
        level: "layer", "group" or "global".
        groups: The expression, for "group". Names in which it finds nothing are a group of their own.

    >>> [unit_of(f"blocks.{k}.{part}.weight", "group", "attn|mlp") for k in (0, 1) for part in ("attn.qkv", "mlp.fc1")]
    ['attn', 'mlp', 'attn', 'mlp']
    """
    if level == "layer":
        return name.rpartition(".")[0]
    found = re.search(groups or "", name) if level == "group" else None
    return found.group() if found else ""


def group_sums(terms: Tensors, level: Level, groups: str | None = None) -> Tensors:
    """The sum of each group's terms, for every tensor; nothing is read back from the device.

    A channel is a row of a tensor (of one with one dimension: an entry); a layer is all tensors of one module, told by the
    name before the last dot; for groups see `unit_of`. Sums are taken in fp32 or better.
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
    units = [unit_of(n, level, groups) for n in held]
    together = {u: torch.stack([s for s, of in zip(sums, units, strict=True) if of == u]).sum() for u in set(units)}
    return {n: together[u] for n, u in zip(held, units, strict=True)}


def _rows(t: Tensor) -> Tensor:
    return t if t.ndim < 2 else t.sum(tuple(range(1, t.ndim)), keepdim=True)
