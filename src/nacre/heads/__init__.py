"""How the answer is read out of features."""

from .alignment import Alignment, competing, head_of
from .draws import draws, draws_of_each, factor_of, gaussian_draws
from .drift import AnyDrift, CommonShift, Drift, Fitted, Kernel, Linear, LinearKernel
from .features import features_of
from .kernel_drift import kernel_shift
from .kinds import AnyReadout
from .lda import discriminant
from .linear import GrowingCosine, GrowingLinear, MultiHead
from .map import Map
from .random_ridge import RandomRidge
from .readout import Discriminant, Mahalanobis, NearestMean, Readout, Ridge
from .ridge import GRID, RandomFeatures, choose_ridge
from .statistics import ClassStatistics
from .warming import warm_rows

__all__ = [
    "GRID",
    "Alignment",
    "AnyDrift",
    "AnyReadout",
    "ClassStatistics",
    "CommonShift",
    "Discriminant",
    "Drift",
    "Fitted",
    "GrowingCosine",
    "GrowingLinear",
    "Kernel",
    "Linear",
    "LinearKernel",
    "Mahalanobis",
    "Map",
    "MultiHead",
    "NearestMean",
    "RandomFeatures",
    "RandomRidge",
    "Readout",
    "Ridge",
    "choose_ridge",
    "competing",
    "discriminant",
    "draws",
    "draws_of_each",
    "factor_of",
    "features_of",
    "gaussian_draws",
    "head_of",
    "kernel_shift",
    "warm_rows",
]
