"""Joint training: the bound that methods are measured against."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from ..core.errors import BadData
from ..core.method import Method
from ..core.paper import Fidelity, Paper
from ..core.stream import Task


@dataclass
class Joint(Method):
    """Train all weights on all tasks at once: no stream, hence nothing to forget.

    An upper bound, not a continual learner. A `Learner` with this method joins its stream by itself; in your own loop give
    the driver the one experience of `nacre.core.stream.Joined(stream)`.

    Paper: the multi-task bound, as in Three types of incremental learning (van de Ven, Tuytelaars, Tolias 2022).

    Raises:
        BadData: a second task arrives, which joint training cannot have.

    >>> from nacre.methods import Joint
    >>> Joint().joins
    True
    """

    paper: ClassVar[Paper | None] = Paper(
        "Three types of incremental learning", 2022, venue="Nature Machine Intelligence 4"
    )
    fidelity: ClassVar[Fidelity] = "faithful"
    joins: ClassVar[bool] = True

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        if task.index:
            raise BadData(
                f"Joint trains on all tasks at once, but task {task.index} follows another: give the driver "
                "nacre.core.stream.Joined(stream)[0], or use a Learner, which joins by itself"
            )
