"""How far weights move: rules around `optimizer.step()`, averages of weights, and how far directions agree.

What rules and methods are made of inside lies in `moves`, `levels`, `gates` and `retention`.
"""

from .align import agreement, gate
from .anchor import Anchor
from .average import Average
from .drop import Drop
from .keep_norm import KeepNorm
from .levels import Level, unit_of
from .project import Project, project_out
from .quantise import Quantise, quantised
from .rest import Rest
from .scale import Scale
from .trust_radius import TrustRadius

__all__ = [
    "Anchor",
    "Average",
    "Drop",
    "KeepNorm",
    "Level",
    "Project",
    "Quantise",
    "Rest",
    "Scale",
    "TrustRadius",
    "agreement",
    "gate",
    "project_out",
    "quantised",
    "unit_of",
]
