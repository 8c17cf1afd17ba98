"""Which weights matter: per-entry scores and choices by them."""

from .fisher import batched_fisher, fisher
from .modules import module_sensitivity, most_sensitive
from .path import PathIntegral, summed
from .scores import first_order, magnitude, random_scores
from .select import named, top_share, top_share_of_all, weights_of
from .sensitivity import sensitivity
from .slope import mean_slope
from .squares import squared_gradients
from .turning import turned_least

__all__ = [
    "PathIntegral",
    "batched_fisher",
    "first_order",
    "fisher",
    "magnitude",
    "mean_slope",
    "module_sensitivity",
    "most_sensitive",
    "named",
    "random_scores",
    "sensitivity",
    "squared_gradients",
    "summed",
    "top_share",
    "top_share_of_all",
    "turned_least",
    "weights_of",
]
