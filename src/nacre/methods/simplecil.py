"""SimpleCIL: nearest class mean on features."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..core.method import Method
from ..core.model import forward
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.state import setting
from ..core.stream import Task
from ..heads import ClassStatistics, features_of


@dataclass
class SimpleCIL(Method):
    """Move no weight; answer with the class whose mean feature is nearest in angle.

    mu_c = mean of f(x) over the training rows of class c, without augmentation; score_c = cos(f(x), mu_c). A class that
    comes back is merged exactly, so the result does not depend on how the rows were cut into tasks. The statistics remember
    the backbone they were taken with.

    Paper: Revisiting Class-Incremental Learning with Pre-Trained Models: Generalizability and Adaptivity are All You Need
    (arXiv 2303.07338).

    >>> SimpleCIL(normalize=True).normalize
    True
    """

    paper: ClassVar[Paper | None] = Paper(
        "Revisiting Class-Incremental Learning with Pre-Trained Models: Generalizability and Adaptivity are All You Need",
        2023,
        "2303.07338",
    )
    fidelity: ClassVar[Fidelity] = "faithful"

    normalize: bool = setting(False, "scale features to length 1 before their mean is taken")
    statistics: ClassStatistics = setting(ClassStatistics, "what is kept of each class")

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls()
        yield cls(normalize=True, statistics=ClassStatistics(covariance="none"))

    def end_stage(self, model: nn.Module, task: Task) -> None:
        z, y = features_of(model, task.train, "SimpleCIL", task.device)
        self.statistics.take(model, task, F.normalize(z, dim=1) if self.normalize else z, y)

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        out = forward(model, batch)
        if self.statistics.mean is None:
            return out.logits
        z = out.need_features("SimpleCIL").double()  # which autocast leaves alone
        scores = F.normalize(z, dim=1) @ F.normalize(self.statistics.mean.to(z), dim=1).T
        return self.statistics.closed(scores, batch.task)

    def stale(self, model: nn.Module) -> list[int]:
        return self.statistics.stale(model)
