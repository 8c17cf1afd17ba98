"""What the loader of a trainer is given: positions, in the order of the driver, and what makes rows of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from ..core.drive import Drive
from ..core.rows import Rows
from .collated import to_inputs


class Order(Sampler[int]):
    """Positions of rows in the order of an epoch, as the method asks for it."""

    def __init__(self, drive: Drive, size: int):
        self.drive, self.size, self.epoch = drive, size, 0
        self.rows = len(drive.order(0, size))

    def set_epoch(self, epoch: int) -> None:
        """Whose order comes next; loaders call it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        return iter(self.drive.order(self.epoch, self.size).tolist())


class Positions(Dataset[int]):
    """As many items as there are rows, each its own position: rows are read by the batch."""

    def __init__(self, rows: int):
        self.rows = rows

    def __len__(self) -> int:
        return self.rows

    def __getitem__(self, index: int) -> int:
        return index


class Taken:
    """Makes positions into a batch of rows."""

    def __init__(self, rows: Rows, label: str):
        self.rows, self.label = rows, label

    def __call__(self, positions: list[int]) -> dict[str, Any]:
        return to_inputs(self.rows.take(torch.tensor(positions)), self.label)
