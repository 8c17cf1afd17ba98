"""How the answer is read out of features."""

from .alignment import Alignment, competing, head_of
from .draws import draws, factor_of, gaussian_draws
from .features import features_of
from .kernel_drift import kernel_shift
from .lda import discriminant
from .linear import GrowingLinear, MultiHead
from .ridge import GRID, RandomFeatures, choose_ridge
from .statistics import ClassStatistics

__all__ = [
    "GRID",
    "Alignment",
    "ClassStatistics",
    "GrowingLinear",
    "MultiHead",
    "RandomFeatures",
    "choose_ridge",
    "competing",
    "discriminant",
    "draws",
    "factor_of",
    "features_of",
    "gaussian_draws",
    "head_of",
    "kernel_shift",
]
