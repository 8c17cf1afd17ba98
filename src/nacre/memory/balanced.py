"""An equal share of the memory for every class."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.dice import dice
from ..core.state import scratch, state
from .memory import Memory


@dataclass
class ClassBalanced(Memory):
    """Keeps a sample in which the classes' counts differ by at most one, as far as enough rows of each came by.

    While there is room every row is kept. Then a row of a class that never was among the largest takes the place of a random
    row of a largest class; a row of a class that was replaces a random row of its own class with probability held / seen, so
    that each class's rows stay a sample of all that came.

    Paper: Chrysakis and Moens 2020, Online Continual Learning from Imbalanced Data (ICML), class-balancing reservoir.

    >>> from nacre.core.rows import Batch
    >>> memory = ClassBalanced(capacity=4)
    >>> memory.add(Batch(torch.arange(9.0)[:, None], torch.tensor([0] * 6 + [1] * 3)))
    >>> sorted(memory.draw(4).y.tolist())
    [0, 0, 1, 1]
    """

    labels: list[int] = state(list)  # the class in each slot
    met: dict[str, int] = state(dict)  # class -> rows seen
    full: list[int] = state(list)  # classes that were among the largest once the memory was full
    slots: dict[int, list[int]] | None = scratch()  # class -> its slots, sorted

    def __len__(self) -> int:
        return len(self.labels)

    def _slots_for(self, labels: Tensor) -> list[int | None]:
        drawn = torch.rand(len(labels), 2, generator=dice(self.seed, "add", self.seen), dtype=torch.float64).tolist()
        return [self._slot(c, admit, place) for c, (admit, place) in zip(labels.tolist(), drawn, strict=True)]

    def _slot(self, label: int, admit: float, place: float) -> int | None:
        """The slot that a row of this class takes, or None; `admit` and `place` are uniform in [0, 1)."""
        of = self._slots()
        self.met[str(label)] = self.met.get(str(label), 0) + 1
        if len(self.labels) < self.capacity:
            self.labels.append(label)
            of.setdefault(label, []).append(len(self.labels) - 1)
            return len(self.labels) - 1
        size = max(map(len, of.values()))
        largest = sorted(c for c, held in of.items() if len(held) == size)
        self.full += [c for c in largest if c not in self.full]
        if label in self.full:
            mine = of[label]
            return mine[int(place * len(mine))] if mine and admit < len(mine) / self.met[str(label)] else None
        ranked = [slot for c in largest for slot in of[c]]
        slot = ranked[int(place * len(ranked))]
        of[self.labels[slot]].remove(slot)
        self.labels[slot] = label
        insort(of.setdefault(label, []), slot)
        return slot

    def _slots(self) -> dict[int, list[int]]:
        if self.slots is None:
            self.slots = {}
            for slot, label in enumerate(self.labels):
                self.slots.setdefault(label, []).append(slot)
        return self.slots
