"""Class statistics of features: all that closed-form heads keep of the past, and with which backbone it was taken.

Shapes: features (rows, width); per class a count, a mean (width,) and a covariance, full (width, width) or a low-rank
factor (rank, width) with what is left over spread evenly; or one covariance for all classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import BadSetting
from ..core.model import fingerprint
from ..core.state import Stateful, setting, state
from ..core.stream import Task


@dataclass
class ClassStatistics(Stateful):
    """Count, mean and covariance of each class's features, merged exactly in float64 as rows arrive.

    Merging two groups of n and m rows whose means differ by d adds n m / (n + m) d d' to the sum of the scatters. With
    `"low_rank"` the scatter S is kept as factor' factor of the leading directions plus the trace that they leave over; the
    merge is exact as long as the rank suffices and keeps count, mean and trace exactly always. With `"shared"` one scatter is
    kept, the sum of those of all classes around their own means.

    Statistics are only as good as the backbone they were taken with: `taken` holds its fingerprint for each task.
    """

    covariance: Literal["low_rank", "full", "shared", "none"] = setting(
        "low_rank", "what is kept of the covariance: of each class, one for all, or nothing"
    )
    rank: int = setting(20, "leading directions kept per class by low_rank", low=1)
    count: Tensor = state(lambda: torch.zeros(0, dtype=torch.float64))  # (classes,)
    mean: Tensor | None = state(lambda: None)  # (classes, width)
    scatter: Tensor | None = state(lambda: None)  # full: (classes, width, width)
    factor: Tensor | None = state(lambda: None)  # low rank: (classes, rank, width)
    left: Tensor | None = state(lambda: None)  # low rank: (classes,) trace beyond the factor
    pooled: Tensor | None = state(lambda: None)  # shared: (width, width) scatter within all classes
    owner: list[int] = state(list)  # the task id of each class, -1 = not told, or several tasks have it
    taken: dict[str, str] = state(dict)  # task -> the backbone's fingerprint when its statistics were taken

    def add(self, z: Tensor, y: Tensor, task_id: int | None = None) -> None:
        """Merge the features z (rows, width) of classes y (rows,) into what is known."""
        if not len(y):
            return
        z = z.double()
        self._widen(int(y.max()) + 1, z)
        for c in y.unique().tolist():
            if task_id is not None:
                self.owner[c] = task_id if not self.count[c] or self.owner[c] == task_id else -1
            self._merge(c, z[y == c])

    def take(self, model: nn.Module, task: Task, z: Tensor, y: Tensor) -> None:
        """Merge a task's features, and note the backbone that they were taken with."""
        if len(y):
            self.add(z, y, task.task_id)
            self.taken[str(task.index)] = fingerprint(model)

    def stale(self, model: nn.Module) -> list[int]:
        """The tasks whose statistics were taken with another backbone than the present one."""
        if not self.taken:
            return []
        now = fingerprint(model)
        return [int(task) for task, then in self.taken.items() if then != now]

    def covariance_of(self, c: int) -> Tensor:
        """The sample covariance of class c, (width, width)."""
        if self.mean is None or self.covariance in ("shared", "none"):
            raise BadSetting('no covariance of a class is kept: set covariance = "low_rank" or "full"')
        scale = max(float(self.count[c]) - 1, 1.0)
        if self.scatter is not None:
            return self.scatter[c] / scale
        assert self.factor is not None and self.left is not None
        width = self.mean.shape[1]
        spread = self.left[c] / width  # in every direction alike, so that the trace is kept
        return (self.factor[c].T @ self.factor[c] + spread * torch.eye(width).to(self.factor)) / scale

    def closed(self, scores: Tensor, task: Tensor | None) -> Tensor:
        """Scores (rows, classes) with -inf for classes never met, and for those of other tasks where the task is told."""
        met = self.count.to(scores.device) > 0
        shut = ~met.expand_as(scores)
        if task is not None:
            owner = torch.tensor(self.owner, device=scores.device)
            shut = shut | ((owner >= 0) & (owner != task[:, None]) & (task >= 0)[:, None])
        return scores.masked_fill(shut, float("-inf"))

    def _merge(self, c: int, z: Tensor) -> None:
        assert self.mean is not None
        n, m = float(self.count[c]), float(len(z))
        fresh = z.mean(0)
        gap = fresh - self.mean[c]
        spread = torch.cat(
            [z - fresh, gap[None] * (n * m / (n + m)) ** 0.5]
        )  # spread' spread is what the scatter gains
        self.count[c] += m
        self.mean[c] += gap * (m / (n + m))
        if self.pooled is not None:
            self.pooled += spread.T @ spread
        if self.scatter is not None:
            self.scatter[c] += spread.T @ spread
        elif self.factor is not None and self.left is not None:
            _, size, directions = torch.linalg.svd(torch.cat([self.factor[c], spread]), full_matrices=False)
            kept = min(self.factor.shape[1], len(size))
            self.factor[c, :kept] = size[:kept, None] * directions[:kept]
            self.left[c] += size[kept:].square().sum()

    def _widen(self, classes: int, like: Tensor) -> None:
        width = like.shape[1]
        if self.mean is None:
            self.count, self.mean = self.count.to(like), like.new_zeros(0, width)
            if self.covariance == "full":
                self.scatter = like.new_zeros(0, width, width)
            elif self.covariance == "shared":
                self.pooled = like.new_zeros(width, width)
            elif self.covariance == "low_rank":
                self.factor, self.left = like.new_zeros(0, min(self.rank, width), width), like.new_zeros(0)
        more = classes - len(self.count)
        if more > 0:
            self.owner += [-1] * more
            for name in ("count", "mean", "scatter", "factor", "left"):
                held: Tensor | None = getattr(self, name)
                if held is not None:
                    setattr(self, name, F.pad(held, (0, 0) * (held.ndim - 1) + (0, more)))
