"""How far weights move: rules around `optimizer.step()`."""

from .rest import Rest

__all__ = ["Rest"]
