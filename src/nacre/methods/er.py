"""Experience replay."""

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
from ..core.state import setting, state
from ..core.stream import Task
from ..memory import AnyMemory, ClassBalanced, Reservoir, replayed


@dataclass
class ER(Method):
    """Train on each batch together with rows of the past, as one batch.

    The loss is the mean over the stream's rows and the replayed ones alike. With `balance = "tasks"` it is (1/t) times the mean
    over the stream's rows plus (1 - 1/t) times that over the replayed ones on task t, as in van de Ven et al. (2022). Replayed
    rows pass the same augmentation; what is stored is the raw row, admitted after the step. The replayed rows of a step are
    drawn once and shared out among its micro-batches, on all ranks.

    Paper: On Tiny Episodic Memories in Continual Learning (arXiv 1902.10486).

    >>> ER(rows=16, memory=ClassBalanced(capacity=200)).memory.capacity
    200
    """

    paper: ClassVar[Paper | None] = Paper("On Tiny Episodic Memories in Continual Learning", 2019, "1902.10486")
    fidelity: ClassVar[Fidelity] = "faithful"
    off: ClassVar[dict[str, Any]] = {"rows": 0}

    rows: int = setting(64, "rows of the past per optimizer step", low=0)
    balance: Literal["rows", "tasks"] = setting("rows", "what counts alike: rows, or tasks")
    wait: int = setting(0, "tasks that are learned before rows are replayed", low=0)
    memory: AnyMemory = setting(Reservoir, "which rows are kept")
    tasks: int = state(int)  # tasks begun

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(rows=8, memory=Reservoir(capacity=20))
        yield cls(rows=8, balance="tasks", memory=ClassBalanced(capacity=20))

    def overrides(self, hook: str) -> bool:
        return super().overrides(hook) and (
            hook != "begin_stage" or self.balance == "tasks" or self.wait > 0 or self.memory.hears_tasks
        )

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.tasks += bool(task.rows)
        self.memory.begin(task)

    def shape_batch(self, batch: Batch) -> Batch:
        wait = max(self.wait, int(self.balance == "tasks"))
        past = None if wait and self.tasks <= wait else self.memory.draw(self.rows, batch)
        if past is None:
            return batch
        if self.balance == "rows":
            return replayed(batch, past)
        present = len(batch) if batch.weight is None else float(batch.weight.sum())
        return replayed(batch, past, (self.tasks - 1) * present / len(past))

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        self.memory.add(batch)
