"""Elastic weight consolidation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..core.dice import dice
from ..core.method import Method
from ..core.model import Outputs, evaluating
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.rule import Site
from ..core.state import Tensors, scratch, setting, state
from ..core.stream import Task
from ..importance import fisher, named, weights_of
from ..losses import add_slopes, anchored, fold, pull_all


@dataclass
class EWC(Method):
    """Pull each weight toward its values after earlier tasks, as hard as its Fisher information says.

    loss += strength / 2 * sum_k F_k (w - a_k)^2, with F_k the diagonal Fisher information of task k, taken one row at a time
    (see `labels`), and a_k the weights after it. All tasks are folded into one quadratic with the same gradient, importance
    F = sum_k F_k and anchor a = sum_k F_k a_k / F, so a step costs the same after 2 tasks and after 200.

    With `how = "gradient"` its gradient is added to that of the loss, without its value and after any clip, which costs less.
    With `how = "pull"` the same quadratic acts after the step instead, as its exact proximal move
    w <- w + s (a - w), s = r F / (1 + r F), r = learning rate * strength: it stays finite at any strength, and an adaptive
    optimizer does not rescale it. Rows that a head gained later have no memory: importance 0.
    `select` anchors some weights only, such as `attn.*qkv`.

    Strengths do not carry over from other libraries, which differ in a factor of 2, in the estimator, and in whether the
    gradient of a batch mean is squared (about `batch` times smaller).

    Paper: Overcoming catastrophic forgetting in neural networks (arXiv 1612.00796), one quadratic a task; the decay is that of
    Progress & Compress (arXiv 1805.06370), which anchors all importance at the latest weights instead.

    >>> EWC(strength=10.0).strength
    10.0
    """

    paper: ClassVar[Paper | None] = Paper("Overcoming catastrophic forgetting in neural networks", 2016, "1612.00796")
    fidelity: ClassVar[Fidelity] = "faithful"
    off: ClassVar[dict[str, Any]] = {"strength": 0.0}

    strength: float = setting(100.0, "how strong the pull is (lambda)", low=0.0)
    labels: Literal["sampled", "exact", "empirical"] = setting(
        "sampled", "Fisher estimator: labels drawn from the model, all labels by their probability, or the rows' own"
    )
    rows: int = setting(200, "rows of a task that its Fisher information is taken of", low=1)
    decay: float = setting(1.0, "factor on older tasks' importance at each new task (gamma)", low=0.0, high=1.0)
    how: Literal["loss", "gradient", "pull"] = setting(
        "loss", "as a loss term, as its gradient, or as an exact pull after each step"
    )
    select: str | None = setting(None, "names of the weights that are anchored, as an expression; all by default")
    seed: int = setting(0, "seeds the choice of rows and labels")
    importance: Tensors = state()  # F
    anchor: Tensors = state()  # a
    room: Tensors = scratch(dict)  # memory for w - a

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(rows=8)
        yield cls(rows=8, how="gradient")
        yield cls(rows=8, how="pull")

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        if self.how != "loss" or not self.importance or not self.strength:
            return 0.0
        return anchored(dict(model.named_parameters()), self.importance, self.anchor, self.strength)

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        if self.how == "gradient" and self.strength:
            add_slopes(grads, site.params, self.importance, self.anchor, self.strength, self.room)
        return grads

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        if self.how == "pull" and self.strength:
            pull_all(new, self.importance, self.anchor, self.strength, site.lr)
        return new

    def needs_old(self, name: str) -> bool:
        return False  # the pull starts from the new weights

    def end_stage(self, model: nn.Module, task: Task) -> None:
        if not task.rows or task.train is None or task.objective is None or task.outputs is None:
            return
        params = named(weights_of(model), self.select, "EWC")
        chosen = torch.randperm(task.rows, generator=dice(self.seed, task.index, "rows"))[: self.rows]
        with evaluating(model):
            fresh = fisher(
                task.objective, task.outputs, params, task.train, chosen,
                labels=self.labels, seed=(self.seed, task.index), device=task.device,
            )  # fmt: skip
        fold(self.importance, self.anchor, fresh, params, self.decay)
