"""How far weights move: rules around `optimizer.step()`, and averages of weights."""

from .average import Average
from .keep_norm import KeepNorm
from .quantise import Quantise, quantised
from .rest import Rest

__all__ = ["Average", "KeepNorm", "Quantise", "Rest", "quantised"]
