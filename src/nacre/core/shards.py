"""Weights of which each rank holds a part, as `torch.distributed.fsdp.fully_shard` makes them.

Such a weight is a DTensor. What works entry by entry works on it as it is; what must see a whole tensor (a ranking, a digest,
a checkpoint) asks for it here, on every rank at the same time. Nothing of this is imported before a model needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from . import ranks
from .errors import BadSetting


def is_sharded(t: Any) -> bool:
    """Whether a tensor is held in parts."""
    kind = getattr(sys.modules.get("torch.distributed.tensor"), "DTensor", None)
    return kind is not None and isinstance(t, kind)


def local(t: Tensor) -> Tensor:
    """This rank's part, in the same memory; a plain tensor as it is."""
    return t.detach().to_local() if is_sharded(t) else t  # pyright: ignore[reportAttributeAccessIssue]


def whole(t: Tensor) -> Tensor:
    """The whole tensor, on every rank; all ranks ask together. A gradient flows through."""
    return t.full_tensor() if is_sharded(t) else t  # pyright: ignore[reportAttributeAccessIssue]


class _OverParts(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, term: Any) -> Tensor:
        ctx.mesh, ctx.dims = term.device_mesh, len(term.placements)
        return term.full_tensor()

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> Any:
        from torch.distributed.tensor import DTensor, Replicate

        mean = outputs[0].clone()
        ranks.total([mean])
        return DTensor.from_local(mean / ranks.world(), ctx.mesh, [Replicate()] * ctx.dims, run_check=False)


def over_parts(term: Any) -> Any:
    """A term of a loss that was read off weights in parts, as a plain scalar; any other as it is.

    No rows stand behind it, so its gradient is weighted by the mean of what the ranks weight their rows by.
    """
    return _OverParts.apply(term) if is_sharded(term) else term


def part_of(t: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, cut as `like` is; nothing is sent."""
    if not is_sharded(like) or is_sharded(t) or t.shape != like.shape:
        return t
    from torch.distributed.tensor import distribute_tensor

    held: Any = like
    return distribute_tensor(t, held.device_mesh, held.placements, src_data_rank=None)


def cut_as(tensors: Mapping[str, Any], like: Mapping[str, Tensor]) -> dict[str, Any]:
    """Whole tensors by name, each cut as its namesake is."""
    named = {n: like[n] for n in tensors if n in like and isinstance(tensors[n], Tensor)}
    return {n: part_of(t, named[n]) if n in named else t for n, t in tensors.items()}


def shaped_like(part: Tensor, like: Tensor) -> Tensor:
    """A rank's part as a piece of a tensor that is held as `like` is; in the same memory."""
    if not is_sharded(like):
        return part
    from torch.distributed.tensor import DTensor

    held: Any = like
    mesh, placements = held.device_mesh, held.placements
    return DTensor.from_local(part, mesh, placements, run_check=False, shape=like.shape, stride=like.stride())


def whole_tree(tree: Any) -> Any:
    """A tree of state with every tensor whole; all ranks ask together."""
    match tree:
        case Tensor():
            return whole(tree.detach())
        case dict():
            return {k: whole_tree(v) for k, v in tree.items()}
        case list() | tuple():
            return type(tree)(whole_tree(v) for v in tree)
    return tree


def replicated(tree: Any) -> Any:
    """A tree of state without the tensors that are held in parts: what every rank must hold alike."""
    match tree:
        case dict():
            return {k: replicated(v) for k, v in tree.items() if not is_sharded(v)}
        case list() | tuple():
            return [replicated(v) for v in tree if not is_sharded(v)]
    return tree


def norm(t: Tensor) -> Tensor:
    """The Euclidean norm of a whole tensor, a scalar; of one in parts, all ranks ask together."""
    return whole(t.norm())


def clip(params: Sequence[nn.Parameter], largest: float) -> None:
    """Scale all gradients alike so that the norm of the whole is at most `largest`."""
    kinds = {is_sharded(p) for p in params}
    if len(kinds) < 2:
        nn.utils.clip_grad_norm_(params, largest)
        return
    grads = [p.grad for p in params if p.grad is not None]
    if grads:
        size = torch.stack([norm(g) for g in grads]).norm()
        factor = (largest / (size + 1e-6)).clamp(max=1.0)
        for g in grads:
            local(g).mul_(factor)


def gradients(loss: Tensor, params: Sequence[nn.Parameter]) -> list[Tensor | None]:
    """The gradient of a loss for each parameter; None where it is not used. Their `.grad` stays what it was.

    Where weights are in parts the loss must be of the same rows on every rank: each gets its part of the gradient.
    """
    if not any(map(is_sharded, params)):
        return list(torch.autograd.grad(loss, list(params), allow_unused=True))
    held = [p.grad for p in params]
    for p in params:
        p.grad = None
    loss.backward()
    found = [p.grad for p in params]
    for p, grad in zip(params, held, strict=True):
        p.grad = grad
    return found


@contextmanager
def explained(who: Any) -> Iterator[None]:
    """What mixes whole tensors with parts of them inside is refused by name.

    Raises:
        BadSetting: it does.
    """
    try:
        yield
    except RuntimeError as error:
        if "mixed torch.Tensor and DTensor" not in str(error):
            raise
        name = " and ".join(type(m).__name__ for m in getattr(who, "members", (who,)))
        raise BadSetting(
            f"{name} mixes whole tensors with weights of which each rank holds a part: read what is kept for each weight "
            "through nacre.core.state.grown(kept, weight), or train without fully_shard"
        ) from error


def resharded(model: nn.Module) -> bool:
    """Give up whole weights that a forward pass gathered, so that parameters are the parts again; whether there are any."""
    if not ranks.grouped():
        return False
    found = False
    for module in _sharding(model):
        module.reshard()
        found = True
    return found


def refuse_unknown_layout(model: nn.Module) -> None:
    """See that weights in parts are cut over all ranks, for whole rows of data, and know when to gather themselves.

    Raises:
        BadSetting: they are cut otherwise, such as for tensor parallelism.
    """
    held: list[tuple[str, Any]] = [(n, p) for n, p in model.named_parameters() if is_sharded(p)]
    known = {id(p) for module in _sharding(model) for p in module.parameters()}
    for name, p in held:
        cuts = sum(place.is_shard() for place in p.placements)
        if id(p) not in known or cuts != 1 or p.device_mesh.size() != max(ranks.world(), 1):
            raise BadSetting(
                f"{name} lies on {p.device_mesh} as {p.placements}: weights in parts are understood where "
                "torch.distributed.fsdp.fully_shard cuts them once, over all ranks; use it alone, without tensor parallelism"
            )


def refuse_growth(head: nn.Module, name: str, classes: int) -> None:
    """See that a head which must grow is not in parts.

    Raises:
        BadSetting: it is.
    """
    if any(map(is_sharded, head.parameters(recurse=False))) and classes > getattr(head, "out_features", 0):
        raise BadSetting(
            f"the head {name!r} must grow to {classes} classes, but fully_shard cut it into parts: shard the body only, "
            "fully_shard(model.body), or make the head wide enough before"
        )


def _sharding(model: nn.Module) -> Iterator[Any]:
    """The modules that gather and give up their weights."""
    kind = getattr(sys.modules.get("torch.distributed.fsdp"), "FSDPModule", None)
    return (m for m in model.modules() if isinstance(m, kind)) if kind is not None else iter(())
