"""Linear tasks that are learned one after the other by the smallest fitting update: closed forms, and a simulation.

Task t has n rows X_t, (p, n) standard normal, and answers X_t' w*_t + noise. From a start v the smallest update that fits is
w_t = v + X (X'X)^-1 (y - X'v), with v = alpha w_{t-1}: alpha = 0 is initialised training, alpha = 1 goes on from the task
before (the theory's "frozen" training: the least motion that fits). The risk on task i is |w - w*_i|^2.

Shapes: weights (repeats, p), targets (tasks, p).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import sqrt

import torch
from torch import Tensor

from ..core.dice import dice
from ..core.errors import BadSetting

Retain = Callable[[int, Tensor, Tensor], Tensor | float]
"""Alpha of a task from its number, the weights before it, and all targets; broadcasts to the weights."""


@dataclass(frozen=True)
class LinearTasks:
    """Tasks whose targets have one norm and one distance from each other.

    Attributes:
        width: p, the number of weights.
        rows: n, the rows of a task; fewer than p - 1.
        tasks: T.
        far: d^2, the squared distance between the targets of any two tasks.
        norm: N, the squared norm of each.
        noise: sigma, the standard deviation of the noise in the answers.

    Raises:
        BadSetting: there are no such tasks.

    >>> round(LinearTasks(far=1.0).initialised()[0], 3)
    0.1
    """

    width: int = 200
    rows: int = 20
    tasks: int = 10
    far: float = 1.0
    norm: float = 1.0
    noise: float = 0.0

    def __post_init__(self) -> None:
        most = 2 * self.norm * self.tasks / max(self.tasks - 1, 1)
        if not 1 <= self.rows < self.width - 1 or self.tasks < 2 or self.width < self.tasks:
            raise BadSetting(
                f"{self.tasks} tasks of {self.rows} rows with {self.width} weights: take two tasks or more, no more than there "
                "are weights, with fewer rows than weights less one"
            )
        if not 0 <= self.far <= most:
            raise BadSetting(
                f"targets of squared norm {self.norm} are at most {most:.4g} apart, squared, not {self.far}"
            )

    @property
    def left(self) -> float:
        """The share of the weight space that a task does not see: r = 1 - n / p."""
        return 1 - self.rows / self.width

    @property
    def extra(self) -> float:
        """The risk that noise adds in one task: nu = n sigma^2 / (p - n - 1)."""
        return self.rows * self.noise**2 / (self.width - self.rows - 1)

    def initialised(self) -> tuple[float, float]:
        """Expected forgetting and mean risk after the last task if each begins at 0."""
        r, d, t = self.left, self.far, self.tasks
        return (1 - r) * d, r * self.norm + (1 - r) * d * (t - 1) / t + self.extra

    def frozen(self) -> tuple[float, float]:
        """The same if each begins where the one before ended."""
        r, d, t, nu = self.left, self.far, self.tasks, self.extra

        def of(i: int) -> float:
            drift = d * (1 - r**t - (1 - r) * r ** (t - i) - r + r**i)
            return self.norm * (r**t - r**i) + drift + nu * (r**i - r**t) / (1 - r)

        forgotten = sum(of(i) for i in range(1, t)) / (t - 1)
        return forgotten, self.norm * r**t + d * (1 - r**t) * (t - 1) / t + nu * (1 - r**t) / (1 - r)

    def targets(self, width: int | None = None) -> Tensor:
        """w*_1 ... w*_T, (tasks, width)."""
        same = self.norm - self.far / 2
        gram = torch.full((self.tasks, self.tasks), same, dtype=torch.float64)
        gram += self.far / 2 * torch.eye(self.tasks, dtype=torch.float64)
        values, vectors = torch.linalg.eigh(gram)
        root = vectors * values.clamp_min(0).sqrt()
        return torch.nn.functional.pad(root, (0, (width or self.width) - self.tasks))


def crossovers(left: float, tasks: int, norm: float = 1.0, extra: float = 0.0) -> tuple[float, float]:
    """The squared distances up to which going on forgets less (without noise), and generalises better, than beginning anew.

    Args:
        left: r.
        tasks: T.
        norm: N.
        extra: nu; it counts for the second only.

    >>> [round(d, 3) for d in crossovers(0.9, 10)]
    [1.302, 1.111]
    """
    s1 = (left - left**tasks) / (1 - left) - (tasks - 1) * left**tasks
    s2 = left - left**tasks
    forgets = float("inf") if s1 - s2 < 1e-12 else norm * s1 / (s1 - s2)
    return forgets, (norm - extra / (1 - left)) * tasks / (tasks - 1)


@dataclass(frozen=True)
class Simulated:
    """What many repeats gave.

    Attributes:
        forgetting: (repeats,) mean over earlier tasks of the risk at the end minus that right after them.
        risk: (repeats,) mean risk over all tasks at the end.
        moves: (repeats, tasks) squared lengths of the updates.
        expected_moves: The same, as the closed form says from the weights before.
    """

    forgetting: Tensor
    risk: Tensor
    moves: Tensor
    expected_moves: Tensor


def simulate(
    tasks: LinearTasks, retain: Retain, repeats: int, seed: int = 0, targets: Tensor | None = None
) -> Simulated:
    """Learn the tasks, many times at once; the draws depend on the seed and the task alone, whatever is retained.

    >>> found = simulate(LinearTasks(width=30, rows=6, tasks=3), lambda t, w, targets: 1.0, repeats=50)
    >>> found.risk.shape, bool((found.risk > 0).all())
    (torch.Size([50]), True)
    """
    want = tasks.targets() if targets is None else targets
    w = torch.zeros(repeats, tasks.width, dtype=torch.float64)
    right_after, moves, expected = [], [], []
    for t in range(tasks.tasks):
        x = inputs(tasks, repeats, seed, t)
        noise = torch.randn(repeats, tasks.rows, generator=dice(seed, "noise", t), dtype=torch.float64)
        alpha = torch.as_tensor(retain(t, w, want), dtype=torch.float64)
        v = alpha * w
        answers = torch.einsum("kpn,p->kn", x, want[t]) + tasks.noise * noise
        missing = answers - torch.einsum("kpn,kp->kn", x, v)
        new = v + torch.einsum("kpn,kn->kp", x, torch.linalg.solve(x.mT @ x, missing))
        gone = ((1 - alpha) * w).square().sum(1)
        seen = (want[t] - w).square().sum(1)
        moves.append((new - w).square().sum(1))
        expected.append((1 - tasks.left) * seen + tasks.left * gone)
        right_after.append((new - want[t]).square().sum(1))
        w = new
    risks = (w[:, None] - want).square().sum(2)  # (repeats, tasks)
    lost = risks - torch.stack(right_after, 1)
    return Simulated(lost[:, :-1].mean(1), risks.mean(1), torch.stack(moves, 1), torch.stack(expected, 1))


def inputs(tasks: LinearTasks, repeats: int, seed: int, task: int, place: str = "rows") -> Tensor:
    """X of a task in every repeat, (repeats, width, rows); at another place others of the same kind."""
    size = repeats, tasks.width, tasks.rows
    return torch.randn(size, generator=dice(seed, place, task), dtype=torch.float64)


def mean_and_error(figures: Tensor) -> tuple[float, float]:
    """The mean over repeats, and its standard error.

    >>> mean_and_error(torch.tensor([1.0, 1.0, 3.0, 3.0, 2.0]).double())
    (2.0, 0.4472135954999579)
    """
    return float(figures.mean()), float(figures.std()) / sqrt(len(figures))
