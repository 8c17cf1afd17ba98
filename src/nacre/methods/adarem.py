"""AdaRem: how far a weight moves depends on whether it goes on as it went."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.method import Method
from ..core.paper import Fidelity, Paper
from ..core.rule import Site
from ..core.state import Tensors, scratch, setting, state
from ..rules import agreement
from ..rules.moves import follow, kept_for, room_for, scale_moves


@dataclass
class AdaRem(Method):
    """Lengthen the moves of weights whose gradient agrees with its own past, and shorten those that go back.

    With g the gradient as the optimizer was given it and m the average of the gradients of earlier steps, entry by entry
    a = g m / (|g| max |m| + delta) in [-1, 1], the maximum over the tensor, and w <- old + (1 + strength a) (new - old). After
    that m <- decay m + (1 - decay) g. Where a gradient keeps its sign moves grow to (1 + strength) of themselves, where it
    oscillates m vanishes; no move changes its sign.

    Differences from the published form: there the factor is on the gradient inside an optimizer of its own, here it is on the
    move that any optimizer made, because Adam would divide it out again. Under plain SGD both are the same. With momentum and
    weight decay the factor is on these parts of the move too. The variant that keeps norms on a sphere is not built. m is kept
    over tasks; it is of fp32 or better.

    Paper: AdaRem: Adaptive gradient with resilience and momentum (arXiv 2010.11041). Its rule was rebuilt from its abstract and
    from what is known of it; no code was published.

    >>> AdaRem(strength=0.5).decay
    0.999
    """

    paper: ClassVar[Paper | None] = Paper("AdaRem: adaptive gradient with resilience and momentum", 2020, "2010.11041")
    fidelity: ClassVar[Fidelity] = "inspired"
    off: ClassVar[dict[str, Any]] = {"strength": 0.0}

    strength: float = setting(1.0, "how far agreement changes a move (lambda)", low=0.0, high=1.0)
    decay: float = setting(0.999, "decay of the average of gradients (beta)", low=0.0, high=1.0)
    delta: float = setting(1e-12, "keeps gradients that are nothing but rounding out of it", low=1e-30)
    average: Tensors = state()  # m
    room: Tensors = scratch(dict)  # memory for factors

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls()
        yield cls(strength=0.5, decay=0.9)

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        if self.strength:
            grads: dict[str, Tensor] = {n: p.grad for n, p in site.params.items() if p.grad is not None}
            room = room_for(self.room, grads)
            average = kept_for(self.average, grads)
            factors = agreement(average, list(grads.values()), "entry", "peak", damping=self.delta, room=room)
            if factors:
                torch._foreach_mul_(factors, self.strength)
                torch._foreach_add_(factors, 1.0)
            scale_moves([new[n] for n in grads], [old[n] for n in grads], factors)
            follow(self.average, grads, self.decay)
        return new

    def needs_old(self, name: str) -> bool:
        return self.strength > 0

    def wants_whole(self, name: str) -> bool:
        return self.strength > 0
