"""What rules do with the moves of a step: choose them by name, measure them, scale them, average what comes with them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import torch
from torch import Tensor

from ..core.errors import BadSetting
from ..core.rule import Site
from ..core.shards import is_sharded, local, whole
from ..core.state import Tensors, grown


@lru_cache(maxsize=1 << 16)
def finds(match: str, name: str) -> bool:
    """Whether an expression finds a name.

    Raises:
        BadSetting: it is no regular expression.
    """
    try:
        return re.search(match, name) is not None
    except re.error as error:
        raise BadSetting(f"{match!r} is no regular expression: {error}; a name or a part of it is one") from error


def chosen(site: Site, match: str | None, who: str) -> list[str]:
    """The parameters that the optimizer holds and whose names an expression finds; of None, all but heads and methods' parts.

    Raises:
        BadSetting: it finds none.
    """
    names = [n for n in site.params if (site.in_body(n) if match is None else finds(match, n))]
    if not names:
        raise BadSetting(f"{who} finds no parameter: name one that the optimizer holds, {some(site)}")
    return names


def may_find(match: str | None, name: str) -> bool:
    """Whether `chosen` may find a name; of None, heads are told by the model only."""
    return not name.startswith("parts.") if match is None else finds(match, name)


def some(site: Site) -> str:
    """A few names of what the optimizer holds."""
    names = sorted(site.params)
    return ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")


def scale_moves(new: Sequence[Tensor], old: Sequence[Tensor], factors: Sequence[Tensor | float]) -> None:
    """Set new to old + factor (new - old), in place, in one pass and without memory; at factor 1 new stays as it is.

    Args:
        new: Weights after a step.
        old: Weights before it, or others that the way is measured from; read only.
        factors: For each a number, or a tensor that broadcasts over it.
    """
    for w, was, f in zip(map(local, new), map(local, old), factors, strict=True):
        kind = torch.promote_types(w.dtype, was.dtype)
        if isinstance(f, Tensor):
            kind = torch.promote_types(kind, f.dtype)
            f = local(f).to(kind)
        if kind == w.dtype:
            torch.lerp(was.to(kind), w, f, out=w)
        else:  # weights of lower precision than what they are measured by
            w.copy_(torch.lerp(was.to(kind), w.to(kind), f))


def follow(averages: Tensors, values: Mapping[str, Tensor], decay: float) -> list[Tensor]:
    """Set averages to decay * average + (1 - decay) * value by name, in fp32 or better; what is new begins at 0.

    Returns:
        The averages of the names in `values`.
    """
    held = kept_for(averages, values)
    now = [local(v).to(a.dtype) for v, a in zip(values.values(), held, strict=True)]
    if held:
        torch._foreach_lerp_(parts(held), now, 1 - decay)
    return held


def kept_for(kept: Tensors, like: Mapping[str, Tensor]) -> list[Tensor]:
    """What is kept for each of these tensors, in fp32 or better; zeros where nothing is, or where rows were added."""
    for n, value in like.items():
        held = kept.get(n)
        if held is None:
            kept[n] = torch.zeros_like(value, dtype=wide(value))
        elif held.shape != value.shape or is_sharded(held) is not is_sharded(value):
            kept[n] = grown(held, value)
    return [kept[n] for n in like]


def differences(a: Mapping[str, Tensor], b: Mapping[str, Tensor], room: Tensors) -> list[Tensor]:
    """The differences a - b by the names of b, in memory that is used again: what a step moved, of my parts."""
    found = room_for(room, {n: a[n] for n in b})
    for out, (n, other) in zip(found, b.items(), strict=True):
        torch.sub(local(a[n]).to(out.dtype), local(other), out=out)
    return found


def room_for(room: Tensors, like: Mapping[str, Tensor]) -> list[Tensor]:
    """Memory of the tensors' shapes (of my parts) in fp32 or better, the same at every step; what is in it means nothing."""
    for n, t in like.items():
        held, t = room.get(n), local(t)
        if held is None or held.shape != t.shape or held.dtype != wide(t) or held.device != t.device:
            room[n] = torch.empty_like(t, dtype=wide(t), requires_grad=False)
    return [room[n] for n in like]


def parts(tensors: Iterable[Tensor]) -> list[Tensor]:
    """This rank's part of each, in the same memory: what is done entry by entry is done on these."""
    return [local(t) for t in tensors]


def lengths(tensors: Sequence[Tensor]) -> Tensor:
    """The Euclidean norm of each tensor, (tensors,); of those in parts, all ranks ask together."""
    if any(map(is_sharded, tensors)):
        return torch.stack([whole(t.norm()) for t in tensors])
    kinds = {wide(t) for t in tensors}
    if len(kinds) > 1:
        return torch.stack([t.norm(dtype=torch.float64) for t in tensors])
    return torch.stack(list(torch._foreach_norm(list(tensors), dtype=kinds.pop())))


def wide(t: Tensor) -> torch.dtype:
    """The type in which something is kept beside a tensor: fp32 or better."""
    return torch.promote_types(t.dtype, torch.float32)
