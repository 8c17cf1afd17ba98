"""From scores to choices."""

from __future__ import annotations

import torch
from torch import Tensor


def top_share(scores: Tensor, share: float, least: int = 1) -> Tensor:
    """True for the `share` of entries with the highest scores, at least `least` of them; a mask of the same shape.

    Exactly max(least, round(share * entries)) are chosen; of equal scores the earlier entries are, on every device. Works
    for tensors of any size.

    >>> top_share(torch.tensor([0.1, 0.9, 0.9, 0.3]), 0.25)
    tensor([False,  True, False, False])
    """
    count = min(max(least, round(share * scores.numel())), scores.numel())
    chosen = torch.zeros(scores.numel(), dtype=torch.bool, device=scores.device)
    if count:
        flat = scores.flatten()
        edge = flat.topk(count).values[-1]
        chosen = flat > edge
        ties = (flat == edge).nonzero().flatten()[: count - int(chosen.sum())]
        chosen[ties] = True
    return chosen.view_as(scores)
