"""iCaRL: exemplars, distillation, and the nearest mean of exemplars."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import BadSetting
from ..core.method import Method
from ..core.model import Outputs, fingerprint, forward
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch, Chain, Rows
from ..core.snapshot import Snapshot
from ..core.state import setting, state
from ..core.stream import Task
from ..heads import ClassStatistics, features_of
from ..losses import sigmoid_targets
from ..memory import Herding


def _means() -> ClassStatistics:
    return ClassStatistics(covariance="none")


@dataclass
class ICaRL(Method):
    """Train the weights on new rows and exemplars together; answer with the class whose exemplars' mean is nearest.

    Each class is a question of its own: the loss of a row is the sum over classes of binary cross-entropies, whose targets are
    the row's label for new classes, and for classes of earlier tasks what a copy of the model, taken when the last task
    ended, answers for the row. An epoch goes through the task's rows and all exemplars. After the task exemplars are chosen by
    herding on features of length 1, an equal share of the memory for each class. A row is answered by the cosine with the
    mean of each class's exemplars, which ranks as the distance does.

    Where a task names no classes all columns are trained, since any of them may be new. Where heads are told apart each row is
    asked of its own head alone: new rows do not distil old heads, exemplars do.

    Differences from the published code: exemplars' features are not averaged with those of their mirror images, which is wrong
    for digits; and a share of the memory is not rounded down. Classes that come back are trained on their labels.

    Paper: iCaRL: Incremental Classifier and Representation Learning (arXiv 1611.07725).

    Raises:
        BadSetting: labels are not one class id a row.

    >>> ICaRL(memory=Herding(capacity=1000)).reduction
    'sum'
    """

    paper: ClassVar[Paper | None] = Paper(
        "iCaRL: Incremental Classifier and Representation Learning", 2016, "1611.07725"
    )
    fidelity: ClassVar[Fidelity] = "faithful"
    excused: ClassVar[dict[str, str]] = {
        "seeded": "herding chooses without dice: the seed of its memory is that of draws, and exemplars are never drawn"
    }

    reduction: Literal["sum", "mean"] = setting(
        "sum", "over the classes' cross-entropies; the mean divides the loss by their number"
    )
    memory: Herding = setting(lambda: Herding(capacity=2000), "where the exemplars are kept")
    teacher: Snapshot = state(Snapshot)
    known: list[int] = state(list)  # classes of earlier tasks
    present: list[int] = state(list)  # classes of this one
    means: ClassStatistics = state(_means)  # of the exemplars' features

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(memory=Herding(capacity=24))

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.present = list(task.classes)

    def shape_rows(self, rows: Rows | None, task: Task) -> Rows | None:
        return Chain((rows, self.memory)) if rows is not None and len(rows) and len(self.memory) else rows

    def objective(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor:
        if batch.y.ndim != 1 or batch.y.is_floating_point():
            raise BadSetting(
                f"ICaRL needs one class id a row, not labels of shape {tuple(batch.y.shape)} ({batch.y.dtype})"
            )
        classes = out.competing.shape[1]
        targets = F.one_hot(batch.y, classes).to(torch.promote_types(out.competing.dtype, torch.float32))
        if self.teacher.taken and (old := sorted({*self.known} - {*self.present})):
            index = torch.tensor(old, device=targets.device)
            targets[:, index] = self.teacher.answer(model, batch).logits.to(targets)[:, index].sigmoid()
        met = {*self.known, *self.present} if self.present else set(range(classes))
        columns = torch.zeros(classes, dtype=torch.bool)
        columns[sorted(met)] = True
        loss = sigmoid_targets(out.competing, targets, columns.to(targets.device), batch.weight)
        return loss / len(met) if self.reduction == "mean" else loss

    def end_stage(self, model: nn.Module, task: Task) -> None:
        if not task.rows or task.train is None:
            return
        z, y = features_of(model, task.train, "ICaRL", task.device)
        if len(self.memory):
            self.memory.refresh(features_of(model, self.memory, "ICaRL", task.device)[0])
        self.memory.offer(task.train, z, y)
        self._take_means(model, task)
        self.teacher.take(model)
        self.known = sorted({*self.known, *(task.classes or y.unique().tolist())})

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        out = forward(model, batch)
        if self.means.mean is None:
            return out.logits
        z = out.need_features("ICaRL").double()  # which autocast leaves alone
        scores = F.normalize(z, dim=1) @ F.normalize(self.means.mean.to(z), dim=1).T
        return self.means.closed(scores, batch.task)

    def stale(self, model: nn.Module) -> list[int]:
        return self.means.stale(model)

    def _take_means(self, model: nn.Module, task: Task) -> None:
        """The means of all exemplars' features, as the model now sees them."""
        z, y = features_of(model, self.memory, "ICaRL", task.device)
        told, tasks = self.memory.field("task"), self.means.taken
        self.means = _means()
        for i in [-1] if told is None else told.unique().tolist():
            mine = torch.ones_like(y, dtype=torch.bool) if told is None else (told == i).to(y.device)
            self.means.add(F.normalize(z[mine], dim=1), y[mine], i if i >= 0 else None)
        self.means.taken = dict.fromkeys([*tasks, str(task.index)], fingerprint(model))
