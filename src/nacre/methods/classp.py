"""CLASSP: weights with large gradients behind them take shorter steps, and small gradients move nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from ..core.method import Method
from ..core.paper import Fidelity, Paper
from ..core.rule import Site
from ..core.shards import local, whole
from ..core.state import Tensors, scratch, setting, state
from ..rules.moves import kept_for, parts, room_for


@dataclass
class CLASSP(Method):
    """Divide each weight's step by the root of what its gradients have summed up to, and take it for large gradients only.

    Entry by entry, where g^2 > threshold: S <- S + |g|^power and w <- old - lr g / (eps + S)^(1 / power), with g the gradient
    as the optimizer was given it; elsewhere S stays and w keeps its old value. S is never reset: weights that earlier tasks
    used slow down for ever, and those that they did not use stay free. With `include_current` S holds the present gradient, as
    in the published code; without it, as in the paper's formula, only those before, and the first step is divided by
    eps^(1 / power). At power 2 and threshold 0 it is AdaGrad, up to the place of eps.

    It takes the place of the optimizer's own rule: of the optimizer it reads the learning rate, as a schedule has set it, and
    momentum, weight decay and adaptive rates do not act on the weights. Give it plain SGD.

    With `mode = "reference"` it does what the published class does: a tensor moves as a whole if one of its gradients is not 0
    and the threshold is below 1, S sums |g| whatever the power, and holds the present gradient. The published script leaves the
    steps of its first task to SGD while S sums up (`plain_steps`); the class's learning rate is 0.2.

    Differences from the published form: that S sums only what passes the threshold is a reading of the paper. Where
    g^2 <= threshold weights keep their value, but not copies of them that an optimizer has.

    Paper: CLASSP: a Biologically-Inspired Approach to Continual Learning through Adjustment Suppression and Sparsity Promotion
    (arXiv 2405.09637).

    >>> CLASSP(threshold=0.01, power=2.0).mode
    'paper'
    """

    paper: ClassVar[Paper | None] = Paper(
        "CLASSP: a Biologically-Inspired Approach to Continual Learning through Adjustment Suppression and Sparsity Promotion",
        2024,
        "2405.09637",
    )
    fidelity: ClassVar[Fidelity] = "faithful"
    off: ClassVar[dict[str, Any]] = {"scaling": False}

    mode: Literal["paper", "reference"] = setting("paper", "the paper's rule, or what its published class does")
    threshold: float = setting(0.0, "squared gradients up to this move nothing", low=0.0)
    power: float = setting(1.0, "of gradients in their sum (p)", low=0.1)
    eps: float = setting(1e-5, "added to sums", low=1e-12)
    include_current: bool = setting(True, "whether the sum that divides a step holds the gradient of that step")
    plain_steps: int = setting(0, "first steps that are left to the optimizer while gradients are summed up", low=0)
    scaling: bool = setting(True, "whether steps are changed at all; sums go on either way")
    sums: Tensors = state()  # S
    steps: int = state(int)
    room: Tensors = scratch(dict)  # memory for steps
    more: Tensors = scratch(dict)  # and for gradients that pass

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls()
        yield cls("reference", plain_steps=2)
        yield cls(threshold=1e-4, power=2.0, include_current=False, eps=0.01)

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        grads: dict[str, Tensor] = {n: p.grad for n, p in site.params.items() if p.grad is not None}
        if not grads:
            return new
        self.steps += 1
        sums, taken = parts(kept_for(self.sums, grads)), room_for(self.room, grads)
        passing = self._passing(grads)
        if self._includes:
            torch._foreach_copy_(taken, passing)
            self._sum_up(sums, taken)
        if self._acts:
            torch._foreach_copy_(taken, sums)
            torch._foreach_add_(taken, self.eps)
            torch._foreach_pow_(taken, -1 / self.power)
            torch._foreach_mul_(taken, passing)
            for step, n in zip(taken, grads, strict=True):
                torch.add(local(old[n]), step, alpha=-site.lr(n), out=local(new[n]))
        if not self._includes:
            self._sum_up(sums, passing)
        return new

    def needs_old(self, name: str) -> bool:
        return self.scaling and self.steps >= self.plain_steps

    @property
    def _acts(self) -> bool:
        """Whether the present step, which is counted already, is changed."""
        return self.scaling and self.steps > self.plain_steps

    @property
    def _includes(self) -> bool:
        return self.include_current or self.mode == "reference"

    def _passing(self, grads: Tensors) -> list[Tensor]:
        """The gradients, 0 where they are not to move anything."""
        found, mine = room_for(self.more, grads), parts(grads.values())
        torch._foreach_copy_(found, mine)
        if self.mode == "reference":  # a truth is compared with the threshold
            truths = [(whole(g.abs().sum()) > 0) & (self.threshold < 1) for g in grads.values()]
            torch._foreach_mul_(found, truths)
        elif self.threshold:
            for g in found:
                g.copy_(hardshrink(g, self.threshold**0.5))
        return found

    def _sum_up(self, sums: list[Tensor], grads: list[Tensor]) -> None:
        """S <- S + |g|^power; uses the gradients up."""
        torch._foreach_abs_(grads)
        if self.power != 1 and self.mode == "paper":
            torch._foreach_pow_(grads, self.power)
        torch._foreach_add_(sums, grads)
