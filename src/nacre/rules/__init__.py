"""How far weights move: rules around `optimizer.step()`, and the shares of a way or a move that groups of weights take."""

from .levels import Level, group_sums
from .rest import Rest
from .retention import along, far_from, go_back, lowest, parabola, part_way

__all__ = ["Level", "Rest", "along", "far_from", "go_back", "group_sums", "lowest", "parabola", "part_way"]
