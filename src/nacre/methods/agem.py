"""Averaged gradient episodic memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..core.dice import dice
from ..core.method import Method
from ..core.model import evaluating
from ..core.paper import Fidelity, Paper
from ..core.rows import batches
from ..core.rule import Site
from ..core.shards import gradients, over_parts
from ..core.state import Tensors, grown, scratch, setting, state
from ..core.stream import Task
from ..memory import AnyMemory, TaskBalanced


@dataclass
class AGEM(Method):
    """Take from each step's gradient, or from the move itself, what would raise the loss on rows of earlier tasks.

    With g the gradient of the step and r that of the stage's own loss on `rows` remembered rows, at the same weights:
    g <- g - min(g.r, 0) / |r|^2 r, so that g.r >= 0 afterwards; nothing changes where it was so before. All entries that the
    step moves count as one vector. The reference r is taken once a step, in eval mode, on rows drawn anew, augmented as the
    stage's are. When a task ends `patterns` of its rows, drawn at random, are offered to the memory: during a task only rows of
    earlier tasks are in it. They are read again for that: a stream whose rows are met once refuses.

    Published is a promise about gradients, of which momentum, weight decay and adaptive rates make moves of other directions.
    With `how = "move"` the move that was taken is treated so instead, m = old - new weights in the place of g: to first order
    no step of any optimizer then raises the loss on the rows drawn.

    Differences from other libraries: one keeps a single batch of each task, another mixes the present task into the reference.

    Paper: Efficient Lifelong Learning with A-GEM (arXiv 1812.00420).

    >>> AGEM(rows=128, patterns=100).memory.capacity
    500
    """

    paper: ClassVar[Paper | None] = Paper("Efficient Lifelong Learning with A-GEM", 2018, "1812.00420")
    fidelity: ClassVar[Fidelity] = "faithful"
    off: ClassVar[dict[str, Any]] = {"rows": 0}
    keeps: ClassVar[Literal["constant", "per class", "per task"]] = (
        "per task"  # numbers: how many rows of each task came by
    )

    rows: int = setting(256, "rows of the past that the reference gradient is taken of", low=0)
    patterns: int = setting(256, "rows of each task that are offered to the memory", low=1)
    memory: AnyMemory = setting(TaskBalanced, "which of these are kept")
    how: Literal["gradient", "move"] = setting("gradient", "whether gradients are projected, or the moves made of them")
    seed: int = setting(0, "seeds the choice of rows")
    reference: Tensors = scratch(dict)  # r of the present step
    tasks: int = state(int)  # tasks ended

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(rows=8, patterns=10, memory=TaskBalanced(capacity=24))
        yield cls(rows=8, patterns=10, memory=TaskBalanced(capacity=24), how="move")

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        self.reference = self._reference(grads, site)
        if self.how == "move" or not self.reference:
            return grads
        mine = [grads[n] for n in self.reference]
        harm = harmful(mine, [*self.reference.values()])
        return grads | dict(zip(self.reference, torch._foreach_sub(mine, harm), strict=True))

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        if self.how == "move" and self.reference:
            mine = [new[n] for n in self.reference]
            move = torch._foreach_sub([old[n] for n in self.reference], mine)
            torch._foreach_add_(mine, harmful(move, [*self.reference.values()]))
        return new

    def needs_old(self, name: str) -> bool:
        return self.how == "move" and bool(len(self.memory))

    def _reference(self, grads: Tensors, site: Site) -> Tensors:
        """The gradient of the loss on rows of the past, for what the step moves."""
        past = self.memory.sample(self.rows, "reference", self.seed, self.tasks, site.step)
        if past is None or site.task is None:
            return {}
        assert site.task.augment is not None and site.task.objective is not None
        with torch.enable_grad(), evaluating(site.model):
            seen = site.task.augment(past.to(site.task.device), "reference", site.step)
            found = gradients(site.task.objective(seen), [site.params[n] for n in grads])
        held = {n: r.to(g) for (n, g), r in zip(grads.items(), found, strict=True) if r is not None}
        for n, rests in site.rule.resting(site).items():
            if n in held:
                held[n] = held[n].masked_fill(grown(rests.to(held[n].device), held[n], False), 0)
        return held

    def end_stage(self, model: nn.Module, task: Task) -> None:
        if not task.rows:
            return
        self.memory.begin(task)
        chosen = torch.randperm(task.rows, generator=dice(self.seed, "patterns", task.index))[: self.patterns]
        for batch in batches(task.train, 500, chosen, device=task.device):
            self.memory.add(batch)
        self.tasks += 1


def harmful(mine: Sequence[Tensor], reference: list[Tensor]) -> list[Tensor]:
    """The part of a gradient that points against the reference, min(g.r, 0) / |r|^2 r; nothing is read back."""
    share = _product(mine, reference).clamp_max(0) / _product(reference, reference).clamp_min(1e-30)
    return list(torch._foreach_mul(reference, share.to(reference[0].dtype)))


def _product(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """The inner product of two lists of tensors as vectors, in fp32 or better."""
    kind = torch.promote_types(a[0].dtype, torch.float32)
    return torch.stack([over_parts((x.to(kind) * y.to(kind)).sum()) for x, y in zip(a, b, strict=True)]).sum()
