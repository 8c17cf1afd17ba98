"""RanPAC: ridge regression on randomly projected features."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import ranks
from ..core.dice import dice
from ..core.errors import BadSetting
from ..core.method import Method
from ..core.model import exact, forward
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.state import scratch, setting, state
from ..core.stream import Task
from ..heads import GRID, ClassStatistics, RandomFeatures, choose_ridge, features_of

logger = logging.getLogger(__name__)
BLOCK = 4096  # rows whose projected features are held at once


@dataclass
class RanPAC(Method):
    """Move no weight; answer by ridge regression on random features of all rows seen.

    h = relu(f(x) R) with R ~ N(0, 1) of shape (width of f, M), drawn once; after each task G += H' H and Q += H' Y with
    one-hot Y; scores = h W with W = (G + ridge I)^-1 Q. Sums of rows do not depend on how the rows were cut into tasks. W is
    solved once a task, when it is first needed, and never saved.

    With `ridge = "task"` the ridge is the one of 1e-8 ... 1e8 with the least squared error on a random fifth of the current
    task's training rows (of 4 M of them at most), fitted on the others: as in the reference code, but for the choice at
    random (there: the last fifth). No other rows are looked at, and none are kept.

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
    ridge: float | Literal["task"] = setting("task", "the ridge, or how it is chosen", low=0.0)
    normalize: bool = setting(False, "scale features to length 1 before they are projected")
    precision: Literal["float64", "float32"] = setting("float64", "of the sums G and Q and of the solution")
    seed: int = setting(0, "seeds R and the rows held out")
    statistics: ClassStatistics = setting(ClassStatistics, "what is kept of each class beside G and Q")
    gram: Tensor | None = state(lambda: None)  # G, (M, M)
    cross: Tensor | None = state(lambda: None)  # Q, (M, classes)
    chosen: float = state(lambda: 1.0)  # the ridge in use where it is chosen
    lift: RandomFeatures | None = scratch()
    readout: Tensor | None = scratch()  # W, (M, classes)

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(width=32)
        yield cls(width=32, ridge=1.0, normalize=True)

    def end_stage(self, model: nn.Module, task: Task) -> None:
        z, y = features_of(model, task.train, "RanPAC", task.device)
        if not len(y):
            return
        z = F.normalize(z, dim=1) if self.normalize else z
        self.statistics.take(model, task, z, y)
        if self.ridge == "task":
            self._choose(z, y, task.index)
        self._add(z, y)
        self.readout = None

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        out = forward(model, batch)
        if self.gram is None or self.cross is None:
            return out.logits
        z = out.need_features("RanPAC")
        h = self._project(F.normalize(z, dim=1) if self.normalize else z)
        with exact(h.device):
            if self.readout is None:
                self.readout = self._solve()
            return self.statistics.closed(h @ self.readout, batch.task)

    def stale(self, model: nn.Module) -> list[int]:
        return self.statistics.stale(model)

    def _add(self, z: Tensor, y: Tensor) -> None:
        """G += H' H, Q += H' Y: the first rank goes on from the sums so far, the others from zero, and all are summed."""
        classes, kind = len(self.statistics.count), {"dtype": getattr(torch, self.precision), "device": z.device}
        if self.gram is None or self.cross is None:
            self.gram = torch.zeros(self.width, self.width, **kind)
            self.cross = torch.zeros(self.width, 0, **kind)
        self.cross = F.pad(self.cross, (0, classes - self.cross.shape[1]))
        if not ranks.first():
            self.gram, self.cross = torch.zeros_like(self.gram), torch.zeros_like(self.cross)
        for low in ranks.share_of(torch.arange(0, len(y), BLOCK)).tolist():
            h = self._project(z[low : low + BLOCK])
            with exact(h.device):
                self.gram += h.T @ h
                self.cross += h.T @ F.one_hot(y[low : low + BLOCK], classes).to(h)
        ranks.total([self.gram, self.cross])

    def _project(self, z: Tensor) -> Tensor:
        """h, (rows, M), in the precision of the sums."""
        if self.lift is None:
            self.lift = RandomFeatures(self.width, self.seed)
        with exact(z.device):
            return self.lift(z if z.dtype == torch.float64 else z.float()).to(getattr(torch, self.precision))

    def _solve(self) -> Tensor:
        assert self.gram is not None and self.cross is not None
        ridge = self.chosen if isinstance(self.ridge, str) else self.ridge
        while True:
            ridged = self.gram.clone()
            ridged.diagonal().add_(ridge)
            factor, failed = torch.linalg.cholesky_ex(ridged)
            if not bool(failed):
                return torch.cholesky_solve(self.cross, factor)
            if self.ridge != "task" or ridge >= GRID[-1]:
                raise BadSetting(
                    f"RanPAC cannot solve its regression with ridge = {ridge:g} in {self.precision}: the random features are "
                    'linearly dependent; use a larger ridge, or precision = "float64"'
                )
            ridge *= 10  # what was chosen in float64 may be too small for sums in float32
            logger.warning(
                "RanPAC: the ridge was raised to %g, at which %s can solve the regression", ridge, self.precision
            )

    def _choose(self, z: Tensor, y: Tensor, index: int) -> None:
        keep = torch.randperm(len(y), generator=dice(self.seed, index, "ridge rows"))[: 4 * self.width].to(y.device)
        labels = y[keep].unique(return_inverse=True)[1]
        targets = F.one_hot(labels).double()
        found = choose_ridge(self._project(z[keep]).double(), targets, 0.2, dice(self.seed, index, "ridge"))
        self.chosen = found if found is not None else self.chosen
