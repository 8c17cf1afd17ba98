"""The latest rows of every class."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ..core.state import scratch, state
from .memory import Memory, Promise


@dataclass
class Ring(Memory):
    """Keeps the latest rows of each class; the classes' counts differ by at most one, as far as enough rows of each came by.

    While there is room every row is kept. Then a row of a largest class takes the place of the oldest row of its class, and
    one of another class that of the oldest row of a largest class.

    Paper: On Tiny Episodic Memories in Continual Learning (arXiv 1902.10486), ring buffer; there the number of classes is
    known from the start, and each has its own part of the memory.

    >>> import torch
    >>> from nacre.core.rows import Batch
    >>> memory = Ring(capacity=4)
    >>> memory.add(Batch(torch.arange(9.0)[:, None], torch.tensor([0] * 6 + [1] * 3)))
    >>> sorted(memory.draw(4).x[:, 0].tolist())
    [4.0, 5.0, 7.0, 8.0]
    """

    promises: ClassVar[Promise] = "balanced"

    labels: list[int] = state(list)  # the class in each slot
    came: list[int] = state(list)  # the number of the row in each slot, as rows came by
    rings: dict[int, deque[int]] | None = scratch()

    def __len__(self) -> int:
        return len(self.labels)

    def _slots_for(self, groups: Tensor) -> list[int | None]:
        return [self._slot(label, self.seen + k) for k, label in enumerate(groups.tolist())]

    def _slot(self, label: int, number: int) -> int:
        """The slot that row `number`, of this class, takes."""
        rings = self._sorted()
        mine = rings.setdefault(label, deque())
        if len(self.labels) < self.capacity:
            slot = len(self.labels)
            self.labels.append(label)
            self.came.append(number)
        else:
            largest = max(map(len, rings.values()))
            fullest = label if len(mine) == largest else min(c for c, ring in rings.items() if len(ring) == largest)
            slot = rings[fullest].popleft()
            self.labels[slot], self.came[slot] = label, number
        mine.append(slot)
        return slot

    def _sorted(self) -> dict[int, deque[int]]:
        """Each class's slots, the oldest row first."""
        if self.rings is None:
            self.rings = {label: deque() for label in set(self.labels)}
            for slot in sorted(range(len(self.labels)), key=self.came.__getitem__):
                self.rings[self.labels[slot]].append(slot)
        return self.rings
