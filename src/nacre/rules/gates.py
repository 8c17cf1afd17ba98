"""How much of each move the tasks before agree with."""

from __future__ import annotations

import torch

from ..core.state import Tensors
from .levels import Level, group_sums


def step_gates(reference: Tensors, grads: Tensors, level: Level, tasks: int) -> Tensors:
    """Beta of each tensor's groups: the old tasks' clip(r.g / g.g, 0, 1), and 1 for the new one, averaged over all tasks.

    1 where there is no reference, or none to speak of. The old share is clipped before the average, so a conflict leaves the
    new task its own share, 1 / (tasks + 1); clipped after it, as is best in the linear theory, a strong one would leave none.
    """
    names = [n for n in grads if n in reference]
    product = group_sums({n: reference[n] * grads[n] for n in names}, level)
    mine, theirs = (group_sums({n: t[n].square() for n in names}, level) for t in (grads, reference))
    found: Tensors = {}
    for n in names:
        beta = (product[n] / mine[n].clamp_min(1e-30)).clamp(0, 1)
        silent = theirs[n] <= 1e-12 * mine[n]
        found[n] = torch.where(silent, 1.0, (tasks * beta + 1) / (tasks + 1))
    return found | {n: g.new_ones(()) for n, g in grads.items() if n not in reference}
