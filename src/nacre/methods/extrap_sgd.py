"""EXTRAP-SGD: gradients taken ahead of the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..core.dice import dice
from ..core.method import Method
from ..core.model import Outputs
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.rule import Site
from ..core.state import Tensors, grown, scratch, setting, state
from ..core.stream import Task


@dataclass
class ExtrapSGD(Method):
    """Take each gradient a little ahead of the weights; step from the weights themselves.

    g is the gradient of the loss at w_half = w + z, and w <- w - lr g (or what the optimizer makes of g), with r = reach * lr
    and

    - `"stale"`: z = -r times the gradient of the step before, as the optimizer was given it: no backward pass more;
    - `"fresh"`: z = -r times the gradient at w of the same rows (extragradient): a second forward and backward pass;
    - `"noise"`: z = r |f| / sqrt(n) e with e ~ N(0, 1), for each filter f of n entries (a row of a matrix, a whole vector).

    The weights are never moved to w_half: the model is lent the sums for its forward pass, so no evaluation, exception or
    stop can meet them there. Penalties that are terms of the loss are taken at w_half too.

    Differences from the published form: there each of many workers looks ahead along its own last gradient; here
    `"stale"` looks along that of the whole step, so that a run does not depend on how its steps are cut over processes, and
    `"fresh"` along that of each micro-batch. The scaling by layer of the published experiments is left out.

    Paper: Extrapolation for Large-batch Training in Deep Learning (arXiv 2006.05720).

    Raises:
        BadSetting: at the first step that looks ahead, if the backward pass computes activations again (gradient
            checkpointing): it would do so at w, and gradients would be wrong. A checkpoint inside a module's own forward pass
            that calls no module is not seen: leave it out.

    >>> ExtrapSGD(form="noise", reach=2.0).reach
    2.0
    """

    paper: ClassVar[Paper | None] = Paper("Extrapolation for Large-batch Training in Deep Learning", 2020, "2006.05720")
    fidelity: ClassVar[Fidelity] = "inspired"
    off: ClassVar[dict[str, Any]] = {"reach": 0.0}

    form: Literal["stale", "fresh", "noise"] = setting(
        "stale", "what is looked along: the last step's gradient, that of the rows themselves, or noise"
    )
    reach: float = setting(1.0, "how far is looked ahead, in learning rates (gamma hat / gamma)", low=0.0)
    noise_seed: int = setting(0, "seeds the noise")
    last: Tensors = state()  # the gradient of the last step that took effect
    seen: Tensors = scratch(dict)  # that of the present step
    room: Tensors = scratch(dict)  # memory for z

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(reach=3.0)
        yield cls(form="fresh")
        yield cls(form="noise")

    def overrides(self, hook: str) -> bool:
        remembers = hook in ("shape_grads", "after_step", "end_stage")
        return super().overrides(hook) and (self.form == "stale" or not remembers)

    def wants_whole(self, name: str) -> bool:
        return self.reach > 0

    def offset(self, batch: Batch, site: Site, slopes: Callable[[], Tensors]) -> Tensors:
        if not self.reach or (self.form == "stale" and not self.last):
            return {}
        if self.form == "noise":
            return {n: self._noise(n, p, site) for n, p in _own(site).items()}
        return self._scaled(self.last if self.form == "stale" else slopes(), site)

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        if self.form != "stale" or not self.reach:
            return grads
        mine = {n: grads[n] for n in _own(site) if n in grads}
        for n in [n for n in self.seen if n not in mine or self.seen[n].shape != mine[n].shape]:
            del self.seen[n]
        for n, g in mine.items():
            if n not in self.seen:
                self.seen[n] = torch.empty_like(g, dtype=torch.promote_types(g.dtype, torch.float32))
        torch._foreach_copy_([self.seen[n] for n in mine], list(mine.values()))
        return grads

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        if not batch.before:  # once a step
            self.last, self.seen = self.seen, self.last

    def end_stage(self, model: nn.Module, task: Task) -> None:
        self.last, self.seen = {}, {}  # another task looks elsewhere

    @torch.no_grad()
    def _scaled(self, slopes: Tensors, site: Site) -> Tensors:
        """The offset z = -r g, in memory that is kept."""
        for n, g in slopes.items():
            p = site.params.get(n)
            if p is not None:
                held = self.room.get(n)
                if held is None or held.shape != p.shape or held.dtype != p.dtype or held.device != p.device:
                    self.room[n] = torch.empty_like(p, requires_grad=False)
                torch.mul(grown(g, p), -self.reach * site.lr(n), out=self.room[n])
        return {n: self.room[n] for n in slopes if n in site.params and not n.startswith("parts.")}

    @torch.no_grad()
    def _noise(self, name: str, p: Tensor, site: Site) -> Tensor:
        place = (site.task.index, site.task.stage) if site.task is not None else (0, 0)
        drawn = torch.randn(p.shape, generator=dice(self.noise_seed, *place, site.step, name)).to(p)
        many = p.ndim > 1
        size = p.flatten(1).norm(dim=1).view(-1, *[1] * (p.ndim - 1)) if many else p.norm()
        entries = p[0].numel() if many and len(p) else p.numel()
        return drawn.mul_(size * (self.reach * site.lr(name) / max(entries, 1) ** 0.5))


def _own(site: Site) -> dict[str, nn.Parameter]:
    """What the optimizer holds of the model, without the parts of methods."""
    return {n: p for n, p in site.params.items() if not n.startswith("parts.")}
