"""Quantise: after each step weights take values that a store of few bits can hold."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..core.dice import uniform
from ..core.rule import Rule, Site
from ..core.state import Tensors, scratch, setting

Store = Literal["none", "bf16", "fp16", "int8", "int4", "grid"]
TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
DIGITS = {"bf16": (8, -133), "fp16": (11, -24)}  # binary digits, and the exponent of the smallest spacing
LEVELS = {"int8": 127, "int4": 7}  # on each side of 0
LARGEST = {"bf16": 3.3895313892515355e38, "fp16": 65504.0}


def quantised(w: Tensor, store: Store, step: float = 0.0625, draw: Tensor | None = None) -> Tensor:
    """The values of a store next to those of `w`; of the same shape and type.

    Args:
        w: In fp32 or better.
        store: `"bf16"` and `"fp16"` round to these types, `"int8"` and `"int4"` to whole multiples of max|w| / 127 and
            max|w| / 7, `"grid"` to those of `step`; `"none"` holds any value.
        step: The spacing of `"grid"`.
        draw: Numbers in (0, 1) of the shape of w: a value between two of the store goes up with the probability of its distance
            from the lower one, so that nothing is lost in the mean. None rounds to the nearest, of two to the even one.

    >>> quantised(torch.tensor([0.1, -1.0, 0.5]), "grid", 0.25), quantised(torch.tensor([0.3]), "int4")
    (tensor([ 0.0000, -1.0000,  0.5000]), tensor([0.3000]))
    """
    if store == "none" or not w.numel():
        return w.clone()
    if store in TYPES and draw is None:
        return w.to(TYPES[store]).to(w.dtype).clamp_(-LARGEST[store], LARGEST[store])
    whole, most = float("inf"), float("inf")  # the farthest from 0, in spacings and in itself
    if store in DIGITS:
        digits, least = DIGITS[store]
        spacing = torch.ldexp(torch.ones_like(w), (torch.frexp(w).exponent - digits).clamp_min_(least))
        most = LARGEST[store]
    elif store in LEVELS:
        whole, largest = LEVELS[store], w.abs().amax()
        spacing = torch.where(largest > 0, largest / whole, 1.0)
    else:
        spacing = torch.full((), step, dtype=w.dtype, device=w.device)
    found = w / spacing
    found = found.round_() if draw is None else found.add_(draw).floor_()
    return found.clamp_(-whole, whole).mul_(spacing).clamp_(-most, most)


@dataclass
class Quantise(Rule):
    """Round each weight matrix, after the step, to values that a store of few bits can hold.

    w <- q(w) for tensors of two and more dimensions. The weights keep their type in memory; what is rounded is their values, so
    this shows what training in such a store does. Moves of less than half a spacing are lost where rounding is to the nearest;
    stochastic rounding keeps them in the mean. The scale of int8 and int4 is that of the tensor at each step. What has no
    gradient at a step stays as it is.

    >>> Quantise(store="int4", rounding="stochastic").store
    'int4'
    """

    off: ClassVar[dict[str, Any]] = {"store": "none"}

    store: Store = setting("int8", "what holds the weights: a type, a number of levels for each tensor, or a grid")
    step: float = setting(0.0625, "spacing of the grid", low=1e-12)
    rounding: Literal["nearest", "stochastic"] = setting("nearest", "to the nearest value, or by chance to one of two")
    leave: str = setting("", "tensors whose names this expression finds are not rounded; empty = none")
    noise_seed: int = setting(0, "seeds stochastic rounding")
    chosen: tuple[Any, list[str]] | None = scratch()

    @classmethod
    def examples(cls) -> Iterator[Rule]:
        yield cls(store="int8")
        yield cls(store="grid", step=0.01, rounding="stochastic")

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        for n in self._chosen(site):
            if site.params[n].grad is None:  # it took no step
                continue
            new[n].copy_(self._rounded(n, _exact(new[n]), site))
        return new

    def needs_old(self, name: str) -> bool:
        return False  # it starts from the new weights

    def wants_whole(self, name: str) -> bool:
        return self.store != "none" and not (self.leave and re.search(self.leave, name))

    def _rounded(self, name: str, w: Tensor, site: Site) -> Tensor:
        draw = None
        if self.rounding == "stochastic":
            place = (site.task.index, site.task.stage) if site.task is not None else (0, 0)
            draw = uniform(w.numel(), w.device, self.noise_seed, *place, site.step, name).view_as(w)
        return quantised(w, self.store, self.step, draw)

    def _chosen(self, site: Site) -> list[str]:
        """The names of what is rounded, found once for each optimizer."""
        if self.store == "none":
            return []
        if self.chosen is None or self.chosen[0] is not site.params:
            held = [n for n, p in site.params.items() if p.ndim > 1 and p.numel()]
            self.chosen = (site.params, [n for n in held if not (self.leave and re.search(self.leave, n))])
        return self.chosen[1]


def _exact(w: Tensor) -> Tensor:
    """In fp32 or better; a tensor of that kind as it is."""
    return w.to(torch.promote_types(w.dtype, torch.float32))
