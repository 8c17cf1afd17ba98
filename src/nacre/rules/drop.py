"""Drop: at each step a fresh share of the entries rests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from ..core.dice import keep
from ..core.errors import BadSetting
from ..core.rule import Rule, Site
from ..core.state import Tensors, setting
from .moves import chosen, may_find, scale_moves


@dataclass
class Drop(Rule):
    """Let a share of the entries of each chosen tensor rest at each step, drawn anew every time.

    An entry rests with probability `share`, independently of the others and of other steps. It then keeps its value bit for
    bit: weight decay and momentum do not reach it, though its momentum goes on and moves it at later steps. Which entries rest
    is a function of seed, task, stage, step and name: the same on every device, on every rank, and after a resume.

    Every move shrinks to 1 - share of itself in the mean; with `rescale` it is divided by that first, as dropout does to
    activations, so that the mean of a step is the step without drops.

    >>> Drop(0.9, match="blocks").share
    0.9

    Raises:
        BadSetting: at the first step, if `match` finds nothing that the optimizer holds; at once, if nothing moves and moves
            shall be rescaled.
    """

    off: ClassVar[dict[str, Any]] = {"share": 0.0}

    share: float = setting(0.5, "share of the entries of each tensor that rests at a step", low=0.0, high=1.0)
    match: str | None = setting(None, "tensors whose names this expression finds; all but heads by default")
    rescale: bool = setting(False, "divide the moves of what does not rest by 1 - share")
    seed: int = setting(0, "seeds the draws")

    @classmethod
    def examples(cls) -> Iterator[Rule]:
        yield cls(match="weight")
        yield cls(0.75, "weight", rescale=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rescale and self.share == 1.0:
            raise BadSetting("Drop.share is 1, so that nothing moves and nothing can be rescaled: take a share below 1")

    def resting(self, site: Site) -> Tensors:
        if not self.share:
            return {}
        if self.share == 1.0:
            return {n: torch.tensor(True) for n in self._names(site)}
        place = (site.task.index, site.task.stage) if site.task is not None else ()
        params = {n: site.params[n] for n in self._names(site)}
        return {
            n: keep(self.share, p.numel(), p.device, self.seed, "drop", *place, site.step, n).view(p.shape)
            for n, p in params.items()
            if p.numel()
        }

    def still(self, site: Site) -> Tensors:
        return self.resting(site) if self.share == 1.0 else {}

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        if self.rescale and self.share:
            names = self._names(site)
            scale_moves([new[n] for n in names], [old[n] for n in names], [1 / (1 - self.share)] * len(names))
        return new

    def needs_old(self, name: str) -> bool:
        return self.rescale and self.share > 0 and may_find(self.match, name)

    def _names(self, site: Site) -> list[str]:
        return chosen(site, self.match, f"Drop(match={self.match!r})")
