"""How far a matrix is from a low rank."""

from __future__ import annotations

import torch
from torch import Tensor


def nuclear_norm(matrix: Tensor) -> Tensor:
    """The sum of the singular values, whose gradient is U V'; in fp32 or better.

    >>> nuclear_norm(torch.diag(torch.tensor([3.0, -4.0])))
    tensor(7.)
    """
    wide = torch.promote_types(matrix.dtype, torch.float32)
    with torch.autocast(matrix.device.type, enabled=False):
        return torch.linalg.svdvals(matrix.to(wide)).sum()
