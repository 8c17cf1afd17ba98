"""ECO: quantised weights without master weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from ..core.errors import BadSetting
from ..core.method import Method
from ..core.model import Outputs
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.rule import Site
from ..core.state import Tensors, grown, scratch, setting, state
from ..rules import Quantise

KNOWN = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW)


@dataclass
class ECO(Quantise, Method):
    """Round each weight matrix after the step, and give what rounding took back through the optimizer's momentum.

    The optimizer steps from the rounded w to w~; w <- q(w~) and e = w~ - w. With the momentum m of `torch.optim.SGD`
    (m <- mu m + g, w <- w - lr m, coupled decay inside g), and s = lr:

        m <- m + (1 - 1/mu) e / s                                           (`"published"`)

    For Adam s is lr over (1 - beta1^k) (sqrt(v^) + eps), and mu is beta1; decoupled decay multiplies what is given back by
    1 - lr * decay; with Nesterov's momentum s is mu lr. The exact compensation is m + e_k / s - e_{k+1} / (s mu): under it
    w + e goes the way of weights that are never rounded but whose gradients are taken at the rounded ones. The published form
    takes e_{k+1} for e_k, so that nothing is stored. `"exact"` stores e and adds it to w~ at the next step, decayed as that
    step decays: the same way in exact arithmetic, whatever the learning rate does, for the memory of master weights.

    At rates near 0, as in the first step of a warm-up, e / lr is huge and the next steps would leap: here lr counts as at
    least `floor` times its peak (the group's `initial_lr`). Weights lower than fp32 lose what the optimizer's own rounding
    drops: keep them in fp32, and let the store round.

    Paper: ECO: Quantized Training without Full-Precision Master Weights (arXiv 2601.22101). Only an outline was read; the
    formulas for SGD were derived anew and are tested against master weights, those for Adam are ours.

    Raises:
        BadSetting: at the first step: the optimizer is none of SGD, Adam and AdamW of torch, or has no momentum.

    >>> ECO(store="int4", rounding="stochastic").form
    'published'
    """

    paper: ClassVar[Paper | None] = Paper(
        "ECO: Quantized Training without Full-Precision Master Weights", 2026, "2601.22101"
    )
    fidelity: ClassVar[Fidelity] = "inspired"

    form: Literal["published", "exact"] = setting("published", "whether the error is given to the momentum, or stored")
    floor: float = setting(
        0.01, "least learning rate that errors are divided by, as a share of the peak", low=0.0, high=1.0
    )
    error: Tensors = state()  # e of the last step that took effect, where it is stored
    fresh: Tensors = scratch(dict)  # e of this step
    stepped: list[str] = scratch(list)  # of which weights
    seen: Any = scratch()  # the optimizer that was looked at

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(store="int4")
        yield cls(store="grid", step=0.05, form="exact")
        yield cls(store="grid", step=0.05, rounding="stochastic")

    def overrides(self, hook: str) -> bool:
        return super().overrides(hook) and (hook != "after_step" or self.form == "exact")

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        if self.store != "none" and self.seen is not site.optimizer:
            self._check(site)
            self.seen = site.optimizer
        return grads

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        self.stepped = [n for n in self._chosen(site) if site.params[n].grad is not None]  # others took no step
        for n in self.stepped:
            w = new[n]
            e = self.fresh.get(n)
            if e is None or e.shape != w.shape or e.device != w.device:
                e = self.fresh[n] = torch.empty_like(w, dtype=torch.promote_types(w.dtype, torch.float32))
            e.copy_(w)  # w~
            if self.form == "exact" and n in self.error:
                e.add_(grown(self.error[n], w), alpha=_stays(site, n))
            w.copy_(self._rounded(n, e, site))
            e.sub_(w)
            if self.form == "published":
                self._give_back(n, e, site)
        return new

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        if self.form == "exact" and not batch.before:  # once a step
            for n in self.stepped:
                before = self.error.pop(n, None)
                self.error[n] = self.fresh.pop(n)
                if before is not None:
                    self.fresh[n] = before  # its memory is used again

    def _give_back(self, name: str, e: Tensor, site: Site) -> None:
        """The published form; uses `e` up."""
        p, group = site.params[name], site.group(name)
        own = site.optimizer.state.get(p, {})
        lr = max(site.lr(name), self.floor * float(group.get("initial_lr", site.lr(name))))
        m = own.get("momentum_buffer") if "momentum" in group else own.get("exp_avg")
        if m is None or not lr:
            return
        if "momentum" in group:
            mu = group["momentum"]
            m.add_(e.mul_((1 - 1 / mu) / (lr * (mu if group["nesterov"] else 1.0))))
            return
        beta1, beta2 = group["betas"]
        step = own["step"].double() if own["step"].device.type != "mps" else own["step"]
        root = own["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"].to(e.dtype).sqrt()
        root.div_((1 - beta2**step) ** 0.5).add_(group["eps"]).mul_(1 - beta1**step)  # lr / s
        m.add_(e.mul_(root).mul_(_stays(site, name) * (1 - 1 / beta1) / lr))

    def _check(self, site: Site) -> None:
        """See that the momentum is where it is known."""
        kind = type(site.optimizer)
        if kind not in KNOWN:
            raise BadSetting(
                f"ECO gives rounding errors to the momentum of torch's SGD, Adam and AdamW, and does not know where that of "
                f"{kind.__name__} is: take one of these, or the rule Quantise, which gives nothing back"
            )
        for n in self._chosen(site) if self.form == "published" else ():
            group = site.group(n)
            if not (group["momentum"] if "momentum" in group else group["betas"][0]):
                what = "momentum" if "momentum" in group else "betas[0]"
                raise BadSetting(
                    f"ECO gives rounding errors to the optimizer's momentum, and {kind.__name__} has {what} = 0 for {n}: set "
                    f'it, such as to 0.9, or form = "exact", which stores the errors'
                )


def _stays(site: Site, name: str) -> float:
    """The factor of decoupled weight decay at this step."""
    group = site.group(name)
    decoupled = group.get("decoupled_weight_decay", isinstance(site.optimizer, torch.optim.AdamW))
    return 1 - site.lr(name) * float(group["weight_decay"]) if decoupled else 1.0
