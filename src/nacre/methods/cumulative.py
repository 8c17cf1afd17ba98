"""Cumulative training: what could be reached if all rows so far were at hand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from ..core.method import Method
from ..core.paper import Fidelity, Paper
from ..core.snapshot import Snapshot
from ..core.state import setting, state
from ..core.stream import Task


@dataclass
class Cumulative(Method):
    """Train all weights on the rows of all tasks so far.

    A bound for every task of a stream, not a continual learner: all rows are read again at every task. With
    `start = "warm"` the weights go on from where they are, with `"scratch"` they are put back to what they were before the
    first task (rows that a head has gained since: to what they were when it gained them). A `Learner` with this method
    accumulates its stream by itself; in your own loop give the driver the experiences of
    `nacre.core.stream.Accumulated(stream)`. With a single task it is joint training.

    Paper: the bound of incremental joint training, as in Three types of incremental learning (van de Ven, Tuytelaars, Tolias
    2022).

    >>> Cumulative(start="scratch").accumulates
    True
    """

    paper: ClassVar[Paper | None] = Paper(
        "Three types of incremental learning", 2022, venue="Nature Machine Intelligence 4"
    )
    fidelity: ClassVar[Fidelity] = "faithful"
    accumulates: ClassVar[bool] = True

    start: Literal["warm", "scratch"] = setting(
        "warm", "the weights that a task begins with: the last ones, or untrained"
    )
    fresh: Snapshot = state(Snapshot)  # the untrained model

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls()
        yield cls(start="scratch")

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        if self.start == "scratch":
            self.fresh.extend(model)
            self.fresh.put_back(model)
