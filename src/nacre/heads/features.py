"""Features of a task, as heads read them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..core import ranks
from ..core.lengths import put_back, readings
from ..core.model import evaluating, forward
from ..core.rows import Rows


@torch.no_grad()
def features_of(
    model: nn.Module, rows: Rows | None, who: str, device: str = "cpu", size: int = 500
) -> tuple[Tensor, Tensor]:
    """Features (rows, width) in fp32 or better and labels (rows,), in eval mode and without augmentation.

    Where several ranks learn together each computes some of the batches, and all of them get all rows; all must ask.

    Raises:
        BadModel: the model gives no features; the message names `who` needs them.
    """
    if rows is None or not len(rows):
        return torch.empty(0, 0), torch.empty(0, dtype=torch.long)
    pieces, found = readings(rows, size), []
    with evaluating(model):
        for k in ranks.share_of(torch.arange(len(pieces))).tolist():
            batch = rows.take(pieces[k]).to(device)
            z = forward(model, batch).need_features(who)
            found.append([z if z.dtype == torch.float64 else z.float(), batch.y])
    found = ranks.in_turn(found, device)
    return put_back([z for z, _ in found], pieces), put_back([y for _, y in found], pieces)
