"""Features of a task, as heads read them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..core.model import evaluating, forward
from ..core.rows import Rows, batches


@torch.no_grad()
def features_of(
    model: nn.Module, rows: Rows | None, who: str, device: str = "cpu", size: int = 500
) -> tuple[Tensor, Tensor]:
    """Features (rows, width) in fp32 or better and labels (rows,), in eval mode and without augmentation.

    Raises:
        BadModel: the model gives no features; the message names `who` needs them.
    """
    z, y = [], []
    with evaluating(model):
        for batch in batches(rows, size, device=device):
            found = forward(model, batch).need_features(who)
            z.append(found if found.dtype == torch.float64 else found.float())
            y.append(batch.y)
    if not z:
        return torch.empty(0, 0), torch.empty(0, dtype=torch.long)
    return torch.cat(z), torch.cat(y)
