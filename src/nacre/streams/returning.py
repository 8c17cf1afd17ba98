"""Long streams of small tasks whose classes come back."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..core.dice import dice
from ..core.errors import BadSetting
from ..core.rows import Picked
from ..core.stream import Experience
from .from_data import Brings, Data, FromData, check_classes, experience


@dataclass(frozen=True, eq=False)
class Returning(FromData):
    """A stream that brings a few classes at a time, drawn anew for each task.

    Task i draws its classes without replacement with the chances `shares`, and brings all their training rows, or some of
    them, drawn as well. Labels are the data's own. Every task has the same one test set, `all`: all test rows.

    Attributes:
        data: What it is made of.
        length: How many tasks there are.
        classes: How many classes a task brings.
        rows: How many rows of each; None: all.
        imbalance: How unequal the chances are; 0: equal.
        seed: Draws everything.

    Raises:
        BadSetting: a task would have more classes than there are.
    """

    data: Data
    length: int
    classes: int = 2
    rows: int | None = None
    imbalance: float = 0.0
    seed: int = 0
    kind: str = field(default="re-occurring", init=False)
    told: bool = field(default=False, init=False)
    brings: Brings = field(default="some", init=False)

    def __post_init__(self) -> None:
        check_classes(self.data)
        if self.classes > len(self.data.classes):
            raise BadSetting(
                f"a task of {self.classes} classes cannot be drawn from {len(self.data.classes)}: ask for fewer classes"
            )

    def __len__(self) -> int:
        return self.length

    def drawn(self, index: int) -> list[int]:
        """The classes of a task, ascending."""
        chance = dice(self.seed, self.kind, index, "classes")
        return torch.multinomial(self.shares, self.classes, generator=chance).sort().values.tolist()

    def _made(self, index: int) -> Experience:
        classes = self.drawn(index)
        places = torch.cat([self._some(index, c) for c in classes])
        held = [c for c in classes if len(self._of_class[c])]
        test = Picked(self.data.test, self._all_tests)
        return experience(index, Picked(self.data.train, places), test, held, False, "all")

    def _some(self, index: int, label: int) -> Tensor:
        places = self._of_class[label]
        if self.rows is None or self.rows >= len(places):
            return places
        chance = dice(self.seed, self.kind, index, "rows", label)
        return places[torch.randperm(len(places), generator=chance)[: self.rows]]

    @property
    def class_names(self) -> tuple[str, ...]:
        """The data's own names."""
        return tuple(self.data.classes)

    @cached_property
    def shares(self) -> Tensor:
        """(classes,) the chance of each class to be drawn first.

        Of N classes, the one at place c of a drawn order has a chance in proportion to (1/N - f c/N)^imbalance with f =
        0.05, or 1/N where there are more than 20.
        """
        count = len(self.data.classes)
        order = torch.randperm(count, generator=dice(self.seed, self.kind, "shares"))
        fall = min(0.05, 1 / count)
        chances = (1 / count - fall / count * order.double()) ** self.imbalance
        return chances / chances.sum()

    def describe(self) -> dict[str, Any]:
        """The stream in words and numbers, ready for JSON: the rule, not each of its tasks."""
        rule = {"classes": self.classes, "rows": self.rows, "imbalance": self.imbalance}
        return {
            **self._about(),
            **rule,
            "test": "all",
            "test_rows": len(self.data.test),
            "shares": self.shares.tolist(),
        }

    @cached_property
    def _of_class(self) -> tuple[Tensor, ...]:
        """The positions of each class's training rows, ascending."""
        y = self.data.train.y.cpu()
        return y.argsort(stable=True).split(torch.bincount(y, minlength=len(self.data.classes)).tolist())

    @cached_property
    def _all_tests(self) -> Tensor:
        return torch.arange(len(self.data.test))
