"""Which weights matter: per-entry scores and choices by them."""

from .fisher import fisher
from .select import top_share

__all__ = ["fisher", "top_share"]
