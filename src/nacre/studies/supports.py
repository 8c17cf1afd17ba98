"""Two linear tasks that see different coordinates: what the second does to what both see, in closed form and simulated.

Shapes: weights and targets (width,).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.dice import dice


@dataclass(frozen=True)
class Supports:
    """Two tasks that see different coordinates: the first the first `one`, the second the last `two` of all `width`.

    What both see is O. Given the weights w_1 after the first task, the second starts at alpha w_1 on what it sees.

    Attributes:
        width: The number of weights.
        one: How many the first task sees.
        two: How many the second sees.
        rows: Rows of the second task.
    """

    width: int = 180
    one: int = 120
    two: int = 120
    rows: int = 20

    @property
    def both(self) -> slice:
        """O."""
        return slice(self.width - self.two, self.one)

    @property
    def seen(self) -> slice:
        """What the second task sees."""
        return slice(self.width - self.two, self.width)

    def moments(self) -> tuple[float, float, float]:
        """r, B and k_1: the first two moments of a random projection onto `rows` dimensions of `two`."""
        n, p = self.rows, self.two
        b = n * (p - n) / (p * (p - 1) * (p + 2))
        return 1 - n / p, b, 1 - 2 * n / p + n * n / p**2 - 2 * b / p + b

    def drift(self, alpha: float, first: Tensor, old: Tensor, new: Tensor) -> float:
        """The expected squared distance on O between the weights after the second task and the first task's target.

        Args:
            alpha: What is retained.
            first: w_1, (width,).
            old: w*_1.
            new: w*_2.
        """
        r, b, k1 = self.moments()
        size = self.one + self.two - self.width
        d, v = (new - old)[self.both], (alpha * first - new)[self.seen]
        inside = v[:size]
        return float(d @ d + 2 * r * (d @ inside) + k1 * (inside @ inside) + b * size * (v @ v))

    def best(self, first: Tensor, old: Tensor, new: Tensor) -> float:
        """The alpha at which the drift is least."""
        r, b, k1 = self.moments()
        k = k1 + b * (self.one + self.two - self.width)
        w, o, n = first[self.both], old[self.both], new[self.both]
        return float((r * (o @ w) - (r - k) * (n @ w)) / (k * (w @ w)))

    def simulated(self, alpha: float, first: Tensor, old: Tensor, new: Tensor, repeats: int, seed: int = 0) -> Tensor:
        """The squared distance on O of many second tasks, (repeats,)."""
        x = torch.randn(repeats, self.two, self.rows, generator=dice(seed, "supports"), dtype=torch.float64)
        v = alpha * first[self.seen]
        missing = torch.einsum("kpn,p->kn", x, new[self.seen] - v)
        w = v + torch.einsum("kpn,kn->kp", x, torch.linalg.solve(x.mT @ x, missing))
        return (w[:, : self.one + self.two - self.width] - old[self.both]).square().sum(1)
