"""Learning without forgetting."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..core.method import Method
from ..core.model import Outputs, bare, evaluating, forward, mean_loss
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.snapshot import Snapshot
from ..core.state import setting, state
from ..core.stream import Task
from ..losses import distillation


@dataclass
class LwF(Method):
    """Pull the answers for earlier classes toward those of the model as it was before the task, on the task's own rows.

    loss += strength * KL(softmax(o' / T) || softmax(o / T)), the mean over rows, with o' the logits of a copy of the model
    that was taken when the last task ended and never moves, both over the classes of earlier tasks. Where heads separate
    tasks and the stream tells them, each old head is asked by itself and the terms are added up. Where tasks name no classes,
    all that the copy answers for are one head's.

    With `balance = "tasks"` the loss of task t is (1/t) L + (1 - 1/t) KL instead, over several heads their mean: the form of
    van de Ven et al. (2022). It is added as (1 - 1/t) (KL - L), with L the mean of the rows' losses, so that the stage's own
    loss, which importance is taken of, stays L.

    With `rivals` the student's softmax also runs over the new classes, whose targets are 0: those of the present task, and
    those that the copy has no answer for.

    Differences from the published code: no warm-up of the new rows of the head with all else at rest (give it a stage of its
    own, with `Rest`), and no weight decay beside the optimizer's.

    Paper: Learning without Forgetting (arXiv 1606.09282).

    >>> LwF(strength=2.0).temperature
    2.0
    """

    paper: ClassVar[Paper | None] = Paper("Learning without Forgetting", 2016, "1606.09282")
    fidelity: ClassVar[Fidelity] = "faithful"
    off: ClassVar[dict[str, Any]] = {"strength": 0.0, "balance": "fixed"}

    strength: float = setting(1.0, "weight of the distillation beside the loss (lambda_o)", low=0.0)
    temperature: float = setting(2.0, "softens both answers (T)", low=1e-3)
    balance: Literal["fixed", "tasks"] = setting(
        "fixed", "weights of loss and distillation: 1 and strength, or 1/t and 1 - 1/t on task t"
    )
    rivals: bool = setting(False, "whether new classes take part in the student's softmax, with target 0")
    teacher: Snapshot = state(Snapshot)
    known: dict[str, list[int]] = state(dict)  # head -> its classes; all are one head where none are told apart
    tasks: int = state(int)  # tasks begun
    present: list[int] = state(list)  # classes of this one

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls()
        yield cls(balance="tasks", rivals=True)

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.tasks += bool(task.rows)
        self.present = list(task.classes)

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        if not self.teacher.taken or not (self.strength or self.balance == "tasks"):
            return 0.0
        terms = self._terms(model, batch, out)
        if self.balance == "tasks":
            return (1 - 1 / max(self.tasks, 1)) * (torch.stack(terms).mean() - mean_loss(out, batch))
        return self.strength * torch.stack(terms).sum()

    def end_stage(self, model: nn.Module, task: Task) -> None:
        if not task.rows:
            return
        self.teacher.take(model)
        for classes, task_id in task.growth:
            head = str(task_id) if task_id is not None and _separates(model) else ""
            self.known[head] = sorted({*self.known.get(head, []), *classes})

    def _terms(self, model: nn.Module, batch: Batch, out: Outputs) -> list[Tensor]:
        """The distillation of each old head."""
        if batch.task is not None and _separates(model):
            batch = replace(batch, task=None)  # all heads answer
            with evaluating(model):  # a second pass leaves norm statistics alone
                out = forward(model, batch)
        then = self.teacher.answer(model, batch).logits
        heads = [*self.known.values()] or [[*range(then.shape[1])]]
        return [self._distilled(out.logits, then, classes, batch.weight) for classes in heads]

    def _distilled(self, now: Tensor, then: Tensor, classes: list[int], weight: Tensor | None) -> Tensor:
        if classes != list(range(then.shape[1])):
            unknown = {*self.present, *range(then.shape[1], now.shape[1])} - {*classes}
            asked = torch.tensor([*classes, *sorted(unknown)], device=now.device)
            now, then = now[:, asked], then[:, asked[: len(classes)]]
        return distillation(now if self.rivals else now[:, : then.shape[1]], then, self.temperature, weight)


def _separates(model: nn.Module) -> bool:
    return getattr(bare(model), "takes_task", False)
