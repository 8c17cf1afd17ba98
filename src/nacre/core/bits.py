"""The bits of numbers: what tells -0.0 from 0.0 and one NaN from another."""

from __future__ import annotations

import torch
from torch import Tensor

INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def bits(tensor: Tensor) -> Tensor:
    """The bits of each entry as an integer, 1-D, on the device where they are.

    >>> bits(torch.tensor([0.0, -0.0]))
    tensor([          0, -2147483648], dtype=torch.int32)
    """
    return tensor.detach().contiguous().reshape(-1).view(INTEGERS[tensor.element_size()])
