"""Ways to choose alpha, the share of the weights that a linear task starts from.

Shapes: weights w (repeats, p), targets (tasks, p).
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .linear_tasks import LinearTasks, Retain, inputs


def anew(t: int, w: Tensor, targets: Tensor) -> float:
    """Initialised training: nothing is kept."""
    return 0.0


def going_on(t: int, w: Tensor, targets: Tensor) -> float:
    """Frozen training: all is kept, and the smallest update that fits is made."""
    return 1.0


def oracle(groups: int = 1) -> Retain:
    """The alpha that is best for the mean risk over the tasks so far, from the targets themselves.

    Args:
        groups: Equal parts of the weights, each with an alpha of its own.
    """

    def alpha(t: int, w: Tensor, targets: Tensor) -> Tensor:
        return _per_group(w, targets[: t + 1].mean(0), groups)

    return alpha


def from_gradient(groups: int = 1) -> Retain:
    """What the new task's gradient alone asks for, averaged with a 1 for each task before: (t + alpha_new) / (t + 1).

    alpha_new = <w*, w> / |w|^2 is the minimum along w, which Newton's estimate finds.
    """

    def alpha(t: int, w: Tensor, targets: Tensor) -> Tensor:
        return (t + _per_group(w, targets[t], groups)) / (t + 1)

    return alpha


def from_direction(kind: Literal["cosine", "sign"]) -> Retain:
    """The same with alpha_new from the direction of the gradient alone: (1 + cosine) / 2, or the share of agreeing signs."""

    def alpha(t: int, w: Tensor, targets: Tensor) -> Tensor:
        down = targets[t] - w
        if kind == "sign":
            wants = (down * w > 0).to(w.dtype).mean(1)
        else:
            wants = (1 + (down * w).sum(1) / (down.norm(dim=1) * w.norm(dim=1)).clamp_min(1e-30)) / 2
        return ((t + wants) / (t + 1))[:, None]

    return alpha


def from_rows(tasks: LinearTasks, repeats: int, seed: int, rows: int, trained: bool = False) -> Retain:
    """The oracle's alpha with what it reads of old targets, <w, w*>, estimated on some rows of each: mean (x.w) y.

    Args:
        tasks: As they are simulated, without noise.
        repeats: As many as are simulated.
        seed: The same.
        rows: Rows of each old task.
        trained: Take the rows that the task was trained on, instead of others.
    """

    def alpha(t: int, w: Tensor, targets: Tensor) -> Tensor:
        said = w @ targets[t]
        for i in range(t):
            x = inputs(tasks, repeats, seed, i, "rows" if trained else f"held out at {t}")[:, :, :rows]
            said = said + (torch.einsum("kpn,kp->kn", x, w) * torch.einsum("kpn,p->kn", x, targets[i])).mean(1)
        return (said / (t + 1) / w.square().sum(1).clamp_min(1e-30)).clamp(0, 1)[:, None]

    return alpha


def _per_group(w: Tensor, wanted: Tensor, groups: int) -> Tensor:
    """<wanted, w> / |w|^2 in each group, clipped, as wide as the weights."""
    asked, size = ((t.view(len(w), groups, -1)).sum(2, keepdim=True) for t in (w * wanted, w.square()))
    alpha = (asked / size.clamp_min(1e-30)).clamp(0, 1)
    return alpha.expand(-1, -1, w.shape[1] // groups).reshape(w.shape)
