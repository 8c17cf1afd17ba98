"""What holds for every matrix of scores."""

from __future__ import annotations

import math
from typing import Any

from ..metrics import Matrix
from .check import Case, check
from .kinds import is_matrix

BY_HAND = {
    "last": (0.4 + 0.6 + 0.9) / 3,
    "average": (0.8 + (0.5 + 0.7) / 2 + (0.4 + 0.6 + 0.9) / 3) / 3,
    "union": (0.4 * 10 + 0.6 * 30 + 0.9 * 10) / 50,
    "forgetting": ((0.8 - 0.4) + (0.7 - 0.6)) / 2,
    "backward_transfer": ((0.4 - 0.8) + (0.6 - 0.7)) / 2,
    "forward_transfer": ((0.2 - 0.1) + (0.3 - 0.15)) / 2,
    "learning": (0.8 + 0.7 + 0.9) / 3,
}
"""Summaries of the table below, worked by hand."""
TABLE = {
    "start": (0.05, 0.1, 0.15),
    "task0": (0.8, 0.2, 0.25),
    "task1": (0.5, 0.7, 0.3),
    "task2": (0.4, 0.6, 0.9),
}
ROWS = (10, 30, 10)


@check(is_matrix)
def hand_numbers(case: Case) -> None:
    """Summaries agree with a table worked by hand, are NaN where nothing was measured, and do not depend on test order."""
    whole = _filled(case, range(3)).summary()
    for name, value in BY_HAND.items():
        case.holds(
            abs(whole[name] - value) < 1e-12, f"{name} of the table is {value:.6g}", f"it is {whole[name]:.6g}",
            "a mean over other cells: over the diagonal, over all moments, or over tasks not learned yet",
        )  # fmt: skip
    turned = _filled(case, (2, 0, 1)).summary()
    other = [n for n in BY_HAND if abs(turned[n] - whole[n]) > 1e-12]
    case.holds(not other, "the order in which tests are noted changes nothing", f"{other} differ", "cells by place")
    bare = case.fresh()
    bare.add("task0", "task0", 0.5, rows=1, learned=True)
    measured = [n for n in ("forgetting", "backward_transfer", "forward_transfer") if not math.isnan(bare.summary()[n])]
    case.holds(not measured, "what was not measured is NaN", f"{measured} are numbers", "a 0 that stands for nothing")


def _filled(case: Case, order: Any) -> Matrix:
    matrix = case.fresh()
    for moment, scores in TABLE.items():
        for j in order:
            matrix.add(moment, f"task{j}", scores[j], rows=ROWS[j], learned=moment == f"task{j}")
    return matrix
