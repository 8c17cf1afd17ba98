"""Synaptic intelligence."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from ..core.method import Method
from ..core.model import Outputs
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.rule import Site
from ..core.state import Tensors, scratch, setting, state
from ..core.stream import Task
from ..importance import PathIntegral, named, summed, weights_of
from ..losses import add_slopes


@dataclass
class SI(Method):
    """Pull each weight toward its value after the last task, as hard as its moves have lowered the losses so far.

    At each step omega -= g (move of w), with g the gradient of the task's loss and the move that of the step as it was taken;
    after the task Omega += omega / (D^2 + damping), with D the whole way that the weight went in it. The penalty
    strength * sum Omega (w - a)^2, a the weights after the last task, acts through its gradient, which is added to that of the
    loss once a step: so g does not contain it, and a clip does not reach it. Rows that a head gained later have Omega = 0.

    With `gradient = "total"` g contains the penalty too, as in other libraries. Under an adaptive optimizer, decay or noise
    omega may be negative; it counts as 0 then, unless `signed`.

    Paper: Continual Learning Through Synaptic Intelligence (arXiv 1703.04200).

    >>> SI(strength=0.5).damping
    0.1
    """

    paper: ClassVar[Paper | None] = Paper("Continual Learning Through Synaptic Intelligence", 2017, "1703.04200")
    fidelity: ClassVar[Fidelity] = "faithful"
    off: ClassVar[dict[str, Any]] = {"strength": 0.0}

    strength: float = setting(1.0, "how strong the pull is (c)", low=0.0)
    damping: float = setting(0.1, "keeps the importance of weights that hardly moved finite (xi)", low=1e-12)
    gradient: Literal["loss", "total"] = setting("loss", "whether the path is integrated without or with the penalty")
    signed: bool = setting(False, "let importance be negative, which pushes weights away")
    select: str | None = setting(None, "names of the weights that are anchored, as an expression; all by default")
    path: PathIntegral = state(PathIntegral)
    importance: Tensors = state()  # Omega
    anchor: Tensors = state()  # a
    room: Tensors = scratch(dict)  # memory for w - a

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls()
        yield cls(gradient="total", signed=True)

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.path.begin(named(weights_of(model), self.select, "SI"))

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        mine = {n: g for n, g in grads.items() if n in self.path.sums}
        if self.gradient == "loss":
            self.path.gradient(mine)
        if self.strength:
            add_slopes(grads, site.params, self.importance, self.anchor, 2 * self.strength, self.room)
        if self.gradient == "total":
            self.path.gradient(mine)
        return grads

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        self.path.before({n: w for n, w in old.items() if n in self.path.sums})
        return new

    def needs_old(self, name: str) -> bool:
        return name in self.path.sums

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        if not batch.before:  # once a step
            self.path.moved(site.params)

    def end_stage(self, model: nn.Module, task: Task) -> None:
        if not task.rows:
            return
        params = dict(model.named_parameters())
        fresh = self.path.importance(params, self.damping)
        self.importance = summed(
            self.importance, fresh if self.signed else {n: f.clamp_min(0) for n, f in fresh.items()}
        )
        self.anchor |= {n: params[n].detach().to(f.dtype, copy=True) for n, f in fresh.items()}
