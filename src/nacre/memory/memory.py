"""What every memory of rows can do: admit stream rows, draw copies of them, in bounded space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from ..core.dice import dice
from ..core.rows import Batch, chosen
from ..core.state import Stateful, setting, state
from ..core.stream import Task
from .block import Block, fields_of

Promise = Literal["uniform", "balanced", "balanced by task", ""]
"""What is known of the rows that a memory holds: a uniform sample of all that came, classes or tasks balanced within one
row, or nothing."""
LARGE = 20_000  # rows: a permutation of more takes longer than a few draws that may meet


@dataclass
class Memory(Stateful, ABC):
    """Keeps some of the stream's rows; which, subclasses decide. Dice are counted: there is no generator to save.

    A memory is `Rows`: what it holds can be gone through by position, batch by batch. Where several ranks learn together each
    holds the whole memory: all of them admit the rows of all, in one order.

    Attributes:
        promises: What is known of the rows held.
    """

    promises: ClassVar[Promise] = ""

    capacity: int = setting(500, "rows held at most", low=1)
    seed: int = setting(0, "seeds which rows are kept and drawn")
    block: Block = state(Block)
    seen: int = state(int)
    draws: int = state(int)

    @abstractmethod
    def __len__(self) -> int:
        """How many rows are held."""

    @abstractmethod
    def _slots_for(self, groups: Tensor) -> list[int | None]:
        """The slot that a new row of each of these groups takes, or None; `seen` does not count them yet."""

    def _groups(self, batch: Batch) -> Tensor:
        """What rows are told apart by, (rows,)."""
        return batch.y

    def _slots(self, index: Tensor) -> Tensor:
        """The slots of the rows at these positions of what is held."""
        return index

    @property
    def hears_tasks(self) -> bool:
        """Whether it must be told which task its rows come from, which no task-free stream does."""
        return type(self).begin is not Memory.begin

    def begin(self, task: Task) -> None:
        """Hear that the rows which follow are of this task."""

    def add(self, batch: Batch, **extra: Tensor) -> None:
        """Admit the batch's stream rows (source 0), as they were before augmentation; `extra` has one entry a row."""
        if len(self):
            self.turn(batch)
        own = None if batch.source is None else (batch.source == 0).nonzero().flatten()
        groups = self._groups(batch) if own is None else self._groups(batch)[own]
        slots = self._slots_for(groups)
        self.seen += len(groups)
        last = {slot: k for k, slot in enumerate(slots) if slot is not None}
        if last:  # of two rows that fall into one slot the later stays
            rows = torch.tensor(list(last.values()), device=batch.y.device)
            rows = rows if own is None else own[rows]
            held = {n: chosen(v, rows) for n, v in fields_of(batch, extra).items()}
            self.block.write(torch.tensor(list(last)), held, self.capacity)

    def turn(self, piece: Batch) -> None:
        """Draw anew from now on, if this is the first micro-batch of its step; `add` does it by itself."""
        if not piece.before:
            self.draws += 1

    def draw(self, count: int, piece: Batch | None = None, times: int = 1) -> Batch | None:
        """Up to `count` different rows, as copies; None where there are none.

        Args:
            count: How many.
            piece: The micro-batch that they are for: of `count` rows for the whole step, the same for all its micro-batches
                on all ranks, it is given its part. The next step's are drawn anew once this step's rows are added.
            times: How many draws, one behind the other; in two of them a row may be met twice.
        """
        if not len(self) or count < 1:
            return None
        generator = dice(self.seed, "draw", self.draws)
        picks = [self._pick(count, generator) for _ in range(times)]
        if piece is None:
            self.draws += 1
        else:
            picks = [pick[slice(*part(len(pick), piece))] for pick in picks]
        return self._read(torch.cat(picks)) if len(picks[0]) else None

    def sample(self, count: int, *place: int | str) -> Batch | None:
        """Up to `count` different rows by the dice of a place, as copies; None where there are none. Changes nothing."""
        return self._read(self._pick(count, dice(self.seed, *place))) if len(self) and count > 0 else None

    def take(self, index: Tensor) -> Batch:
        """The rows at these positions of what is held, as copies; they are no rows of the stream any more (source 1)."""
        rows = self._read(index)
        return replace(rows, ids=index.to(rows.y.device), source=rows.y.new_ones(len(index), dtype=torch.long))

    def fill(self, index: Tensor, **fields: Tensor) -> None:
        """Set fields of the rows at these positions of what is held; `fields` have one entry a position."""
        self.block.fill(self._slots(index), fields, self.capacity)

    def field(self, name: str) -> Tensor | None:
        """One field of all rows held, as a copy; None where rows have no such field."""
        kept = self.block.kept.get(name)
        return None if kept is None else kept[self._slots(torch.arange(len(self))).to(kept.device)]

    def _read(self, index: Tensor) -> Batch:
        return self.block.read(self._slots(index))

    def _pick(self, count: int, generator: torch.Generator) -> Tensor:
        held = len(self)
        if held < LARGE or 4 * count > held:
            return torch.randperm(held, generator=generator)[:count]
        met: dict[int, None] = {}
        while len(met) < count:
            met |= dict.fromkeys(torch.randint(held, (2 * count,), generator=generator).tolist())
        return torch.tensor(list(met)[:count])


def part(count: int, piece: Batch) -> tuple[int, int]:
    """Which of `count` rows for a whole step are those of one of its micro-batches: from the first, up to the last.

    >>> y = torch.zeros(2)
    >>> part(6, Batch(y, y, share=0.25)), part(6, Batch(y, y, share=0.25, before=0.75))
    ((0, 1), (4, 6))
    """

    def until(share: float) -> int:
        return int(count * share + 1e-6)  # sums of shares are not exact

    return until(piece.before), until(piece.before + piece.share)
