"""Ridge regression on random features of all rows seen, kept as sums; and how the sums are made anew from class statistics.

Shapes: features z (rows, width of z), projected h (rows, M), one-hot targets Y (rows, classes).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cache
from math import inf, isfinite
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core import ranks
from ..core.dice import dice
from ..core.errors import BadSetting
from ..core.model import exact
from ..core.state import scratch, setting, state
from .draws import draws, draws_of_each
from .readout import Readout
from .ridge import GRID, RandomFeatures, choose_ridge
from .statistics import ClassStatistics

logger = logging.getLogger(__name__)
BLOCK = 4096  # rows whose projected features are held at once
FEW = 10  # rows of a task, below which none are held out to choose a ridge by


@dataclass
class RandomRidge(Readout):
    """Scores h W with h = relu(z R), R ~ N(0, 1) of shape (width of z, M), W = (G + ridge I)^-1 Q, G = H'H, Q = H'Y.

    G and Q are sums over rows, so they do not depend on how rows were cut into tasks. W is solved once a task, when it is first
    needed, and never saved. `rebuild` makes the sums anew from class statistics, for a backbone that has moved: of each class
    `draws` points stand for its rows, with exactly the class's mean and covariance as far as these are known (`draws_of_each`).
    40 do as well as 400 where it was measured.

    With `ridge = "task"` the ridge is the one of 1e-8 ... 1e8 with the least squared error on a random fifth of the present
    task's rows (of 4 M of them at most), fitted on the others. That is the published rule; of a few hundred rows it may take
    1e-8, and all earlier classes answer with it. With `ridge = "seen"` a fifth of them (M at most; of ten rows or more)
    is answered by what all rows seen so far give without it, among all classes, and the ridge is sought from the one before, a
    half decade at a time, as long as the error falls: a Cholesky factorisation each.

    Paper: RanPAC: Random Projections and Pre-trained Models for Continual Learning (arXiv 2307.02251).

    >>> head = RandomRidge(width=64, ridge=1.0)
    >>> head.add(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]), 2)
    >>> head.scores(ClassStatistics(), torch.tensor([[0.9, 0.1]])).argmax().item()
    0
    """

    needs: ClassVar[str] = "class"

    width: int = setting(2000, "random features (M); the paper has 10000", low=1)
    ridge: float | Literal["task", "seen"] = setting(
        "task", "the ridge, or on what it is chosen: the present task's rows alone, or all that was seen", low=0.0
    )
    draws: int = setting(40, "points drawn of each class where sums are made anew", low=2)
    precision: Literal["float64", "float32"] = setting("float64", "of the sums G and Q and of the solution")
    seed: int = setting(0, "seeds R, the rows held out and the points drawn")
    gram: Tensor | None = state(lambda: None)  # G, (M, M)
    cross: Tensor | None = state(lambda: None)  # Q, (M, classes)
    chosen: float = state(lambda: 1.0)  # the ridge in use where it is chosen
    lift: RandomFeatures | None = scratch()
    readout: Tensor | None = scratch()  # W, (M, classes)

    def add(self, z: Tensor, y: Tensor, classes: int, weight: Tensor | None = None) -> None:
        """G += H'H, Q += H'Y over rows z (rows, width) of classes y (rows,).

        The first rank goes on from the sums so far, the others from zero, and all are summed.

        Args:
            z: Features.
            y: Their classes.
            classes: How many classes there are.
            weight: How often rows of each class count, (classes,), whose products are then taken in the precision of z.
        """
        kind = {"dtype": getattr(torch, self.precision), "device": z.device}
        if self.gram is None or self.cross is None:
            self.gram = torch.zeros(self.width, self.width, **kind)
            self.cross = torch.zeros(self.width, 0, **kind)
        self.cross = F.pad(self.cross, (0, classes - self.cross.shape[1]))
        if not ranks.first():
            self.gram, self.cross = torch.zeros_like(self.gram), torch.zeros_like(self.cross)
        for low in ranks.share_of(torch.arange(0, len(y), BLOCK)).tolist():
            labels = y[low : low + BLOCK].to(z.device)
            h = self.project(z[low : low + BLOCK])
            with exact(h.device):
                if weight is None:
                    self.gram += h.T @ h
                    self.cross += h.T @ F.one_hot(labels, classes).to(h)
                else:
                    h = h.to(z.dtype) * weight.to(z)[labels, None].sqrt()
                    self.gram += h.T @ h
                    self.cross += h.T @ (F.one_hot(labels, classes).to(h) * weight.to(h).sqrt())
        ranks.total([self.gram, self.cross])
        self.readout = None

    def rebuild(self, statistics: ClassStatistics, place: int, unit: bool = False) -> None:
        """Make the sums anew from what is known of the classes.

        Args:
            statistics: With a covariance of each class.
            place: Of the dice that draw.
            unit: Whether points are scaled to length 1, as features are.
        """
        self.gram = self.cross = self.readout = None
        met = (statistics.count > 0).nonzero().flatten()
        if len(met):
            z = self._points(statistics, met, place)
            z = (F.normalize(z, dim=1) if unit else z).float()  # whose sums need no more
            self.add(z, met.repeat_interleave(self.draws), len(statistics.count), statistics.count / self.draws)

    def project(self, z: Tensor) -> Tensor:
        """h, (rows, M), in the precision of the sums."""
        if self.lift is None:
            self.lift = RandomFeatures(self.width, self.seed)
        with exact(z.device):
            return self.lift(z if z.dtype == torch.float64 else z.float()).to(getattr(torch, self.precision))

    def learn(
        self, past: ClassStatistics, z: Tensor, y: Tensor, classes: int, moved: bool, place: int, unit: bool
    ) -> None:
        """Make the sums anew if the backbone has moved, choose the ridge, and add the present rows exactly."""
        if moved:
            self.rebuild(past, place, unit)
        self.choose(z, y, place, classes)
        self.add(z, y, classes)

    def scores(self, statistics: ClassStatistics, z: Tensor) -> Tensor:
        h = self.project(z)
        with exact(h.device):
            if self.readout is None:
                self.readout = self._solve()
            return h @ self.readout

    def choose(self, z: Tensor, y: Tensor, place: int, classes: int) -> None:
        """Choose the ridge, where it is to be chosen, before the rows are added.

        Args:
            z: Features of the present task's rows.
            y: Their classes.
            place: Of the dice that hold rows out.
            classes: How many classes there are.
        """
        if not isinstance(self.ridge, str):
            return
        hold = dice(self.seed, place, "ridge")
        if self.ridge == "task":
            keep = torch.randperm(len(y), generator=dice(self.seed, place, "ridge rows"))[: 4 * self.width].to(y.device)
            targets = F.one_hot(y[keep].unique(return_inverse=True)[1]).double()
            found = choose_ridge(self.project(z[keep]).double(), targets, 0.2, hold)
            self.chosen = found if found is not None else self.chosen
        elif len(y) >= FEW:
            held = min(round(0.2 * len(y)), self.width)
            out = torch.randperm(len(y), generator=hold)[:held].to(y.device)
            kept = torch.ones(len(y), dtype=torch.bool, device=y.device).index_fill_(0, out, False)
            without = RandomRidge(self.width, 1.0, precision=self.precision, seed=self.seed)
            if self.gram is not None and self.cross is not None:
                without.gram, without.cross = self.gram.clone(), self.cross.clone()
            without.add(z[kept], y[kept], classes)
            self.chosen = without._sought(self.project(z[out]), F.one_hot(y[out], classes), self.chosen)

    def _sought(self, h: Tensor, targets: Tensor, start: float) -> float:
        """The ridge with the least squared error on rows, going from one in the direction in which it falls.

        Where it cannot be solved with, the way goes up first; where with none, the ridge stays.
        """

        def at(step: int) -> float:
            return min(max(start * 10 ** (step / 2), GRID[0]), GRID[-1])

        @cache
        def error(step: int) -> float:
            self.ridge = at(step)
            try:
                with exact(h.device):
                    found = (h @ self._solve() - targets).square().mean().item()
            except BadSetting:
                return inf
            return found if isfinite(found) else inf

        best = 0
        while error(best) == inf and at(best) < GRID[-1]:
            best += 1
        way = next((way for way in (1, -1) if error(best + way) < error(best)), 0)
        while way and error(best + way) < error(best):
            best += way
        return at(best) if error(best) < inf else start

    def _points(self, statistics: ClassStatistics, met: Tensor, place: int) -> Tensor:
        """Points of each of these classes, one class after the other, (classes * draws, width of z)."""
        generator = dice(self.seed, place, "draws")
        if statistics.factor is None or statistics.left is None or statistics.mean is None:
            parts = [statistics.parts_of(c) for c in met.tolist()]
            z = torch.cat([draws(mean, factor, self.draws, generator, left) for mean, factor, left in parts])
        else:
            rows, there = statistics.count[met], met.to(statistics.mean.device)
            factor = statistics.factor[there].double() / rows.sqrt()[:, None, None]
            largest = factor.gather(2, factor.abs().argmax(2, keepdim=True))
            factor = torch.where(largest < 0, -factor, factor)  # of a direction and its opposite always the same one
            left = statistics.left[there].double() / rows
            z = draws_of_each(statistics.mean[there].double(), factor, self.draws, generator, left).flatten(0, 1)
        return z

    def _solve(self) -> Tensor:
        assert self.gram is not None and self.cross is not None
        ridge = self.chosen if isinstance(self.ridge, str) else self.ridge
        while True:
            ridged = self.gram.clone()
            ridged.diagonal().add_(ridge)
            factor, failed = torch.linalg.cholesky_ex(ridged)
            if not bool(failed):
                return torch.cholesky_solve(self.cross, factor)
            if not isinstance(self.ridge, str) or ridge >= GRID[-1]:
                raise BadSetting(
                    f"ridge regression on random features cannot be solved with ridge = {ridge:g} in {self.precision}: "
                    'they are linearly dependent; use a larger ridge, or precision = "float64"'
                )
            ridge *= 10  # what was chosen in float64 may be too small for sums in float32
            logger.warning("the ridge was raised to %g, at which %s can solve the regression", ridge, self.precision)
