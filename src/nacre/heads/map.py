"""A map of features, as it is applied to class statistics.

Shapes: features (rows, width).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from .kernel_drift import averaged


@dataclass(frozen=True)
class Map:
    """z -> z + shift + (z - centre) K + kernel average of what is left over.

    Attributes:
        shift: What is added to the centre, (width,).
        centre: The mean feature before, (width,).
        turn: K, (width, width); None = 0.
        points: Features before, (rows, width), around which `moves` are averaged; None = no kernel.
        moves: What is added at each of them, (rows, width).
        width: Of the Gaussian kernel.
    """

    shift: Tensor
    centre: Tensor
    turn: Tensor | None = None
    points: Tensor | None = None
    moves: Tensor | None = None
    width: float = 1.0

    @property
    def still(self) -> bool:
        """Whether it moves nothing, bit for bit."""
        parts = (self.shift, self.turn, self.moves)
        return not any(bool(t.any()) for t in parts if t is not None)

    def __call__(self, z: Tensor) -> Tensor:
        """Features z, (rows, width), as the present backbone would give them."""
        if self.still:
            return z
        moved = z + self.shift
        if self.turn is not None:
            moved = moved + (z - self.centre) @ self.turn
        if self.points is not None and self.moves is not None:
            moved = moved + averaged(z, self.points, self.moves, self.width)
        return moved

    def directions(self, d: Tensor) -> Tensor:
        """Differences of features, (..., width), as they would be: d (I + K). A kernel shifts a class as a whole."""
        return d if self.turn is None or not bool(self.turn.any()) else d + d @ self.turn
