"""How the answer is read out of features."""

from .features import features_of
from .lda import discriminant
from .linear import GrowingLinear, MultiHead
from .ridge import GRID, RandomFeatures, choose_ridge
from .statistics import ClassStatistics
from .warming import warm_rows

__all__ = [
    "GRID",
    "ClassStatistics",
    "GrowingLinear",
    "MultiHead",
    "RandomFeatures",
    "choose_ridge",
    "discriminant",
    "features_of",
    "warm_rows",
]
