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

    Where several ranks learn together each holds the whole memory: all of them admit the rows of all, in one order.

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
        if not batch.before and len(self):
            self.draws += 1  # the first micro-batch of a step ends what was drawn for it
        own = batch.own().nonzero().flatten()
        slots = self._slots_for(batch.y[own])
        self.seen += len(own)
        last = {slot: row for slot, row in zip(slots, own.tolist(), strict=True) if slot is not None}
        if last:  # of two rows that fall into one slot the later stays
            rows = torch.tensor(list(last.values()), device=batch.y.device)
            held = {n: v[rows] for n, v in fields_of(batch, extra).items()}
            self.block.write(torch.tensor(list(last)), held, self.capacity)

    def draw(self, count: int, piece: Batch | None = None) -> Batch | None:
        """Up to `count` different rows, as copies; None where there are none.

        Args:
            count: How many.
            piece: The micro-batch that they are for: of `count` rows for the whole step, the same for all its micro-batches
                on all ranks, it is given its part. The next step's are drawn anew once this step's rows are added.
        """
        if not len(self) or count < 1:
            return None
        pick = torch.randperm(len(self), generator=dice(self.seed, "draw", self.draws))[:count]
        if piece is None:
            self.draws += 1
            return self.block.read(pick)
        pick = pick[_until(pick, piece.before) : _until(pick, piece.before + piece.share)]
        return self.block.read(pick) if len(pick) else None


def _until(rows: Tensor, part: float) -> int:
    """How many of the rows the first part of a step takes; sums of parts are not exact."""
    return int(len(rows) * part + 1e-6)
