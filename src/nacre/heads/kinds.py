"""Which heads are made of class statistics."""

from .random_ridge import RandomRidge
from .readout import Discriminant, Mahalanobis, NearestMean, Ridge

AnyReadout = NearestMean | Discriminant | Ridge | Mahalanobis | RandomRidge
"""A head made of class statistics, of any kind, as a setting."""
