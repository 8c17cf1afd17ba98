"""How far weights move: rules around `optimizer.step()`."""

from .keep_norm import KeepNorm
from .rest import Rest

__all__ = ["KeepNorm", "Rest"]
