"""Anchor: weights are pulled toward a reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch

from ..core.errors import BadSetting
from ..core.rule import Rule, Site
from ..core.shards import is_sharded, whole
from ..core.state import Tensors, grown, scratch, setting, state
from ..losses import add_slopes, pull
from .moves import chosen, may_find, some, wide
from .start import Start


@dataclass
class Anchor(Rule):
    """Pull weights toward a reference a, as hard as their importance I says, at every step.

    The potential is strength / 2 * sum I (w - a)^2, in one of three forms, with r = learning rate * strength * I:

    - `"loss"`: its gradient is added to that of the loss before the optimizer reads it. Momentum treats it like any gradient,
      and an adaptive optimizer divides its strength out again.
    - `"decoupled"`: w <- w - r (old - a) after the step, old the weights before it, as AdamW decays weights toward 0. It moves
      away from a where r > 2, so r >= 2 is refused.
    - `"implicit"`: w <- (w + r a) / (1 + r) after the step, the exact proximal move. It is stable at any strength, and at a
      very large one the weights are the reference.

    The reference is what is given, or the weights where the stage began: then it is L2 regularisation toward the last task's
    solution. Weights that a head gained after the reference was taken are not pulled, and neither is what has no gradient at a
    step. With importance I the fixed point of a quadratic loss of curvature H is (H + strength I)^-1 (H w* + strength I a).

    See A Closer Look at Rehearsal-Free Continual Learning (arXiv 2203.17269), where L2 in the attention of a ViT is meant:
    `match="qkv"`, the rest frozen.

    Attributes:
        reference: a, by parameter name, perhaps of fewer rows, or 0-dim; None = the weights where the stage began.
        importance: I, by parameter name, likewise; None = 1 everywhere. What it does not name is free.

    Raises:
        BadSetting: at the first step, if `match` finds nothing, a name is unknown, or shapes do not fit; at any step, if a
            decoupled pull has r >= 2.

    >>> Anchor(strength=0.1, match="attn").form
    'implicit'
    """

    excused: ClassVar[dict[str, str]] = {
        "settings_are_plain": "references are tensors that the caller made; in a config the start of the stage is meant"
    }
    off: ClassVar[dict[str, Any]] = {"strength": 0.0}

    strength: float = setting(0.1, "how strong the pull is", low=0.0)
    form: Literal["loss", "decoupled", "implicit"] = setting(
        "implicit", "as a gradient before the optimizer, as a decay after it, or as an exact proximal move"
    )
    match: str | None = setting(None, "tensors whose names this expression finds; all but heads by default")
    reference: Tensors | None = setting(None, "what weights are pulled toward; the start of the stage by default")
    importance: Tensors | None = setting(None, "how hard each entry is pulled, times strength; 1 by default")
    start: Start = state(Start)
    # parameters and their shapes; a, I and the largest I for them
    ready: tuple[Any, list[Any], Tensors, Tensors, float] | None = scratch()
    room: list[Tensors] = scratch(list)  # memory for w - a, by groups of one learning rate

    @classmethod
    def examples(cls) -> Iterator[Rule]:
        yield cls()
        yield cls(form="loss")
        yield cls(strength=0.0, reference={}, importance={})

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        if self.strength:
            anchor, importance, _ = self._ready(site)
            if self.form == "loss":
                add_slopes(grads, site.params, importance, anchor, self.strength, self._room(0))
        return grads

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        if not self.strength or self.form == "loss":
            return new
        anchor, importance, most = self._ready(site)
        rates: dict[float, Tensors] = {}
        for n, f in importance.items():
            if site.params[n].grad is not None:
                rates.setdefault(site.lr(n) * self.strength, {})[n] = f
        for k, (rate, held) in enumerate(rates.items()):
            if self.form == "implicit":
                for n, f in held.items():
                    pull(new[n], anchor[n], f, rate)
            elif rate * most < 2:
                add_slopes({n: new[n] for n in held}, old, held, anchor, -rate, self._room(k))
            else:
                raise BadSetting(
                    f"Anchor pulls by learning rate * strength * importance = {rate * most:g}, and a decoupled pull moves away "
                    'from its anchor from 2 on: lower the strength, or take form="implicit"'
                )
        return new

    def needs_old(self, name: str) -> bool:
        return self.form == "decoupled" and self.strength > 0 and may_find(self.match, name)

    def wants_whole(self, name: str) -> bool:
        return False  # what it keeps begins anew with each stage

    def _room(self, k: int) -> Tensors:
        while len(self.room) <= k:
            self.room.append({})
        return self.room[k]

    def _ready(self, site: Site) -> tuple[Tensors, Tensors, float]:
        """Anchors, importances and the largest of these, for what the optimizer holds; made anew where a head grew."""
        names = chosen(site, self.match, f"Anchor(match={self.match!r})")
        if self.reference is None:
            self.start.notice(site, names)
        shapes = [site.params[n].shape for n in names]
        if self.ready is None or self.ready[0] is not site.params or self.ready[1] != shapes:
            anchor = self.start.weights
            if self.reference is not None:
                given = self._given("reference", self.reference, site)
                anchor = {n: a if a.ndim else a.expand(site.params[n].shape) for n, a in given.items()}
            importance = self._importance(anchor, site)
            most = max((float(whole(f).max()) for f in importance.values() if f.numel()), default=0.0)
            self.ready = (site.params, shapes, anchor, importance, most)
        return self.ready[2:]

    def _given(self, what: str, tensors: Tensors, site: Site) -> Tensors:
        """What the caller gave, for what the optimizer holds, in fp32 or better where the weights are."""
        known = {n for n, _ in site.model.named_parameters()} | site.params.keys()
        if strange := sorted(tensors.keys() - known):
            raise BadSetting(f"Anchor.{what} names {strange[0]!r}, which the model does not have: it has {some(site)}")
        names = chosen(site, self.match, f"Anchor(match={self.match!r})")
        held = {n: site.params[n] for n in names if n in tensors}
        for n, p in held.items():
            t = tensors[n]
            if t.ndim and (t.shape[1:] != p.shape[1:] or len(t) > len(p)):
                raise BadSetting(
                    f"Anchor.{what} of {n} has the shape {tuple(t.shape)}, the parameter {tuple(p.shape)}: only rows may be "
                    "missing"
                )
        return {n: tensors[n].to(p.device, wide(p)) for n, p in held.items()}

    def _importance(self, anchor: Tensors, site: Site) -> Tensors:
        """Of the anchor's shape where the weight has more rows or is in parts, else perhaps 0-dim."""
        given = None if self.importance is None else self._given("importance", self.importance, site)
        found: Tensors = {}
        for n, a in anchor.items():
            if n not in site.params or (given is not None and n not in given):
                continue
            f = torch.ones((), dtype=a.dtype, device=a.device) if given is None else given[n]
            if f.ndim == 0 and (is_sharded(site.params[n]) or a.shape != site.params[n].shape):
                f = torch.ones_like(a) * f
            found[n] = grown(f, a)
        return found
