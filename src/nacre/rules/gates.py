"""How much of each move the tasks before agree with."""

from __future__ import annotations

from ..core.state import Tensors
from .align import Per, gate
from .levels import Level, unit_of

UNITS: dict[Level, Per] = {"entry": "entry", "channel": "row", "tensor": "tensor"}  # of the others a list is one unit
SILENT = 1e-12  # a reference of at most this share of the squared length says nothing


def step_gates(reference: Tensors, grads: Tensors, level: Level, tasks: int, groups: str | None = None) -> Tensors:
    """Beta of each tensor's groups: the old tasks' clip(r.g / g.g, 0, 1), and 1 for the new one, averaged over all tasks.

    1 where there is no reference, or none to speak of. The old share is clipped before the average, so a conflict leaves the
    new task its own share, 1 / (tasks + 1); clipped after it, as is best in the linear theory, a strong one would leave none.
    """
    units: dict[str, list[str]] = {}
    for n in grads:
        if n in reference:
            units.setdefault(unit_of(n, level, groups), []).append(n)
    found = {n: g.new_ones(()) for n, g in grads.items() if n not in reference}
    for names in units.values():
        betas = gate([reference[n] for n in names], [grads[n] for n in names], UNITS.get(level, "list"), silent=SILENT)
        found |= {n: (tasks * beta + 1) / (tasks + 1) for n, beta in zip(names, betas, strict=True)}
    return found
