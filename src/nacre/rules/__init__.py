"""How far weights move: rules around `optimizer.step()`."""

from .keep_norm import KeepNorm
from .quantise import Quantise, quantised
from .rest import Rest

__all__ = ["KeepNorm", "Quantise", "Rest", "quantised"]
