"""Averaged gradient episodic memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core.dice import dice
from ..core.method import Method
from ..core.model import evaluating
from ..core.paper import Fidelity, Paper
from ..core.rows import batches
from ..core.rule import Site
from ..core.shards import gradients, over_parts
from ..core.state import Tensors, setting, state
from ..core.stream import Task
from ..memory import AnyMemory, TaskBalanced


@dataclass
class AGEM(Method):
    """Take from each step's gradient the part that would raise the loss on rows of earlier tasks.

    With g the gradient of the step and r that of the stage's own loss on `rows` remembered rows, at the same weights:
    g <- g - min(g.r, 0) / |r|^2 r, so that g.r >= 0 afterwards; nothing changes where it was so before. All entries that the
    step moves count as one vector. The reference r is taken once a step, in eval mode, on rows drawn anew, augmented as the
    stage's are. When a task ends `patterns` of its rows, drawn at random, are offered to the memory: during a task only rows of
    earlier tasks are in it.

    A promise about gradients: momentum, weight decay and adaptive rates make steps of other directions of it.

    Differences from other libraries: one keeps a single batch of each task, another mixes the present task into the reference.

    Paper: Efficient Lifelong Learning with A-GEM (arXiv 1812.00420).

    >>> AGEM(rows=128, patterns=100).memory.capacity
    500
    """

    paper: ClassVar[Paper | None] = Paper("Efficient Lifelong Learning with A-GEM", 2018, "1812.00420")
    fidelity: ClassVar[Fidelity] = "faithful"
    off: ClassVar[dict[str, Any]] = {"rows": 0}

    rows: int = setting(256, "rows of the past that the reference gradient is taken of", low=0)
    patterns: int = setting(256, "rows of each task that are offered to the memory", low=1)
    memory: AnyMemory = setting(TaskBalanced, "which of these are kept")
    seed: int = setting(0, "seeds the choice of rows")
    tasks: int = state(int)  # tasks ended

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(rows=8, patterns=10, memory=TaskBalanced(capacity=24))

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        past = self.memory.sample(self.rows, "reference", self.seed, self.tasks, site.step)
        if past is None or site.task is None or not grads:
            return grads
        assert site.task.augment is not None and site.task.objective is not None
        params = [site.params[n] for n in grads]
        with torch.enable_grad(), evaluating(site.model):
            seen = site.task.augment(past.to(site.task.device), "reference", site.step)
            found = gradients(site.task.objective(seen), params)
        reference = {n: r.to(g) for (n, g), r in zip(grads.items(), found, strict=True) if r is not None}
        return grads | project(grads, reference)

    def end_stage(self, model: nn.Module, task: Task) -> None:
        if not task.rows:
            return
        self.memory.begin(task)
        chosen = torch.randperm(task.rows, generator=dice(self.seed, "patterns", task.index))[: self.patterns]
        for batch in batches(task.train, 500, chosen, device=task.device):
            self.memory.add(batch)
        self.tasks += 1


def project(grads: Tensors, reference: Tensors) -> Tensors:
    """The gradients that there is a reference for, without the part that points against it; nothing is read back.

    >>> project({"w": torch.tensor([1.0, -2.0])}, {"w": torch.tensor([0.0, 1.0])})
    {'w': tensor([1., 0.])}
    """
    mine, theirs = [grads[n] for n in reference], list(reference.values())
    if not theirs:
        return {}
    against = _product(mine, theirs).clamp_max(0) / _product(theirs, theirs).clamp_min(1e-30)
    taken = torch._foreach_mul(theirs, against.to(theirs[0].dtype))
    return dict(zip(reference, torch._foreach_sub(mine, taken), strict=True))


def _product(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
    """The inner product of two lists of tensors as vectors, in fp32 or better."""
    kind = torch.promote_types(a[0].dtype, torch.float32)
    return torch.stack([over_parts((x.to(kind) * y.to(kind)).sum()) for x, y in zip(a, b, strict=True)]).sum()
