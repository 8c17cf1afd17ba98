"""Streaming linear discriminant analysis."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import BadSetting
from ..core.method import Method
from ..core.model import exact, forward
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.state import scratch, setting
from ..core.stream import Task
from ..heads import ClassStatistics, discriminant, features_of


def _shared() -> ClassStatistics:
    return ClassStatistics(covariance="shared")


@dataclass
class SLDA(Method):
    """Move no weight; answer by linear discriminant analysis on features, from running class means and one covariance.

    mu_c and the scatter S within all classes are sums over rows: S gains n_c / (n_c + 1) (z - mu_c)(z - mu_c)' with a row z of
    class c that has n_c rows before it. Scores are z' P mu_c - 1/2 mu_c' P mu_c, P = ((1 - e) S / n + e I)^-1 with n rows in
    all. The result is that of the batch analysis on all rows at once, in any order.

    Differences from the published code: there the factor is n / (n + 1), which depends on the order and differs by O(1 / n);
    some libraries begin S with ones, which the first row erases.

    Paper: Lifelong Machine Learning with Deep Streaming Linear Discriminant Analysis (arXiv 1909.01520).

    Raises:
        BadSetting: the statistics keep no shared covariance.

    >>> SLDA(shrinkage=1e-3).statistics.covariance
    'shared'
    """

    paper: ClassVar[Paper | None] = Paper(
        "Lifelong Machine Learning with Deep Streaming Linear Discriminant Analysis", 2019, "1909.01520"
    )
    fidelity: ClassVar[Fidelity] = "faithful"

    shrinkage: float = setting(1e-4, "how far the covariance is drawn toward the identity (e)", low=1e-12, high=1.0)
    normalize: bool = setting(False, "scale features to length 1 first")
    statistics: ClassStatistics = setting(_shared, "what is kept of the classes")
    readout: tuple[Tensor, Tensor] | None = scratch()  # weights (width, classes) and biases (classes,)

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls()
        yield cls(shrinkage=0.1, normalize=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.statistics.covariance != "shared":
            raise BadSetting(
                f'SLDA.statistics needs covariance = "shared", not {self.statistics.covariance!r}: leave the setting out'
            )

    def end_stage(self, model: nn.Module, task: Task) -> None:
        z, y = features_of(model, task.train, "SLDA", task.device)
        self.statistics.take(model, task, F.normalize(z, dim=1) if self.normalize else z, y)
        self.readout = None

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        out = forward(model, batch)
        if self.statistics.mean is None:
            return out.logits
        z = out.need_features("SLDA").double()
        with exact(z.device):
            if self.readout is None:
                self.readout = discriminant(self.statistics, self.shrinkage)
            weight, bias = self.readout
            scores = (F.normalize(z, dim=1) if self.normalize else z) @ weight + bias
        return self.statistics.closed(scores, batch.task)

    def stale(self, model: nn.Module) -> list[int]:
        return self.statistics.stale(model)
