"""What every memory of rows can do: admit stream rows, draw copies of them, in bounded space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.dice import dice
from ..core.rows import Batch
from ..core.state import Stateful, setting, state
from .block import Block, fields_of


@dataclass
class Memory(Stateful, ABC):
    """Keeps some of the stream's rows; which, subclasses decide. Dice are counted: there is no generator to save.

    Attributes:
        promises: What is known of the rows held: a `"uniform"` sample of all that came, classes `"balanced"` within one row,
            or nothing.
    """

    promises: ClassVar[Literal["uniform", "balanced", ""]] = ""

    capacity: int = setting(500, "rows held at most", low=1)
    seed: int = setting(0, "seeds which rows are kept and drawn")
    block: Block = state(Block)
    seen: int = state(int)
    draws: int = state(int)

    @abstractmethod
    def __len__(self) -> int:
        """How many rows are held."""

    @abstractmethod
    def _slots_for(self, labels: Tensor) -> list[int | None]:
        """The slot that each of these new rows takes, or None; `seen` does not count them yet."""

    def add(self, batch: Batch, **extra: Tensor) -> None:
        """Admit the batch's stream rows (source 0), as they were before augmentation; `extra` has one entry a row."""
        own = batch.own().nonzero().flatten()
        slots = self._slots_for(batch.y[own])
        self.seen += len(own)
        last = {slot: row for slot, row in zip(slots, own.tolist(), strict=True) if slot is not None}
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
