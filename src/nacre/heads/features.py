"""Features of a task, as heads read them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..core import ranks
from ..core.model import evaluating, forward
from ..core.rows import Rows, batches


@torch.no_grad()
def features_of(
    model: nn.Module, rows: Rows | None, who: str, device: str = "cpu", size: int = 500
) -> tuple[Tensor, Tensor]:
    """Features (rows, width) in fp32 or better and labels (rows,), in eval mode and without augmentation.

    Where several ranks learn together each computes some of the batches, and all of them get all rows; all must ask.

    Raises:
        BadModel: the model gives no features; the message names `who` needs them.
    """
    pieces: list[list[Tensor]] = []
    order = torch.arange(len(rows) if rows is not None else 0)
    with evaluating(model):
        for low in ranks.share_of(order[::size]).tolist():
            for batch in batches(rows, size, order[low : low + size], device=device):
                found = forward(model, batch).need_features(who)
                pieces.append([found if found.dtype == torch.float64 else found.float(), batch.y])
    if not len(order):
        return torch.empty(0, 0), torch.empty(0, dtype=torch.long)
    pieces = ranks.in_turn(pieces, device)
    return torch.cat([z for z, _ in pieces]), torch.cat([y for _, y in pieces])
