"""From scores to choices, and from names to weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from ..core.errors import BadSetting, NonFinite
from ..core.model import head_prefixes
from ..core.shards import whole
from ..core.state import Tensors

T = TypeVar("T", bound=Tensor)


def top_share(scores: Tensor, share: float, least: int = 1) -> Tensor:
    """True for the `share` of entries with the highest scores, at least `least` of them; a mask of the same shape.

    Exactly max(least, round(share * entries)) are chosen; of equal scores the earlier entries are, on every device. Works
    for tensors of any size.

    Raises:
        NonFinite: a score is NaN, which has no rank.

    >>> top_share(torch.tensor([0.1, 0.9, 0.9, 0.3]), 0.25)
    tensor([False,  True, False, False])
    """
    count = min(max(least, round(share * scores.numel())), scores.numel())
    chosen = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    if count:
        flat = scores.flatten()
        highest = flat.topk(count).values
        if bool(highest[0].isnan()):  # NaN comes before all others
            raise NonFinite("a score is NaN, which has no rank: look at the loss that the scores were taken of")
        edge = highest[-1]
        chosen = flat > edge
        ties = (flat == edge).nonzero().flatten()[: count - int(chosen.sum())]
        chosen[ties] = True
    return chosen.view_as(scores)


def top_share_of_all(scores: Tensors, share: float, least: int = 1) -> Tensors:
    """True for the `share` of the entries of all tensors together with the highest scores; masks of the tensors' shapes.

    Exactly max(least, round(share * all entries)) are chosen; of equal scores those of the earlier tensor are, and within a
    tensor the earlier entries, on every device. There is no limit on their number. Scores of which each rank holds a part
    are gathered first, so all ranks ask together and get the same masks.

    Args:
        scores: By name; they compete as they are, so they must be of one kind.
        share: Between 0 and 1.
        least: How many are chosen at least.

    Raises:
        NonFinite: a score is NaN, which has no rank.

    >>> chosen = top_share_of_all({"a": torch.tensor([0.1, 0.9]), "b": torch.tensor([[0.5], [0.9]])}, 0.5)
    >>> chosen["a"].tolist(), chosen["b"].tolist()
    ([False, True], [[False], [True]])
    """
    if not scores:
        return {}
    held = {n: whole(s) for n, s in scores.items()}
    first = next(iter(held.values()))
    flat = torch.cat([s.flatten().to(first.device) for s in held.values()])
    if bool(flat.isnan().any()):
        bad = next(n for n, s in held.items() if bool(s.isnan().any()))
        raise NonFinite(f"a score of {bad} is NaN, which has no rank: look at the loss that the scores were taken of")
    pieces = top_share(flat, share, least).split([s.numel() for s in held.values()])
    return {n: piece.view_as(s).to(s.device) for (n, s), piece in zip(held.items(), pieces, strict=True)}


def weights_of(model: nn.Module, *, norms: bool = True, head: bool = True) -> dict[str, nn.Parameter]:
    """The weights that train, by name; without those of norm layers, or of the head, where they are not asked for.

    >>> model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    >>> model.add_module("head", nn.Linear(2, 3))
    >>> list(weights_of(model, norms=False, head=False))
    ['0.weight', '0.bias']
    """
    heads = () if head else tuple(f"{h}." for h in head_prefixes(model))
    left = () if norms else {n for n, m in model.named_modules() if "norm" in type(m).__name__.lower()}
    return {
        n: p
        for n, p in model.named_parameters()
        if p.requires_grad and not n.startswith(heads) and n.rpartition(".")[0] not in left
    }


def named(params: Mapping[str, T], select: str | None, who: str, setting: str = "select") -> dict[str, T]:
    """The weights whose names an expression finds; all of them where there is none.

    Args:
        params: Weights by name.
        select: A regular expression, searched for in each name.
        who: Whose setting it is, for the message.
        setting: What the setting is called there.

    Raises:
        BadSetting: it is no expression, or finds nothing.

    >>> list(named({"attn.qkv.weight": torch.ones(1), "mlp.weight": torch.ones(1)}, "attn.*qkv", "L2"))
    ['attn.qkv.weight']
    """
    if select is None:
        return dict(params)
    try:
        found = {n: p for n, p in params.items() if re.search(select, n)}
    except re.error as error:
        raise BadSetting(f"{who}: {setting} = {select!r} is no regular expression: {error}") from None
    if params and not found:
        some = ", ".join(list(params)[:6]) + (" ..." if len(params) > 6 else "")
        raise BadSetting(f"{who}: {setting} = {select!r} finds none of the weights that train: name some of {some}")
    return found
