"""GDumb: a memory, and a model that is trained on nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..core.method import Method
from ..core.paper import Fidelity, Paper
from ..core.rows import Rows, batches
from ..core.snapshot import Snapshot
from ..core.state import setting, state
from ..core.stream import Task
from ..memory import AnyMemory, Greedy


@dataclass
class GDumb(Method):
    """Fill a class-balanced memory from the stream, then train the weights anew on the memory alone.

    When a task begins its rows are offered to the memory, in the order in which they lie, and the weights are put back to what
    they were before the first task (rows that a head has gained since: to what they were when it gained them). The stage then
    trains on the memory's rows and on no others; an epoch goes through the memory once. What is answered depends on the
    memory only, not on the order of tasks.

    Differences from the published code: there the model is trained once, after the last task; here after each, so that there
    are answers after every task. CutMix and warm restarts are settings of the stage (`augment`, `schedule`).

    Paper: GDumb: A Simple Approach that Questions Our Progress in Continual Learning (ECCV 2020).

    >>> GDumb(memory=Greedy(capacity=1000)).memory.capacity
    1000
    """

    paper: ClassVar[Paper | None] = Paper(
        "GDumb: A Simple Approach that Questions Our Progress in Continual Learning", 2020, venue="ECCV 2020"
    )
    fidelity: ClassVar[Fidelity] = "faithful"

    memory: AnyMemory = setting(Greedy, "which rows are kept")
    fresh: Snapshot = state(Snapshot)  # the untrained model

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(memory=Greedy(capacity=24))

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.fresh.extend(model)
        if task.rows:
            self.memory.begin(task)
            for batch in batches(task.train, 500, device=task.device):
                self.memory.add(batch)
            self.fresh.put_back(model)

    def shape_rows(self, rows: Rows | None, task: Task) -> Rows | None:
        return self.memory if task.rows else rows
