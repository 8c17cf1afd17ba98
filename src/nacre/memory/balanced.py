"""An equal share of the memory for every class, or for every task."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.dice import dice
from ..core.rows import Batch
from ..core.state import scratch, state
from ..core.stream import Task
from .held import Held
from .memory import Memory, Promise


@dataclass
class _Balanced(Memory):
    """Keeps every row while there is room; then a row of a smaller group takes the place of one of a largest group."""

    labels: list[int] = state(list)  # the group in each slot
    held: Held | None = scratch()

    def __len__(self) -> int:
        return len(self.labels)

    def _slots_for(self, groups: Tensor) -> list[int | None]:
        drawn = torch.rand(len(groups), 2, generator=dice(self.seed, "add", self.seen), dtype=torch.float64).tolist()
        return [self._slot(g, admit, place) for g, (admit, place) in zip(groups.tolist(), drawn, strict=True)]

    def _slot(self, group: int, admit: float, place: float) -> int | None:
        """The slot that a row of this group takes, or None; `admit` and `place` are uniform in [0, 1)."""
        held = self._sorted()
        if len(self.labels) < self.capacity:
            self.labels.append(group)
            held.put(group, len(self.labels) - 1)
            return len(self.labels) - 1
        if not self._grows(group, held):
            return self._own_slot(group, held.slots.get(group, []), admit, place)
        slot = held.among_largest(place)
        held.take(self.labels[slot], slot)
        held.put(group, slot)
        self.labels[slot] = group
        return slot

    @abstractmethod
    def _grows(self, group: int, held: Held) -> bool:
        """Whether the next row of this group takes the place of another group's, now that there is no room."""

    def _own_slot(self, group: int, mine: list[int], admit: float, place: float) -> int | None:
        """Which row of its own group it replaces, if any."""
        return None

    def _sorted(self) -> Held:
        if self.held is None:
            self.held = self._fresh()
            for slot, group in enumerate(self.labels):
                self.held.put(group, slot)
        return self.held

    def _fresh(self) -> Held:
        return Held([])


@dataclass
class ClassBalanced(_Balanced):
    """Keeps a sample in which the classes' counts differ by at most one, as far as enough rows of each came by.

    While there is room every row is kept. Then a row of a class that never was among the largest takes the place of a random
    row of a largest class; a row of a class that was replaces a random row of its own class with probability held / seen, so
    that each class's rows stay a sample of all that came.

    Paper: Chrysakis and Moens 2020, Online Continual Learning from Imbalanced Data (ICML), class-balancing reservoir.

    >>> memory = ClassBalanced(capacity=4)
    >>> memory.add(Batch(torch.arange(9.0)[:, None], torch.tensor([0] * 6 + [1] * 3)))
    >>> sorted(memory.draw(4).y.tolist())
    [0, 0, 1, 1]
    """

    promises: ClassVar[Promise] = "balanced"

    met: dict[str, int] = state(dict)  # group -> rows seen
    full: list[int] = state(list)  # groups that were among the largest once the memory was full

    def _slot(self, group: int, admit: float, place: float) -> int | None:
        self.met[str(group)] = self.met.get(str(group), 0) + 1
        return super()._slot(group, admit, place)

    def _grows(self, group: int, held: Held) -> bool:
        self.full += held.newly_largest()
        return group not in held.full

    def _own_slot(self, group: int, mine: list[int], admit: float, place: float) -> int | None:
        return mine[int(place * len(mine))] if mine and admit < len(mine) / self.met[str(group)] else None

    def _fresh(self) -> Held:
        return Held(self.full)


@dataclass
class TaskBalanced(ClassBalanced):
    """Keeps a sample in which the tasks' counts differ by at most one, as far as enough rows of each came by.

    As the class-balanced memory, with tasks in the place of classes. A row's task is its task id where the stream tells it,
    else the experience that the method said it is in.

    >>> memory = TaskBalanced(capacity=4)
    >>> for i in range(2):
    ...     memory.begin(Task(i))
    ...     memory.add(Batch(torch.arange(6.0)[:, None] + 10 * i, torch.arange(6)))
    >>> (memory.draw(4).x[:, 0] >= 10).sum().item()
    2
    """

    promises: ClassVar[Promise] = "balanced by task"

    experience: int = state(int)  # where the stream stands

    def begin(self, task: Task) -> None:
        self.experience = task.index

    def _groups(self, batch: Batch) -> Tensor:
        here = torch.full((len(batch),), self.experience, device=batch.y.device)
        return here if batch.task is None else torch.where(batch.task >= 0, batch.task, here)


@dataclass
class Greedy(_Balanced):
    """Keeps the first rows of each class, equally many.

    While there is room every row is kept. Then a row of a class that holds at least two rows fewer than a largest one takes
    the place of a random row of a largest class, and every other row is passed over.

    Paper: GDumb: A Simple Approach that Questions Our Progress in Continual Learning (ECCV 2020), the balancing sampler.

    >>> memory = Greedy(capacity=4)
    >>> memory.add(Batch(torch.arange(9.0)[:, None], torch.tensor([0] * 6 + [1] * 3)))
    >>> sorted(memory.draw(4).x[:, 0].tolist())[2:]
    [6.0, 7.0]
    """

    promises: ClassVar[Promise] = "balanced"

    def _grows(self, group: int, held: Held) -> bool:
        return len(held.slots.get(group, [])) <= held.largest - 2
