"""Drift maps: how features that an older backbone gave would look through the present one.

A map is fitted on rows that were seen through both, and is then applied to class statistics whose rows are gone. Fitting is
closed-form; nothing here is drawn.

Shapes: features before and after (rows, width), labels (rows,), -1 = a row of no class (an anchor).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import BadUse
from ..core.state import Stateful, setting
from .kernel_drift import averaged
from .map import Map

SHRINKAGES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
"""The ridges that `Linear` tries, in units of the mean squared length of the features."""
STRONG = 30.0
"""The least of them where there are few rows: near a shift that all features have in common."""
WIDTHS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.8, 1.3)
"""The kernel widths that are tried, in units of the root of that mean."""
FOLDS = 5


@dataclass(frozen=True)
class Fitted:
    """A map, and how well it is known to fit.

    Attributes:
        map: The map.
        told: `rows` it was fitted on; `cosine`, the mean cosine between a row's features before and after; `explained`, the
            share of the squared drift of rows of classes that were left out of the fit which it takes away, and `r2`, the same
            of the drift around its mean (NaN with fewer than two classes); and what was chosen (`ridge`, `width`).
    """

    map: Map
    told: dict[str, float] = field(default_factory=dict)


@dataclass
class Drift(Stateful, ABC):
    """Fits a map from features before to features after."""

    @abstractmethod
    def fit(self, before: Tensor, after: Tensor, y: Tensor) -> Fitted:
        """The map, fitted in float64.

        Args:
            before: Features of some rows through the older backbone, (rows, width).
            after: Those of the same rows, in the same order, through the present one.
            y: Their classes, (rows,); -1 for rows of none. They only say which rows are left out together where a setting is
                chosen.

        Raises:
            BadUse: the shapes do not fit each other, or there are no rows.
        """


@dataclass
class CommonShift(Drift):
    """One shift for all features: z -> z + mean of (after - before). Exact from one row if that is what happened.

    >>> before, after = torch.zeros(3, 2), torch.ones(3, 2)
    >>> CommonShift().fit(before, after, torch.tensor([0, 0, 1])).map(torch.tensor([[1.0, 2.0]])).tolist()
    [[2.0, 3.0]]
    """

    def fit(self, before: Tensor, after: Tensor, y: Tensor) -> Fitted:
        x, d = _checked(before, after, y)
        made = Map(d.mean(0), x.mean(0))
        return Fitted(made, _told(x, d, y, lambda fit, out: d[fit].mean(0).expand_as(d[out])))


@dataclass
class Kernel(Drift):
    """A shift of its own for each class mean: the Gaussian average of the drift of rows near it.

    mu -> mu + sum_i w_i (after_i - before_i), w_i = exp(-|before_i - mu|^2 / 2 s^2) + 1e-5, scaled to sum to 1. Covariances
    stay as they are.

    Paper: Semantically-Shifted Incremental Adapter-Tuning (SSIAT, arXiv 2403.19979); Semantic Drift Compensation (arXiv
    2004.00440). There s is a constant and rows before and after are different views; here they are the same rows.

    >>> Kernel(width=0.3).width
    0.3
    """

    width: float | Literal["classes"] = setting(
        "classes", "width of the kernel (s), or chosen on classes that are left out", low=0.0
    )

    def fit(self, before: Tensor, after: Tensor, y: Tensor) -> Fitted:
        x, d = _checked(before, after, y)
        width = _width(self.width, x, d, y)
        made = Map(torch.zeros_like(x[0]), x.mean(0), None, x, d, width)
        told = _told(x, d, y, lambda fit, out: averaged(x[out], x[fit], d[fit], width))
        return Fitted(made, {**told, "width": width})


@dataclass
class Linear(Drift):
    """One linear map for all features, by ridge regression of the drift: z -> z + d + (z - m) K.

    K = (X'X + r I)^-1 X'D with X the features before around their mean m, D the drift around its mean d. With much shrinkage
    it is the common shift, with none least squares. The ridge r is `ridge` times the mean squared length of the features; with
    "classes" it is the one of 0.003 ... 300 under which rows of classes that were left out are mapped best (five folds; rows
    are left out where there is only one class), and with fewer than `few` rows one of at least 30.

    Paper: Exemplar-free Continual Representation Learning via Learnable Drift Compensation (arXiv 2407.08536), which learns the
    map by gradient descent.

    >>> before = torch.randn(40, 3, generator=torch.Generator().manual_seed(0)).double()
    >>> after = before @ torch.tensor([[0.0, 1.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).double() + 5.0
    >>> fitted = Linear(ridge=0.0).fit(before, after, torch.zeros(40))
    >>> bool((fitted.map(before) - after).abs().max() < 1e-12)
    True
    """

    ridge: float | Literal["classes"] = setting(
        "classes", "the shrinkage, or chosen on classes that are left out", low=0.0
    )
    few: int = setting(50, "with fewer rows than this the choice is among strong shrinkages only", low=0)

    def fit(self, before: Tensor, after: Tensor, y: Tensor) -> Fitted:
        x, d = _checked(before, after, y)
        unit = float(x.square().sum(1).mean())
        ridge, folds = self.ridge, list(_folds(y))
        parts = [(out, _Ridge(x[fit], d[fit])) for fit, out in folds]
        if isinstance(ridge, str):
            tried = [r for r in SHRINKAGES if r >= STRONG] if len(x) < self.few else list(SHRINKAGES)
            ridge = _best(tried, parts, x, d, unit)
        whole, left_out = _Ridge(x, d), iter(parts)
        told = _told(x, d, y, lambda fit, out: next(left_out)[1](x[out], ridge * unit))
        return Fitted(Map(whole.shift, whole.centre, whole.turn(ridge * unit)), {**told, "ridge": ridge})


@dataclass
class LinearKernel(Drift):
    """The linear map, and around each point the Gaussian average of what it leaves over.

    >>> LinearKernel(linear=Linear(ridge=1.0)).linear.ridge
    1.0
    """

    linear: Linear = setting(Linear, "the linear map")
    width: float | Literal["classes"] = setting(
        "classes", "width of the kernel, or chosen on classes that are left out", low=0.0
    )

    def fit(self, before: Tensor, after: Tensor, y: Tensor) -> Fitted:
        x, d = _checked(before, after, y)
        fitted = self.linear.fit(before, after, y)
        made, ridge = fitted.map, fitted.told["ridge"] * float(x.square().sum(1).mean())
        left = x + d - made(x)
        width = _width(self.width, x, left, y)

        def mapped(fit: Tensor, out: Tensor) -> Tensor:
            part = _Ridge(x[fit], d[fit])
            return part(x[out], ridge) + averaged(x[out], x[fit], d[fit] - part(x[fit], ridge), width)

        both = Map(made.shift, made.centre, made.turn, x, left, width)
        return Fitted(both, {**_told(x, d, y, mapped), "ridge": fitted.told["ridge"], "width": width})


AnyDrift = CommonShift | Kernel | Linear | LinearKernel
"""A drift map of any kind, as a setting."""


class _Ridge:
    """Ridge regression of a drift for any ridge, from one eigendecomposition: of X X' where rows are few, else of X' X."""

    def __init__(self, x: Tensor, d: Tensor):
        self.centre, self.shift = x.mean(0), d.mean(0)
        x, d = x - self.centre, d - self.shift
        if len(x) <= x.shape[1]:
            self.size, basis = torch.linalg.eigh(x @ x.T)
            self.basis, self.right = x.T @ basis, basis.T @ d
        else:
            self.size, self.basis = torch.linalg.eigh(x.T @ x)
            self.right = self.basis.T @ (x.T @ d)

    def turn(self, ridge: float) -> Tensor:
        """K, (width, width)."""
        return self.basis @ (self._scale(ridge)[:, None] * self.right)

    def __call__(self, z: Tensor, ridge: float) -> Tensor:
        """The drift of features z, (rows, width)."""
        return self.shift + ((z - self.centre) @ self.basis * self._scale(ridge)) @ self.right

    def _scale(self, ridge: float) -> Tensor:
        size = self.size.clamp_min(0)
        least = float(size.max()) * len(size) * torch.finfo(size.dtype).eps  # directions that no row has
        return torch.where(size > least, 1 / (size + ridge).clamp_min(least or 1.0), 0.0)


def _checked(before: Tensor, after: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Features before and their drift, in float64."""
    if before.shape != after.shape or len(before) != len(y) or before.ndim != 2 or not len(y):
        raise BadUse(
            f"a drift map is fitted on the same rows before and after, not on {tuple(before.shape)} and {tuple(after.shape)} "
            f"with {len(y)} labels: take features of one set of rows in one order, at least one of them"
        )
    before = before.double()
    return before, after.double() - before


def _folds(y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Which rows are fitted and which are left out, in turns: whole classes, or rows where there is one class only."""
    classes = y[y >= 0].unique()
    if len(classes) > 1:
        group = torch.where(y >= 0, torch.searchsorted(classes, y.clamp_min(int(classes[0]))), -1)
    elif len(y) > 1:
        group = torch.arange(len(y), device=y.device)
    else:
        return
    group = torch.where(group >= 0, group % FOLDS, -1)
    for k in range(min(FOLDS, int(group.max()) + 1)):
        yield (group != k).nonzero().flatten(), (group == k).nonzero().flatten()


def _best(tried: Sequence[float], parts: Sequence[tuple[Tensor, _Ridge]], x: Tensor, d: Tensor, unit: float) -> float:
    """The ridge that maps what was left out best; the strongest where nothing could be left out."""
    if not parts:
        return tried[-1]
    errors = [sum(float((part(x[out], r * unit) - d[out]).square().sum()) for out, part in parts) for r in tried]
    return tried[min(range(len(tried)), key=errors.__getitem__)]


def _width(asked: float | str, x: Tensor, d: Tensor, y: Tensor) -> float:
    """The width of a kernel: as asked, or the one that maps what was left out best."""
    unit = float(x.square().sum(1).mean()) ** 0.5
    if not isinstance(asked, str):
        return max(float(asked), 1e-12)
    folds = list(_folds(y))
    if not folds or not unit:
        return WIDTHS[-1] * (unit or 1.0)
    errors = []
    for width in WIDTHS:
        far = (averaged(x[out], x[fit], d[fit], width * unit) - d[out] for fit, out in folds)
        errors.append(sum(float(f.square().sum()) for f in far))
    return WIDTHS[min(range(len(WIDTHS)), key=errors.__getitem__)] * unit


def _told(x: Tensor, d: Tensor, y: Tensor, mapped: Callable[[Tensor, Tensor], Tensor]) -> dict[str, float]:
    """How far rows drifted, and how much of it a map takes away that is fitted without their classes."""
    told = {"rows": float(len(x)), "cosine": float(F.cosine_similarity(x, x + d, dim=1).mean())}
    error = drift = around = 0.0
    folds = list(_folds(y)) if len(y[y >= 0].unique()) > 1 else []
    for fit, out in folds:
        error += float((d[out] - mapped(fit, out)).square().sum())
        drift += float(d[out].square().sum())
        around += float((d[out] - d[fit].mean(0)).square().sum())
    nan = float("nan")
    return {**told, "explained": 1 - error / drift if drift else nan, "r2": 1 - error / around if around else nan}
