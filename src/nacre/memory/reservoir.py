"""A uniform sample of everything that ever came by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.dice import dice
from .memory import Memory, Promise


@dataclass
class Reservoir(Memory):
    """Keeps a uniform sample of all stream rows ever added.

    Row number n (from 0) goes to slot j drawn from {0..n} if j < capacity, so after N rows each is held with probability
    capacity / N (Vitter 1985, algorithm R).

    >>> from nacre.core.rows import Batch
    >>> memory = Reservoir(capacity=3)
    >>> memory.add(Batch(torch.arange(10.0)[:, None], torch.zeros(10, dtype=torch.long)))
    >>> len(memory), len(memory.draw(8))
    (3, 3)
    """

    promises: ClassVar[Promise] = "uniform"

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    def _slots_for(self, groups: Tensor) -> list[int | None]:
        drawn = torch.rand(len(groups), generator=dice(self.seed, "add", self.seen), dtype=torch.float64)
        came = torch.arange(self.seen, self.seen + len(groups))
        slots = torch.where(came < self.capacity, came, (drawn * (came + 1)).long()).tolist()
        return [slot if slot < self.capacity else None for slot in slots]
