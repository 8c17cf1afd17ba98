"""Which weights matter: per-entry scores and choices by them."""

from .fisher import fisher
from .path import PathIntegral, summed
from .select import top_share
from .sensitivity import sensitivity
from .squares import squared_gradients

__all__ = ["PathIntegral", "fisher", "sensitivity", "squared_gradients", "summed", "top_share"]
