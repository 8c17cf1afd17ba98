"""Class statistics of features: all that closed-form heads keep of the past, and which backbone it is valid for.

Shapes: features (rows, width); per class a count, a mean (width,) and a covariance, full (width, width) or a low-rank
factor (rank, width) with what is left over spread evenly at right angles to it; or one covariance for all classes.

Memory: a low-rank class takes (rank + 1) * width + 2 numbers, at width 384 and rank 20 in float32 31.5 KiB.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import BadSetting, NonFinite
from ..core.model import fingerprint
from ..core.state import Stateful, setting, state
from ..core.stream import Task
from .draws import factor_of
from .map import Map


@dataclass
class ClassStatistics(Stateful):
    """Count, mean and covariance of each class's features, merged in float64 as rows arrive.

    Merging two groups of n and m rows whose means differ by d adds n m / (n + m) d d' to the sum of the scatters. With
    `"low_rank"` the scatter S is kept as factor' factor of the leading directions plus the trace that they leave over, which is
    taken as spread evenly at right angles to them; the merge is exact as long as the rank suffices and keeps count, mean and
    trace exactly always. With `"shared"` one scatter is
    kept, the sum of those of all classes around their own means.

    Statistics are only as good as the backbone they are valid for: `taken` holds its fingerprint for each task. Where the
    backbone moves, `transport` takes them along by a drift map; see `nacre.heads.Drift`.
    """

    covariance: Literal["low_rank", "full", "shared", "none"] = setting(
        "low_rank", "what is kept of the covariance: of each class, one for all, or nothing"
    )
    rank: int = setting(20, "leading directions kept per class by low_rank", low=1)
    precision: Literal["float64", "float32"] = setting("float64", "of what is kept; sums are taken in float64")
    count: Tensor = state(lambda: torch.zeros(0, dtype=torch.float64))  # (classes,)
    mean: Tensor | None = state(lambda: None)  # (classes, width)
    scatter: Tensor | None = state(lambda: None)  # full: (classes, width, width)
    factor: Tensor | None = state(lambda: None)  # low rank: (classes, rank, width)
    left: Tensor | None = state(lambda: None)  # low rank: (classes,) trace beyond the factor
    pooled: Tensor | None = state(lambda: None)  # shared: (width, width) scatter within all classes
    owner: list[int] = state(list)  # the task id of each class, -1 = not told, or several tasks have it
    taken: dict[str, str] = state(dict)  # task -> fingerprint of the backbone that its statistics are valid for
    moves: dict[str, int] = state(dict)  # task -> how often its statistics were transported, if they were

    def add(self, z: Tensor, y: Tensor, task_id: int | None = None) -> None:
        """Merge the features z (rows, width) of classes y (rows,) into what is known."""
        if not len(y):
            return
        z = z.double()
        if not bool(z.isfinite().all()):
            raise NonFinite(
                "features of which class statistics are taken are NaN or infinite: lower the learning rate of what moves the "
                "backbone, set clip, or look at the rows"
            )
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
            self.moves.pop(str(task.index), None)

    def transport(self, map: Map, model: nn.Module) -> None:
        """Take all statistics along to the present backbone: means mu -> map(mu), directions d -> d (I + K).

        So a covariance S becomes (I + K)' S (I + K), exactly for `"full"`, `"shared"` and the factor of `"low_rank"`. What a
        low rank leaves over gets the trace that the map gives it, and is spread evenly again, so along a chain of maps that
        stretch some directions and shrink others in turn it grows. A map that moves nothing leaves all bits.

        Args:
            map: Features before -> features after.
            model: The model with the present backbone, for which the statistics are valid from now on.
        """
        now = fingerprint(model)
        if self.mean is not None and not map.still:
            met = self.count > 0
            kind = self.mean.dtype
            self.mean[met] = map(self.mean[met].double()).to(kind)
            for name in ("scatter", "pooled"):
                if (held := getattr(self, name)) is not None:
                    turned = map.directions(map.directions(held.double()).transpose(-1, -2))
                    setattr(self, name, turned.to(kind))
            if self.factor is not None and self.left is not None:
                along = _spanned(self.factor.double())
                across = along.shape[2] - along.square().sum((1, 2))  # directions at right angles to those kept
                every = map.directions(torch.eye(along.shape[2]).to(along)).square().sum()
                stretch = every - map.directions(along).square().sum((1, 2))
                self.left = (self.left.double() * stretch / across.clamp_min(1.0)).to(kind)
                self.factor = map.directions(self.factor.double()).to(kind)
        self.moves |= {task: self.moves.get(task, 0) + 1 for task, then in self.taken.items() if then != now}
        self.taken = dict.fromkeys(self.taken, now)

    @property
    def bytes_per_class(self) -> float:
        """What is kept of a class in memory, on average."""
        held = (self.count, self.mean, self.scatter, self.factor, self.left)
        total = sum(t.numel() * t.element_size() for t in held if t is not None)
        return total / max(len(self.count), 1)

    def parts_of(self, c: int) -> tuple[Tensor, Tensor, float]:
        """Mean (width,), factor F (directions, width) and residual r of class c.

        Its scatter divided by its rows (not by one less) is F'F, plus r in each direction at right angles to those of F.
        """
        if self.mean is None or self.covariance in ("shared", "none"):
            raise BadSetting('no covariance of a class is kept: set covariance = "low_rank" or "full"')
        rows, mean = max(float(self.count[c]), 1.0), self.mean[c].double()
        if self.scatter is not None:
            return mean, factor_of(self.scatter[c].double() / rows), 0.0
        assert self.factor is not None and self.left is not None
        factor = self.factor[c].double()
        factor = factor[factor.any(1)]
        across = len(mean) - len(factor)
        return mean, factor / rows**0.5, float(self.left[c]) / (across * rows) if across else 0.0

    def within(self) -> Tensor:
        """The sum of the scatters of all classes around their own means, (width, width), float64."""
        if self.pooled is not None:
            return self.pooled.double()
        if self.mean is None or self.covariance == "none":
            raise BadSetting('no covariance is kept: set covariance = "low_rank", "full" or "shared"')
        if self.scatter is not None:
            return self.scatter.double().sum(0)
        found = torch.zeros(self.mean.shape[1], self.mean.shape[1]).to(self.count)
        for c in (self.count > 0).nonzero().flatten().tolist():
            found += self._scatter_of(c)
        return found

    def _scatter_of(self, c: int) -> Tensor:
        assert self.factor is not None and self.left is not None
        factor = self.factor[c].double()
        _, size, directions = torch.linalg.svd(factor[factor.any(1)], full_matrices=False)
        even = (self.left[c].double() / max(factor.shape[1] - len(directions), 1)).to(factor)
        found = (directions.T * (size.square() - even)) @ directions
        found.diagonal().add_(even)
        return found

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
        return (self.scatter[c] if self.scatter is not None else self._scatter_of(c)) / scale

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
        fresh, kind = z.mean(0), self.mean.dtype
        gap = fresh - self.mean[c].double()
        spread = torch.cat(
            [z - fresh, gap[None] * (n * m / (n + m)) ** 0.5]
        )  # spread' spread is what the scatter gains
        self.count[c] += m
        self.mean[c] = (self.mean[c].double() + gap * (m / (n + m))).to(kind)
        if self.pooled is not None:
            self.pooled += spread.T @ spread
        if self.scatter is not None:
            self.scatter[c] += spread.T @ spread
        elif self.factor is not None and self.left is not None:
            _, size, directions = torch.linalg.svd(torch.cat([self.factor[c].double(), spread]), full_matrices=False)
            kept = min(self.factor.shape[1], len(size))
            self.factor[c, :kept] = (size[:kept, None] * directions[:kept]).to(kind)
            self.left[c] += size[kept:].square().sum()

    def _widen(self, classes: int, like: Tensor) -> None:
        width = like.shape[1]
        if self.mean is None:
            self.count, like = self.count.to(like), like.to(getattr(torch, self.precision))
            self.mean = like.new_zeros(0, width)
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


def _spanned(factors: Tensor) -> Tensor:
    """An orthonormal basis of the directions of each factor, (classes, directions, width); rows of zeros where it has fewer."""
    _, size, turned = torch.linalg.svd(factors, full_matrices=False)
    least = size[:, :1] * max(factors.shape[1:]) * torch.finfo(size.dtype).eps
    return turned * (size > least)[..., None]
