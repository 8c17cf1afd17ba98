"""Which slots each group of rows holds, and which groups hold the most."""

from __future__ import annotations

from bisect import insort


class Held:
    """Slots by group, in an order that only depends on what is held: a resumed memory draws the same."""

    def __init__(self, full: list[int]):
        self.slots: dict[int, list[int]] = {}  # group -> its slots, ascending
        self.by_size: dict[int, list[int]] = {}  # number of slots -> groups, ascending
        self.full = set(full)
        self.largest = 0
        self.changed = True  # whether other groups may be the largest now

    def put(self, group: int, slot: int) -> None:
        mine = self.slots.setdefault(group, [])
        self._leave(group, len(mine))
        insort(mine, slot)
        insort(self.by_size.setdefault(len(mine), []), group)
        self.largest = max(self.largest, len(mine))
        self.changed |= len(mine) == self.largest

    def take(self, group: int, slot: int) -> None:
        mine = self.slots[group]
        self._leave(group, len(mine))
        mine.remove(slot)
        if mine:
            insort(self.by_size.setdefault(len(mine), []), group)
        if self.largest not in self.by_size:
            self.largest = max(self.by_size, default=0)
            self.changed = True

    def newly_largest(self) -> list[int]:
        """The largest groups that were not among the largest before."""
        if not self.changed:
            return []
        self.changed = False
        fresh = [c for c in self.by_size.get(self.largest, []) if c not in self.full]
        self.full.update(fresh)
        return fresh

    def among_largest(self, place: float) -> int:
        """One of the largest groups' slots, `place` of the way through them."""
        number = int(place * self.largest * len(self.by_size[self.largest]))
        return self.slots[self.by_size[self.largest][number // self.largest]][number % self.largest]

    def _leave(self, group: int, size: int) -> None:
        if size:
            peers = self.by_size[size]
            peers.remove(group)
            if not peers:
                del self.by_size[size]
