"""SAGE: weights that the loss does not feel move farther."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.method import Method
from ..core.paper import Fidelity, Paper
from ..core.rule import Site
from ..core.shards import local, shaped_like
from ..core.state import Tensors, scratch, setting, state
from ..rules.moves import chosen, finds, follow, parts, room_for, scale_moves

MATRICES = "attn|attention|mlp|ffn|feed_forward|intermediate|output[.]dense|linear[12]|fc[12]"


@dataclass
class SAGE(Method):
    """Multiply each weight's move by how much its sensitivity varies, relative to its mean sensitivity.

    Entry by entry, with w the weight before the step and g its gradient as the optimizer was given it: I = |w g|, to first
    order the change of the loss if the weight were 0; A <- decay A + (1 - decay) I; and
    w <- old + |I - A| / (A + eps^2) (new - old), with A divided by 1 - decay^k at step k where `corrected`. A weight of whose
    sensitivity one is less sure moves farther. As A holds the present I, the factor lies in [0, max(1, decay / (1 - decay))]:
    no clip is needed. A weight that has always been 0 has no sensitivity and stays 0.

    It acts on matrices of attention and feed-forward blocks, as published; everything else moves as the optimizer says.

    Differences from the published code: there the factor is inside AdamW and Adamax, on Adam's direction only; here it is on
    the move that any optimizer made, so that decoupled weight decay is scaled too. There each tensor's gradient is also clipped
    to norm 1. Published with AdamW it is `corrected`, and nothing moves at the first step; with Adamax it is not.

    Paper: No Parameters Left Behind: Sensitivity Guided Adaptive Learning Rate for Training Large Transformer Models
    (arXiv 2202.02664).

    Raises:
        BadSetting: at the first step, if `match` finds nothing that the optimizer holds.

    >>> SAGE(decay=0.85).decay
    0.85
    """

    paper: ClassVar[Paper | None] = Paper(
        "No Parameters Left Behind: Sensitivity Guided Adaptive Learning Rate for Training Large Transformer Models (SAGE)",
        2022,
        "2202.02664",
    )
    fidelity: ClassVar[Fidelity] = "faithful"
    off: ClassVar[dict[str, Any]] = {"match": None}

    match: str | None = setting(
        MATRICES, "matrices whose names this expression finds; none leaves all to the optimizer"
    )
    decay: float = setting(0.75, "decay of the mean sensitivity (beta_3), 0.6 to 0.9 published", low=0.0, high=0.9999)
    eps: float = setting(1e-6, "its square keeps weights without sensitivity finite", low=1e-12)
    corrected: bool = setting(True, "whether the mean is corrected for its beginning at 0, as Adam's are")
    average: Tensors = state()  # A
    steps: int = state(int)
    room: Tensors = scratch(dict)  # memory for I and factors
    more: Tensors = scratch(dict)  # and for what they are divided by

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls("weight")
        yield cls("body", decay=0.5, corrected=False)

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        if self.match is None:
            return new
        grads: dict[str, Tensor] = {}
        for n in chosen(site, self.match, f"SAGE(match={self.match!r})"):
            grad = site.params[n].grad
            if grad is not None and grad.ndim > 1:
                grads[n] = grad
        if grads:
            self.steps += 1
            factors = self._factors(grads, old)
            scale_moves([new[n] for n in grads], [old[n] for n in grads], factors)
        return new

    def needs_old(self, name: str) -> bool:
        return self.match is not None and finds(self.match, name)

    def wants_whole(self, name: str) -> bool:
        return self.match is not None and finds(self.match, name)

    def _factors(self, grads: Tensors, old: Tensors) -> list[Tensor]:
        """|I - A / c| / (A / c + eps^2) as |c I - A| / (A + c eps^2), c the correction; A learns I before."""
        found, below = room_for(self.room, grads), room_for(self.more, grads)
        for out, n in zip(found, grads, strict=True):
            torch.mul(local(old[n]).to(out.dtype), local(grads[n]), out=out)
        torch._foreach_abs_(found)
        felt = {n: shaped_like(i, grads[n]) for n, i in zip(grads, found, strict=True)}
        averages = parts(follow(self.average, felt, self.decay))
        c = 1 - self.decay**self.steps if self.corrected else 1.0
        torch._foreach_mul_(found, c)
        torch._foreach_sub_(found, averages)
        torch._foreach_abs_(found)
        torch._foreach_copy_(below, averages)
        torch._foreach_add_(below, c * self.eps**2)
        torch._foreach_div_(found, below)
        return found
