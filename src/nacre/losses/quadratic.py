"""Penalties on the distance from an anchor.

Weights, importance and anchors are of the same shapes; importance is not negative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..core.shards import is_sharded, over_parts, part_of
from ..core.state import Tensors, grown


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
        importance: F.
        anchors: a.
        strength: Multiplies the penalty.

    >>> w = torch.tensor([3.0], requires_grad=True)
    >>> loss = quadratic([w], [torch.tensor([2.0])], [torch.tensor([1.0])], 10.0)
    >>> loss.backward()
    >>> loss.item(), w.grad.item()
    (40.0, 40.0)
    """
    terms = [
        over_parts(_Quadratic.apply(strength, len(held[0]), *held[0], *held[1], *held[2]))
        for held in _alike(weights, importance, anchors)
    ]
    return terms[0] if len(terms) == 1 else torch.stack(terms).sum()


def anchored(
    params: Mapping[str, nn.Parameter], importance: Tensors, anchor: Tensors, strength: float
) -> Tensor | float:
    """The quadratic penalty over those parameters that train and have an importance; rows gained since have none.

    >>> layer = nn.Linear(1, 2, bias=False)
    >>> _ = nn.init.constant_(layer.weight, 3.0)
    >>> importance, anchor = {"weight": torch.tensor([[2.0]])}, {"weight": torch.tensor([[1.0]])}
    >>> anchored(dict(layer.named_parameters()), importance, anchor, 10.0).item()
    40.0
    """
    held = {n: p for n, p in params.items() if n in importance and p.requires_grad}
    if not held:
        return 0.0
    far = [grown(importance[n], p) for n, p in held.items()]
    return quadratic(list(held.values()), far, [grown(anchor[n], p) for n, p in held.items()], strength)


def add_slopes(
    grads: Tensors,
    params: Mapping[str, Tensor],
    importance: Tensors,
    anchor: Tensors,
    strength: float,
    room: Tensors | None = None,
) -> None:
    """Add the gradient of that penalty, strength * F (w - a), to the gradients that there are, in place.

    Two passes over the weights instead of the five that a term of the loss takes: on a small model that is felt. Unlike such a
    term it is not part of the loss's value, and is not clipped with the gradient. `room`, given again at each step, is memory
    for the differences: new memory of the size of the model at each step costs as much as they do.

    >>> layer = nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.constant_(layer.weight, 3.0)
    >>> grads = {"weight": torch.zeros(1, 1)}
    >>> add_slopes(grads, dict(layer.named_parameters()), {"weight": torch.ones(1, 1)}, {"weight": torch.ones(1, 1)}, 10.0)
    >>> grads["weight"].item()
    20.0
    """
    held = {n: params[n].detach() for n in grads if n in importance}
    mine = [grads[n] for n in held], list(held.values())
    for slopes, weights, far, anchors in _alike(
        *mine, [grown(importance[n], p) for n, p in held.items()], [grown(anchor[n], p) for n, p in held.items()]
    ):
        torch._foreach_addcmul_(slopes, far, _differences(weights, anchors, room), value=strength)


def pull(weight: Tensor, anchor: Tensor, importance: Tensor, rate: float) -> None:
    """Move a weight toward its anchor, in place: w <- (w + r a) / (1 + r), with r = rate * F.

    It is the exact proximal move of rate * F / 2 (w - a)^2: stable at any rate, and at a large one w ends at a.

    Args:
        weight: w, perhaps of more rows than the anchor: these stay.
        anchor: a.
        importance: F, of the anchor's shape or 0-dim.
        rate: Learning rate times strength.

    >>> w = torch.tensor([3.0, 9.0])
    >>> pull(w, torch.tensor([1.0]), torch.tensor([2.0]), 0.5)
    >>> w
    tensor([2., 9.])
    """
    known = weight if anchor.shape == weight.shape else weight[: len(anchor)]
    far, anchor = part_of(importance, known) * rate, part_of(anchor, known)
    share = far.div_(far + 1)
    if known.dtype == share.dtype:
        known.lerp_(anchor, share)
    else:  # weights of lower precision than their memory
        known.copy_(torch.lerp(known.to(share.dtype), anchor, share))


def pull_all(
    weights: Tensors, importance: Tensors, anchor: Tensors, strength: float, rate: Callable[[str], float]
) -> None:
    """`pull` each weight that has an importance, with its learning rate times strength.

    It stays finite at any strength, and an adaptive optimizer does not rescale it. Rows gained since have no memory.

    Args:
        weights: By name, as they are after the step.
        importance: F, of the anchor's shape, or of one number for the whole tensor.
        anchor: a.
        strength: Multiplies the penalty.
        rate: The learning rate of a weight, by its name.

    >>> w = {"weight": torch.tensor([4.0])}
    >>> pull_all(w, {"weight": torch.ones(1)}, {"weight": torch.zeros(1)}, 3.0, lambda name: 1.0)
    >>> w["weight"]
    tensor([1.])
    """
    for n, f in importance.items():
        if n in weights:
            pull(weights[n], anchor[n], f, rate(n) * strength)


def fold(importance: Tensors, anchor: Tensors, fresh: Tensors, weights: Mapping[str, Tensor], decay: float) -> None:
    """Fold one more quadratic into what is kept, in place: F <- decay F + f, a <- (decay F a + f w) / F.

    The sum of both has this importance and this anchor up to a constant, so what is kept does not grow with the tasks.

    Args:
        importance: F.
        anchor: a.
        fresh: f, the importance after this task.
        weights: w, the weights after this task.
        decay: Factor on what was kept before.

    >>> importance, anchor = {"w": torch.ones(1)}, {"w": torch.zeros(1)}
    >>> fold(importance, anchor, {"w": torch.full((1,), 3.0)}, {"w": torch.full((1,), 4.0)}, 1.0)
    >>> importance["w"].item(), anchor["w"].item()
    (4.0, 3.0)
    """
    for n, f in fresh.items():
        before = grown(importance[n], f) * decay if n in importance else torch.zeros_like(f)
        now = weights[n].detach().to(f.dtype)
        kept = grown(anchor[n], f) if n in anchor else now
        importance[n] = before + f
        share = torch.where(importance[n] > 0, f / importance[n], 1.0)
        anchor[n] = torch.lerp(kept, now, share)


def _differences(weights: list[Tensor], anchors: list[Tensor], room: Tensors | None) -> list[Tensor]:
    """Weights minus anchors, in the room that there is for them."""
    if room is None or any(map(is_sharded, weights)):
        return list(torch._foreach_sub(weights, anchors))
    found: list[Tensor] = []
    for k, (w, a) in enumerate(zip(weights, anchors, strict=True)):
        held, kind = room.get(str(k)), torch.result_type(w, a)
        if held is None or held.shape != w.shape or held.dtype != kind or held.device != w.device:
            held = room[str(k)] = torch.empty_like(w, dtype=kind)
        found.append(torch.sub(w, a, out=held))
    return found


def _alike(*lists: Sequence[Tensor]) -> Iterator[list[list[Tensor]]]:
    """The lists, cut so that weights of which each rank holds a part do not mix with whole ones; the first list says which."""
    kinds = [is_sharded(t) for t in lists[0]]
    for kind in sorted(set(kinds)):
        yield [[t for t, mine in zip(tensors, kinds, strict=True) if mine is kind] for tensors in lists]
