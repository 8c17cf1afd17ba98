"""How far rows may be read ahead of the steps that take them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .rows import Picked, Rows, TensorRows

AHEAD = 512  # rows


def ahead(rows: Rows, size: int) -> int:
    """For how many batches of `size` rows may be read at once, such that nothing but time depends on it; 1 = each alone.

    Pictures of uint8 in memory: reading one batch costs little more than reading eight, and their numbers are made anew for
    the model, so it does not matter how they lie.
    """
    held = rows.rows if type(rows) is Picked else rows
    x: Any = held.x if type(held) is TensorRows else None
    return max(AHEAD // size, 1) if isinstance(x, Tensor) and x.dtype == torch.uint8 else 1
