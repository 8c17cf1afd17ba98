"""How far weights move: rules around `optimizer.step()`, what they are made of, and averages of weights."""

from .align import agreement, gate
from .anchor import Anchor
from .average import Average
from .drop import Drop
from .keep_norm import KeepNorm
from .levels import Level, group_sums
from .moves import chosen, differences, finds, follow, kept_for, parts, room_for, scale_moves
from .project import Project, project_out
from .quantise import Quantise, quantised
from .rest import Rest
from .retention import along, far_from, go_back, lowest, parabola, part_way
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
    "along",
    "chosen",
    "differences",
    "far_from",
    "finds",
    "follow",
    "gate",
    "go_back",
    "group_sums",
    "kept_for",
    "lowest",
    "parabola",
    "part_way",
    "parts",
    "project_out",
    "quantised",
    "room_for",
    "scale_moves",
]
