"""RanPAC: ridge regression on randomly projected features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from ..core.method import Method
from ..core.model import forward
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.state import setting, state
from ..core.stream import Task
from ..heads import ClassStatistics, RandomRidge, features_of


@dataclass
class RanPAC(Method):
    """Move no weight; answer by ridge regression on random features of all rows seen.

    h = relu(f(x) R) with R ~ N(0, 1) of shape (width of f, M), drawn once; after each task G += H' H and Q += H' Y with
    one-hot Y; scores = h W with W = (G + ridge I)^-1 Q. Sums of rows do not depend on how the rows were cut into tasks. W is
    solved once a task, when it is first needed, and never saved.

    With `ridge = "task"` the ridge is the one of 1e-8 ... 1e8 with the least squared error on a random fifth of the current
    task's training rows (of 4 M of them at most), fitted on the others: as in the reference code, but for the choice at
    random (there: the last fifth). No other rows are looked at, and none are kept. Of few rows it may take a ridge that fits
    them alone: `ridge = "seen"` asks what all rows so far would answer (see `RandomRidge`), and is the better rule where tasks
    bring some hundred rows.

    What is kept, G and Q, is of projected features, which cannot be taken along when the backbone moves: with a tuner on every
    task its answers become stale. A method that keeps class statistics and transports them is the cure.

    Paper: RanPAC: Random Projections and Pre-trained Models for Continual Learning (arXiv 2307.02251). Its first-session
    tuning is a stage of its own here; its M is 10,000.

    >>> RanPAC(width=500, ridge=100.0).ridge
    100.0
    """

    paper: ClassVar[Paper | None] = Paper(
        "RanPAC: Random Projections and Pre-trained Models for Continual Learning", 2023, "2307.02251"
    )
    fidelity: ClassVar[Fidelity] = "faithful"

    width: int = setting(2000, "random features (M); the paper has 10000", low=1)
    ridge: float | Literal["task", "seen"] = setting(
        "task", "the ridge, or on what it is chosen: the present task's rows alone, or all that was seen", low=0.0
    )
    normalize: bool = setting(False, "scale features to length 1 before they are projected")
    precision: Literal["float64", "float32"] = setting("float64", "of the sums G and Q and of the solution")
    seed: int = setting(0, "seeds R and the rows held out")
    statistics: ClassStatistics = setting(ClassStatistics, "what is kept of each class beside G and Q")
    head: RandomRidge = state(RandomRidge)  # the sums G and Q

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(width=32)
        yield cls(width=32, ridge=1.0, normalize=True)
        yield cls(width=32, ridge="seen")

    def __post_init__(self) -> None:
        super().__post_init__()
        self._set_up()

    def end_stage(self, model: nn.Module, task: Task) -> None:
        z, y = features_of(model, task.train, "RanPAC", task.device)
        if not len(y):
            return
        z = F.normalize(z, dim=1) if self.normalize else z
        self.statistics.take(model, task, z, y)
        head, classes = self._set_up(), len(self.statistics.count)
        head.choose(z, y, task.index, classes)
        head.add(z, y, classes)

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        out = forward(model, batch)
        if self.head.gram is None:
            return out.logits
        z = out.need_features("RanPAC")
        scores = self._set_up().scores(self.statistics, F.normalize(z, dim=1) if self.normalize else z)
        return self.statistics.closed(scores, batch.task)

    def stale(self, model: nn.Module) -> list[int]:
        return self.statistics.stale(model)

    def _set_up(self) -> RandomRidge:
        """The head, under the settings of this method."""
        head = self.head
        head.width, head.ridge, head.precision, head.seed = self.width, self.ridge, self.precision, self.seed
        return head
