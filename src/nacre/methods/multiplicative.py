"""Multiplicative updates: a weight changes by a share of itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..core.method import Method
from ..core.paper import Fidelity, Paper
from ..core.rule import Site
from ..core.shards import local
from ..core.state import Tensors, scratch, setting
from ..rules.moves import chosen, differences, finds, parts, room_for


@dataclass
class Multiplicative(Method):
    """Change each weight by a share of its own size, and by a little that does not depend on it.

    With u = new - old the move that the optimizer made, entry by entry
    w <- old + outer [(1 - blend) |old| + blend cap] tanh(inner u). At blend 0 it is the published multiplicative rule: the
    relative change of a weight is at most `outer` a step, no weight changes its sign where outer < 1, and what is 0 stays 0, so
    what was pruned stays pruned. The second term lets biases leave 0 and weights change sign; at blend 1 it is a step clipped
    to outer * cap. At the default settings inner * outer * cap = 1: a weight of the size `cap` takes small moves as the
    optimizer made them, larger weights take them longer, smaller ones shorter.

    Differences from the published form: there tanh is taken of eta_in times momentum times the adaptive factor inside an
    optimizer; here of the move, so that eta_in is `inner` times the learning rate, schedules act inside tanh, and weight decay
    is a part of u. The published hybrid term was not available; the second term is a stand-in of the same purpose.

    Paper: Multiplicative update rules for accelerating deep learning training and increasing robustness (arXiv 2307.07189).

    Raises:
        BadSetting: at the first step, if `match` finds nothing that the optimizer holds.

    >>> Multiplicative(blend=0.0, outer=0.05).cap
    0.1
    """

    paper: ClassVar[Paper | None] = Paper(
        "Multiplicative update rules for accelerating deep learning training and increasing robustness",
        2023,
        "2307.07189",
    )
    fidelity: ClassVar[Fidelity] = "inspired"
    off: ClassVar[dict[str, Any]] = {"match": None}

    outer: float = setting(0.1, "largest relative change of a weight at a step (eta_out)", low=0.0, high=1.0)
    inner: float = setting(100.0, "factor on moves inside tanh; times the learning rate it is eta_in", low=0.0)
    blend: float = setting(0.5, "share of the term that does not depend on the weight (lambda)", low=0.0, high=1.0)
    cap: float = setting(0.1, "size that this term takes every weight to be of", low=0.0)
    match: str | None = setting(
        "", "tensors whose names this expression finds, all by default; none leaves all to the optimizer"
    )
    room: Tensors = scratch(dict)  # memory for moves
    more: Tensors = scratch(dict)  # and for sizes

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls()
        yield cls(blend=0.0, match="weight")

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        if self.match is None:
            return new
        before = {n: old[n] for n in chosen(site, self.match, f"Multiplicative(match={self.match!r})")}
        moves, sizes = differences(new, before, self.room), room_for(self.more, before)
        torch._foreach_mul_(moves, self.inner)
        torch._foreach_tanh_(moves)
        torch._foreach_copy_(sizes, parts(before.values()))
        torch._foreach_abs_(sizes)
        torch._foreach_mul_(sizes, self.outer * (1 - self.blend))
        torch._foreach_add_(sizes, self.outer * self.blend * self.cap)
        torch._foreach_mul_(sizes, moves)
        for size, (n, was) in zip(sizes, before.items(), strict=True):
            torch.add(local(was), size, out=local(new[n]))
        return new

    def needs_old(self, name: str) -> bool:
        return self.match is not None and finds(self.match, name)
