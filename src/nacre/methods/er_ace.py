"""Experience replay with an asymmetric cross-entropy."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..core.errors import BadSetting
from ..core.method import Method
from ..core.model import Outputs, row_loss
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.rule import Site
from ..core.state import setting, state
from ..core.stream import Task
from ..losses import weighted_mean
from ..memory import AnyMemory, Reservoir, part, replayed

ABSENT = -1e4  # a logit that is 0 after any softmax
REPLAYED = "er_ace"
"""The field that marks replayed rows."""


@dataclass
class ERACE(Method):
    """Train on new rows among the classes of their own batch only, and on rows of the past among all classes.

    loss = mean over the stream's rows of -log softmax(o over the classes present in the batch)_y
         + mean over `rows` replayed rows of -log softmax(o)_y,

    so that new rows never push down the logits of classes that are not there to defend themselves. The classes present are
    those of the stream's rows of a micro-batch.

    Differences from the published code: there classes that were never met compete too, which a head that grows does not have.
    The cosine head that is sometimes added is a choice of head, not of loss.

    Paper: New Insights on Reducing Abrupt Representation Change in Online Continual Learning (arXiv 2104.05025).

    Raises:
        BadSetting: labels are not one class id a row.

    >>> ERACE(rows=16, wait=1).memory.capacity
    500
    """

    paper: ClassVar[Paper | None] = Paper(
        "New Insights on Reducing Abrupt Representation Change in Online Continual Learning", 2021, "2104.05025"
    )
    fidelity: ClassVar[Fidelity] = "faithful"
    off: ClassVar[dict[str, Any]] = {"rows": 0, "present": False}

    rows: int = setting(64, "rows of the past per optimizer step", low=0)
    present: bool = setting(True, "new rows compete among the classes of their batch only")
    wait: int = setting(0, "tasks that are learned before rows are replayed", low=0)
    memory: AnyMemory = setting(Reservoir, "which rows are kept")
    tasks: int = state(int)  # tasks begun

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(rows=8, memory=Reservoir(capacity=20))

    def overrides(self, hook: str) -> bool:
        return super().overrides(hook) and (hook != "begin_stage" or self.wait > 0 or self.memory.hears_tasks)

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.tasks += bool(task.rows)
        self.memory.begin(task)

    def shape_batch(self, batch: Batch) -> Batch:
        past = None if self.wait and self.tasks <= self.wait else self.memory.draw(self.rows, batch)
        if past is None:
            return batch
        past.extra[REPLAYED] = torch.ones_like(past.y)
        return replayed(batch, past, 0.0)

    def shape_logits(self, logits: Tensor, batch: Batch) -> Tensor:
        if not self.present:
            return logits
        if batch.y.ndim != 1 or batch.y.is_floating_point():
            raise BadSetting(
                f"ERACE needs one class id a row, not labels of shape {tuple(batch.y.shape)} ({batch.y.dtype})"
            )
        own = batch.own()
        absent = logits.new_ones(logits.shape[1] + 1, dtype=torch.bool)
        absent[torch.where(own, batch.y, logits.shape[1])] = False  # replayed rows write beside the classes
        return logits.masked_fill(absent[:-1] & own[:, None], ABSENT)

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        if REPLAYED not in batch.extra:
            return 0.0
        low, high = part(whole := min(self.rows, len(self.memory)), batch)
        share = (high - low) / (whole * batch.share)  # 1 where the rows of a step can be cut evenly
        return share * weighted_mean(row_loss(out, batch), (batch.extra[REPLAYED] == 1).to(out.logits))

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        self.memory.add(batch)
