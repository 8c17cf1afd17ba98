"""Scale: chosen tensors go only part of the way that the optimizer takes them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from ..core.rule import Rule, Site
from ..core.state import Tensors, setting
from .moves import chosen, may_find, scale_moves


@dataclass
class Scale(Rule):
    """Multiply the moves of chosen tensors by a factor, so that they learn slowly beside the others.

    w <- old + factor (new - old). It acts on the step that was taken, so an adaptive optimizer does not divide it out again,
    and weight decay and momentum are scaled with the rest; under plain SGD it is a learning rate of its own. Composed,
    several of them give several groups their factors; a tensor that two of them find is scaled by both. At factor 0 weights
    stay where they are, but it is `Rest` that promises the bits, and those of the optimizer's own copies. An optimizer that
    writes a copy of its own back into the weights (fp32 masters) takes later what was left out: there the move is delayed.

    With factor 0.01 on everything but the head it is the slow learner of SLCA (arXiv 2303.05118).

    >>> from nacre import compose
    >>> rule = compose(Scale("blocks.[0-5]", 0.01), Scale("blocks.[67]", 0.1))

    Raises:
        BadSetting: at the first step, if `match` finds nothing that the optimizer holds.
    """

    off: ClassVar[dict[str, Any]] = {"factor": 1.0}

    match: str | None = setting(None, "tensors whose names this expression finds; all but heads by default")
    factor: float = setting(0.01, "what their moves are multiplied by", low=0.0)

    @classmethod
    def examples(cls) -> Iterator[Rule]:
        yield cls(factor=0.1)

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        if self.factor != 1.0:
            names = chosen(site, self.match, f"Scale({self.match!r})")
            scale_moves([new[n] for n in names], [old[n] for n in names], [self.factor] * len(names))
        return new

    def needs_old(self, name: str) -> bool:
        return self.factor != 1.0 and may_find(self.match, name)
