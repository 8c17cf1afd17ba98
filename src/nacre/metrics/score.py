"""Scores of predictions on rows."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..core import ranks
from ..core.lengths import put_back, readings
from ..core.rows import Batch, Rows


def accuracy(scores: Tensor, batch: Batch) -> Tensor:
    """Right answers as 1 and wrong ones as 0, (rows,); labelled tokens are averaged within a row."""
    right, counts = (scores.argmax(-1) == batch.y).float(), batch.y != -100
    return right if right.ndim == 1 else (right * counts).sum(1) / counts.sum(1).clamp_min(1)


def score(
    predict: Callable[[Batch], Tensor],
    rows: Rows,
    of: Callable[[Tensor, Batch], Tensor] = accuracy,
    size: int = 500,
    device: torch.device | str = "cpu",
    shared: bool = False,
) -> float:
    """The mean mark of predictions on rows, in large batches; NaN where there are none.

    Args:
        predict: Gives scores for a batch.
        rows: The rows.
        of: The marks of scores, (rows,).
        size: Rows of a batch.
        device: Where batches are put.
        shared: Whether several ranks that learn together share the batches out; all of them must ask then.

    >>> from nacre.core.rows import TensorRows
    >>> rows = TensorRows(torch.eye(4), torch.tensor([0, 1, 2, 2]))
    >>> score(lambda batch: batch.x, rows)
    0.75
    """
    pieces = readings(rows, size)
    numbers = torch.arange(len(pieces))
    marks: list[Tensor] = []
    with torch.inference_mode():
        for k in (ranks.share_of(numbers) if shared else numbers).tolist():
            batch = rows.take(pieces[k]).to(device)
            marks.append(of(predict(batch), batch).double())
    marks = ranks.in_turn(marks, device) if shared else marks
    return put_back(marks, pieces).mean().item() if marks else math.nan
