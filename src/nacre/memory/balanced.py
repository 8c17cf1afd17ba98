"""An equal share of the memory for every class."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from typing import ClassVar, Literal

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

    promises: ClassVar[Literal["uniform", "balanced", ""]] = "balanced"

    labels: list[int] = state(list)  # the class in each slot
    met: dict[str, int] = state(dict)  # class -> rows seen
    full: list[int] = state(list)  # classes that were among the largest once the memory was full
    held: _Held | None = scratch()

    def __len__(self) -> int:
        return len(self.labels)

    def _slots_for(self, labels: Tensor) -> list[int | None]:
        drawn = torch.rand(len(labels), 2, generator=dice(self.seed, "add", self.seen), dtype=torch.float64).tolist()
        return [self._slot(c, admit, place) for c, (admit, place) in zip(labels.tolist(), drawn, strict=True)]

    def _slot(self, label: int, admit: float, place: float) -> int | None:
        """The slot that a row of this class takes, or None; `admit` and `place` are uniform in [0, 1)."""
        held = self._sorted()
        self.met[str(label)] = self.met.get(str(label), 0) + 1
        if len(self.labels) < self.capacity:
            self.labels.append(label)
            held.put(label, len(self.labels) - 1)
            return len(self.labels) - 1
        self.full += held.newly_largest()
        if label in held.full:
            mine = held.slots.get(label, [])
            return mine[int(place * len(mine))] if mine and admit < len(mine) / self.met[str(label)] else None
        slot = held.among_largest(place)
        held.take(self.labels[slot], slot)
        held.put(label, slot)
        self.labels[slot] = label
        return slot

    def _sorted(self) -> _Held:
        if self.held is None:
            self.held = _Held(self.full)
            for slot, label in enumerate(self.labels):
                self.held.put(label, slot)
        return self.held


class _Held:
    """Which slots each class holds, in an order that only depends on what is held: a resumed memory draws the same."""

    def __init__(self, full: list[int]):
        self.slots: dict[int, list[int]] = {}  # class -> its slots, ascending
        self.by_size: dict[int, list[int]] = {}  # number of slots -> classes, ascending
        self.full = set(full)
        self.largest = 0
        self.changed = True  # whether other classes may be the largest now

    def put(self, label: int, slot: int) -> None:
        mine = self.slots.setdefault(label, [])
        self._leave(label, len(mine))
        insort(mine, slot)
        insort(self.by_size.setdefault(len(mine), []), label)
        self.largest = max(self.largest, len(mine))
        self.changed |= len(mine) == self.largest

    def take(self, label: int, slot: int) -> None:
        mine = self.slots[label]
        self._leave(label, len(mine))
        mine.remove(slot)
        if mine:
            insort(self.by_size.setdefault(len(mine), []), label)
        if self.largest not in self.by_size:
            self.largest = max(self.by_size, default=0)
            self.changed = True

    def newly_largest(self) -> list[int]:
        """The largest classes that were not among the largest before."""
        if not self.changed:
            return []
        self.changed = False
        fresh = [c for c in self.by_size.get(self.largest, []) if c not in self.full]
        self.full.update(fresh)
        return fresh

    def among_largest(self, place: float) -> int:
        """One of the largest classes' slots, `place` of the way through them."""
        number = int(place * self.largest * len(self.by_size[self.largest]))
        return self.slots[self.by_size[self.largest][number // self.largest]][number % self.largest]

    def _leave(self, label: int, size: int) -> None:
        if size:
            peers = self.by_size[size]
            peers.remove(label)
            if not peers:
                del self.by_size[size]
