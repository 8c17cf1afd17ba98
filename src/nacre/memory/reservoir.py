"""A uniform sample of everything that ever came by."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.dice import dice
from ..core.rows import Batch
from ..core.state import Stateful, setting, state
from .block import Block, fields_of


@dataclass
class Reservoir(Stateful):
    """Keeps a uniform sample of all stream rows ever added.

    Row number n (from 0) goes to slot j drawn from {0..n} if j < capacity, so after N rows each is held with probability
    capacity / N (Vitter 1985, algorithm R). Dice are counted: there is no generator to save.

    >>> memory = Reservoir(capacity=3)
    >>> memory.add(Batch(torch.arange(10.0)[:, None], torch.zeros(10, dtype=torch.long)))
    >>> len(memory), len(memory.draw(8))
    (3, 3)
    """

    capacity: int = setting(500, "rows held at most", low=1)
    seed: int = setting(0, "seeds which rows are kept and drawn")
    block: Block = state(Block)
    seen: int = state(int)
    draws: int = state(int)

    def __len__(self) -> int:
        return min(self.seen, self.capacity)

    def add(self, batch: Batch, **extra: Tensor) -> None:
        """Admit the batch's stream rows (source 0), as they were before augmentation; `extra` has one entry a row."""
        own = batch.own().nonzero().flatten().tolist()
        number = torch.arange(self.seen, self.seen + len(own))
        drawn = torch.rand(len(own), generator=dice(self.seed, "add", self.seen), dtype=torch.float64)
        slots = torch.where(number < self.capacity, number, (drawn * (number + 1)).long())
        self.seen += len(own)
        last = {slot: row for slot, row in zip(slots.tolist(), own, strict=True) if slot < self.capacity}
        if last:  # of two rows that fall into one slot the later stays
            rows = torch.tensor(list(last.values()), device=batch.y.device)
            held = {n: v[rows] for n, v in fields_of(batch, extra).items()}
            self.block.write(torch.tensor(list(last)), held, self.capacity)

    def draw(self, count: int) -> Batch | None:
        """Up to `count` different rows, as copies; None where there are none."""
        if not len(self) or count < 1:
            return None
        pick = torch.randperm(len(self), generator=dice(self.seed, "draw", self.draws))[:count]
        self.draws += 1
        return self.block.read(pick)
