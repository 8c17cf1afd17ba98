"""Heads that are made of class statistics, and made anew wherever these are transported: one store, many heads.

Shapes: features (rows, width), scores (rows, classes).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import BadSetting
from ..core.state import Stateful, scratch, setting
from .lda import discriminant
from .statistics import ClassStatistics


@dataclass
class Readout(Stateful, ABC):
    """Scores features by what is known of the classes.

    Attributes:
        needs: What it needs of the statistics: `"mean"`, `"covariance"` of any kind, or that of each `"class"`.
    """

    needs: ClassVar[str] = "mean"

    def check(self, statistics: ClassStatistics) -> None:
        """See that the statistics keep what is needed.

        Raises:
            BadSetting: they do not.
        """
        lacking = {"covariance": ("none",), "class": ("none", "shared")}.get(self.needs, ())
        if statistics.covariance in lacking:
            what = "each class" if self.needs == "class" else "the classes"
            raise BadSetting(
                f"{type(self).__name__} needs the covariance of {what}, and the statistics keep covariance = "
                f'{statistics.covariance!r}: set "low_rank" or "full"'
            )

    def learn(
        self, past: ClassStatistics, z: Tensor, y: Tensor, classes: int, moved: bool, place: int, unit: bool
    ) -> None:
        """Hear of the present task's rows before they are merged into the statistics.

        Args:
            past: The statistics of the classes before, valid for the present backbone.
            z: Features of the rows.
            y: Their classes.
            classes: How many there are from now on.
            moved: Whether the backbone has moved since this was called last.
            place: Of dice.
            unit: Whether features are scaled to length 1.
        """

    @abstractmethod
    def scores(self, statistics: ClassStatistics, z: Tensor) -> Tensor:
        """Scores of features z; classes never met may score anything."""

    def forget(self) -> None:
        """The statistics are others from now on."""


@dataclass
class NearestMean(Readout):
    """The cosine with each class mean.

    >>> statistics = ClassStatistics(covariance="none")
    >>> statistics.add(torch.eye(2), torch.tensor([0, 1]))
    >>> NearestMean().scores(statistics, torch.tensor([[3.0, 4.0]])).tolist()
    [[0.6, 0.8]]
    """

    def scores(self, statistics: ClassStatistics, z: Tensor) -> Tensor:
        assert statistics.mean is not None
        return F.normalize(z.double(), dim=1) @ F.normalize(statistics.mean.double(), dim=1).T


@dataclass
class _Affine(Readout):
    """Scores z W + b, with W and b made once."""

    readout: tuple[Tensor, Tensor] | None = scratch()

    def forget(self) -> None:
        self.readout = None

    @abstractmethod
    def _made(self, statistics: ClassStatistics) -> tuple[Tensor, Tensor]:
        """W, (width, classes), and b, (classes,)."""

    def scores(self, statistics: ClassStatistics, z: Tensor) -> Tensor:
        if self.readout is None:
            self.readout = self._made(statistics)
        weight, bias = self.readout
        return z.double() @ weight + bias


@dataclass
class Discriminant(_Affine):
    """Linear discriminant analysis: one covariance for all classes, which is the mean of theirs; see `discriminant`.

    >>> Discriminant(shrinkage=0.1).shrinkage
    0.1
    """

    needs: ClassVar[str] = "covariance"

    shrinkage: float = setting(1e-2, "how far the covariance is drawn toward the identity (e)", low=1e-12, high=1.0)

    def _made(self, statistics: ClassStatistics) -> tuple[Tensor, Tensor]:
        return discriminant(statistics, self.shrinkage)


@dataclass
class Ridge(_Affine):
    """Ridge regression of one-hot labels on the features themselves, from second moments alone.

    W = (G + ridge I)^-1 Q with G = S + sum_c n_c mu_c mu_c', S the scatter within all classes, and Q = n_c mu_c: what sums
    over all rows give, as far as the rank of the statistics reaches.

    >>> Ridge(ridge=0.1).ridge
    0.1
    """

    needs: ClassVar[str] = "covariance"

    ridge: float = setting(1.0, "the ridge", low=0.0)

    def _made(self, statistics: ClassStatistics) -> tuple[Tensor, Tensor]:
        within = statistics.within()
        assert statistics.mean is not None
        mean, count = statistics.mean.double(), statistics.count
        gram = within + (mean.T * count) @ mean
        gram.diagonal().add_(self.ridge)
        factor, failed = torch.linalg.cholesky_ex(gram)
        if bool(failed):
            raise BadSetting(
                f"ridge regression cannot be solved with ridge = {self.ridge:g}: there are fewer rows than features; use a "
                "larger ridge"
            )
        return torch.cholesky_solve(mean.T * count, factor), torch.zeros(len(count)).to(mean)


@dataclass
class Mahalanobis(Readout):
    """Minus the squared Mahalanobis distance to each class mean, under the class's own covariance.

    To the covariance shrinkage v_c I is added, v_c its mean variance, and it is scaled to a mean variance of 1, so that classes
    of different spread compete alike. It is inverted along the directions that are kept, never as a matrix.

    Paper: FeCAM: Exploiting the Heterogeneity of Class Distributions in Exemplar-Free Continual Learning (arXiv 2309.14062),
    which also shrinks toward equal off-diagonal entries, scales to correlations and bends features (Tukey).

    >>> Mahalanobis(shrinkage=2.0).shrinkage
    2.0
    """

    needs: ClassVar[str] = "class"

    shrinkage: float = setting(1.0, "added to the variance of every direction, in mean variances", low=1e-9)
    readout: list[tuple[Tensor, Tensor, Tensor, float] | None] = scratch(list)

    def forget(self) -> None:
        self.readout = []

    def scores(self, statistics: ClassStatistics, z: Tensor) -> Tensor:
        if not self.readout:
            self.readout = [self._inverse(statistics, c) for c in range(len(statistics.count))]
        z, found = z.double(), []
        for made in self.readout:
            if made is None:
                found.append(z.new_full((len(z),), float("-inf")))
                continue
            mean, directions, spared, flat = made
            far = z - mean
            found.append((far @ directions).square() @ spared - flat * far.square().sum(1))
        return torch.stack(found, 1)

    def _inverse(self, statistics: ClassStatistics, c: int) -> tuple[Tensor, Tensor, Tensor, float] | None:
        """Mean, directions V, and w and a with the inverse covariance a I - V' diag(w) V; None for a class never met."""
        if not statistics.count[c]:
            return None
        mean, factor, residual = statistics.parts_of(c)
        _, size, directions = torch.linalg.svd(factor, full_matrices=False)
        variance = float(size.square().sum() + residual * (len(mean) - len(size))) / len(mean) or 1.0
        unit = (1 + self.shrinkage) * variance  # the mean variance after shrinking
        flat = unit / (residual + self.shrinkage * variance)
        return mean, directions.T, flat - unit / (size.square() + self.shrinkage * variance), flat
