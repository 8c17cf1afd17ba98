"""LCIA: the dynamic average of the large continual instruction assistant."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..core.method import Method
from ..core.model import Outputs
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.rule import Site
from ..core.state import Tensors, grown, scratch, setting, state
from ..core.stream import Task
from ..rules import Average


@dataclass
class LCIA(Method):
    """Keep for each tensor an average whose pace its gradients set; at the end of a task the weights become the average.

    After each step, with L1 norms over a whole tensor, a = |w - mean|, b = |g_t| and c = |g_t - g_{t-1}|:

        mean <- mean + alpha (w - mean),    alpha = 2 (1 + b) / (a c), or `fallback` where that is not inside (0, 1)

    The mean starts as the weights before the task, training goes on with w, and at the end w <- mean. The first task is not
    averaged unless asked: there is nothing to keep yet. At the first step of a task there is no g_{t-1}: `fallback`.

    a c grows with the square of a tensor's size and b with the size, so the published alpha depends on how a layer is cut, and
    on the scale of the loss. With `form = "scaled"` (ours) the 1 is left out, and c is divided by s = |w_t - w_{t-1}|, the move
    between the two points where the gradients were taken, which makes it a curvature: alpha = 2 b s / (a c) has no unit and
    changes with none of these. `"fixed"` takes `fallback` always, a plain exponential average.

    Differences from the published code: there any error in computing alpha, such as that of the first step, is swallowed; and
    the average is of LoRA weights, where here it is of all that trains, and of floating buffers with `fallback`. Its choice
    between reusing and adding an adapter by the text of instructions is not part of this method.

    Paper: Large Continual Instruction Assistant (arXiv 2410.10868).

    >>> LCIA(form="scaled").fallback
    0.01
    """

    paper: ClassVar[Paper | None] = Paper("Large Continual Instruction Assistant", 2024, "2410.10868")
    fidelity: ClassVar[Fidelity] = "faithful"
    off: ClassVar[dict[str, Any]] = {"form": "fixed", "fallback": 1.0}

    form: Literal["published", "scaled", "fixed"] = setting("published", "how the pace of a tensor is found")
    fallback: float = setting(0.01, "the pace where that is not inside (0, 1)", low=0.0, high=1.0)
    first: bool = setting(False, "whether the first task is averaged too")
    tasks: int = state(int)  # tasks with rows begun
    average: Average = state(Average)
    last: Tensors = state()  # g_{t-1}
    way: Tensors = state()  # s, (), of the step before
    seen: Tensors = scratch(dict)  # g_t
    old: Tensors = scratch(dict)  # the weights before this step

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(first=True)
        yield cls(form="scaled")

    @property
    def _on(self) -> bool:
        return self.tasks > 1 or (self.first and self.tasks > 0)

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.tasks += bool(task.rows)
        if task.rows and self._on:
            self.average.meet(self.average.live(model), anew=True)

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        if self._on and self.form != "fixed":
            mine = {n: g for n, g in grads.items() if n in self.average.mean}
            for n, g in mine.items():
                held = self.seen.get(n)
                if held is None or held.shape != g.shape or held.device != g.device:
                    self.seen[n] = torch.empty_like(g, dtype=self.average.mean[n].dtype)
            for n in self.seen.keys() - mine.keys():
                del self.seen[n]
            torch._foreach_copy_([self.seen[n] for n in mine], list(mine.values()))
        return grads

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        if self._on and self.form == "scaled":
            self.old = {n: w for n, w in old.items() if n in self.average.mean}  # as they stay until the next step
        return new

    def needs_old(self, name: str) -> bool:
        return self._on and self.form == "scaled" and name in self.average.mean

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        if batch.before or not self._on:  # once a step
            return
        live = self.average.live(site.model, site)
        self.average.meet(live)
        self.average.follow(live, self.paces(live) if self.form != "fixed" else float(self.fallback))

    def end_stage(self, model: nn.Module, task: Task) -> None:
        if self.average.mean and task.rows:
            self.average.put_into(model)
        self.average, self.last, self.way, self.seen, self.old = Average(), {}, {}, {}, {}

    @torch.no_grad()
    def paces(self, live: Tensors) -> Tensors:
        """Alpha of every tensor that is followed, (); takes note of the gradient."""
        names = [n for n in self.seen if n in live]
        slopes = [self.seen[n] for n in names]
        steep = _sizes(slopes)  # b
        before = [
            grown(self.last[n], self.seen[n]) if n in self.last else torch.full_like(self.seen[n], torch.nan)
            for n in names
        ]
        torch._foreach_sub_(before, slopes)  # nobody needs g_{t-1} any more
        bent = _sizes(before)  # c
        far = [self.average.roomy(n).copy_(live[n]) for n in names]
        torch._foreach_sub_(far, [self.average.mean[n] for n in names])
        away = _sizes(far)  # a
        if self.form == "published":
            paces = 2 * (1 + steep) / (away * bent)
        else:
            none = torch.full((), torch.nan, device=away.device if names else None)
            paces = 2 * steep * torch.stack([self.way.get(n, none).to(none) for n in names] or [none]) / (away * bent)
            self._note_moves(live)
        paces = torch.where((paces > 0) & (paces < 1), paces, self.fallback)
        self.last, self.seen = {n: self.seen[n] for n in names}, dict(zip(names, before, strict=True))
        found = dict(zip(names, paces.unbind(), strict=True)) if names else {}
        return {
            n: found[n].to(mean.dtype)
            if n in found
            else torch.full((), self.fallback, dtype=mean.dtype, device=mean.device)
            for n, mean in self.average.mean.items()
        }

    def _note_moves(self, live: Tensors) -> None:
        names = [n for n in self.old if n in live and live[n].shape == self.old[n].shape]
        moves = [self.average.roomy(n).copy_(live[n]) for n in names]
        if names:
            torch._foreach_sub_(moves, [self.old[n].to(m.dtype) for n, m in zip(names, moves, strict=True)])
        self.way = dict(zip(names, _sizes(moves).unbind(), strict=True)) if names else {}


def _sizes(tensors: list[Tensor]) -> Tensor:
    """The L1 norm of each tensor, (tensors,)."""
    return torch.stack(torch._foreach_norm(tensors, 1)) if tensors else torch.zeros(0)
