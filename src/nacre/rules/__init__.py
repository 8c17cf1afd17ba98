"""How far weights move: rules around `optimizer.step()`, and averages of weights."""

from .average import Average
from .keep_norm import KeepNorm
from .quantise import Quantise, quantised

"""How far weights move: rules around `optimizer.step()`, and what they are made of."""

from .align import agreement, gate
from .anchor import Anchor
from .drop import Drop
from .moves import chosen, differences, finds, follow, kept_for, parts, room_for, scale_moves
from .project import Project, project_out
from .rest import Rest
from .scale import Scale
from .trust_radius import TrustRadius

__all__ = ["Average", "KeepNorm", "Quantise", "Rest", "quantised"]
__all__ = [
    "Anchor",
    "Drop",
    "Project",
    "Rest",
    "Scale",
    "TrustRadius",
    "agreement",
    "chosen",
    "differences",
    "finds",
    "follow",
    "gate",
    "kept_for",
    "parts",
    "project_out",
    "room_for",
    "scale_moves",
]
