"""TrustRadius: what a step, or a stage, moves is scaled back to a radius."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..core.rule import Rule, Site
from ..core.shards import shaped_like
from ..core.state import Tensors, scratch, setting, state
from .moves import chosen, differences, finds, lengths, scale_moves
from .start import Start

TINY = 1e-30  # a length of 0 is no reason to divide by it


@dataclass
class TrustRadius(Rule):
    """Scale a move back to a radius where it goes beyond: each tensor's, that of all together, or both.

    w <- o + min(1, R / |w - o|) (w - o), with o the weights before the step (`of="step"`), so that no step is longer than R, or
    the weights where the stage began (`of="stage"`), so that the whole way of the stage stays in a ball. With both radii each
    tensor is scaled back first, then all of them alike until they fit together. A move inside the radii stays as the optimizer
    made it. With `relative` R is a multiple of the norm of o, which counts as at least `least`, so that zeros can move.

    It acts on the step that was taken: unlike the clipping of gradients it bounds what momentum, weight decay and an adaptive
    optimizer make of them. In fp32 the bound holds up to rounding, in bf16 up to the rounding of the weights.

    >>> TrustRadius(tensor=0.01, relative=True).of
    'step'

    Raises:
        BadSetting: at the first step, if `match` finds nothing that the optimizer holds.
    """

    off: ClassVar[dict[str, Any]] = {"tensor": None, "total": None}

    tensor: float | None = setting(None, "the radius of each tensor; none by default", low=0.0)
    total: float | None = setting(None, "the radius of all of them as one vector; none by default", low=0.0)
    of: Literal["step", "stage"] = setting(
        "step", "what is bounded: each step's move, or the way since the stage began"
    )
    relative: bool = setting(False, "whether radii are multiples of the norm of the weights that are moved from")
    least: float = setting(1e-3, "norm that such weights count as at least", low=0.0)
    match: str = setting("", "tensors whose names this expression finds; all by default")
    start: Start = state(Start)
    room: Tensors = scratch(dict)  # memory for moves

    @classmethod
    def examples(cls) -> Iterator[Rule]:
        yield cls(tensor=0.02, total=0.02, relative=True)
        yield cls(total=0.1, of="stage")

    @property
    def _acts(self) -> bool:
        return self.tensor is not None or self.total is not None

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        if self._acts and self.of == "stage":
            self.start.notice(site, self._names(site))
        return grads

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        if self._acts:
            origin = old if self.of == "step" else self.start.weights
            names = [n for n in self._names(site) if new[n].numel()]
            origins = {n: origin[n] for n in names}
            moves = differences(new, origins, self.room)
            if moves:
                far = lengths([shaped_like(m, o) for m, o in zip(moves, origins.values(), strict=True)])
                factors = self._factors(far, list(origins.values()))
                scale_moves([new[n] for n in names], list(origins.values()), factors.unbind())
        return new

    def needs_old(self, name: str) -> bool:
        return self._acts and self.of == "step" and finds(self.match, name)

    def wants_whole(self, name: str) -> bool:
        return False  # what it keeps begins anew with each stage

    def _factors(self, far: Tensor, origins: list[Tensor]) -> Tensor:
        """What each tensor's move is multiplied by, (tensors,)."""
        sizes = lengths(origins) if self.relative else torch.ones_like(far)
        factors = torch.ones_like(far)
        if self.tensor is not None:
            radii = self.tensor * (sizes.clamp_min(self.least) if self.relative else sizes)
            factors = (radii / far.clamp_min(TINY)).clamp_max(1.0)
        if self.total is not None:
            radius = self.total * sizes.norm().clamp_min(self.least) if self.relative else self.total
            factors = factors * (radius / (factors * far).norm().clamp_min(TINY)).clamp_max(1.0)
        return factors

    def _names(self, site: Site) -> list[str]:
        return chosen(site, self.match, f"TrustRadius(match={self.match!r})")
