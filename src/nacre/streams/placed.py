"""Streams in which it is known beforehand in which task each row stands: domains, grouped classes, periods, blurry tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..core.errors import BadData
from ..core.rows import Picked
from ..core.stream import Experience
from .from_data import Data, FromData, check_classes, experience


@dataclass(frozen=True, eq=False)
class Placed(FromData):
    """A stream whose rows have their tasks; made by the kinds that place them.

    Attributes:
        data: What it is made of.
        kind: The name under which `STREAMS` makes it.
        length: How many tasks there are.
        train_task: (training rows,) the task of each.
        test_task: (test rows,) the task of each.
        class_names: The name of each label of the stream.
        labels: (the data's labels,) the stream's label of each; None keeps them.
        seed: What the placing was drawn with.
        names: The name of each task's test set; empty: `task<i>`.
        times: When each training row and each test row arrived, (training rows,) and (test rows,); a task's rows lie in this
            order. None: in that of the data.
        may_lack: Whether a task may have no training rows, or no test rows.
        about: What else `describe` says.

    Raises:
        BadData: a task has no rows and may not lack them.
    """

    data: Data
    kind: str
    length: int
    train_task: Tensor = field(repr=False)
    test_task: Tensor = field(repr=False)
    class_names: tuple[str, ...]
    labels: Tensor | None = None
    seed: int = 0
    names: tuple[str, ...] = ()
    times: tuple[Tensor, Tensor] | None = None
    may_lack: bool = False
    about: Mapping[str, Any] = field(default_factory=dict)
    told: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        check_classes(self.data)
        for what, places in (("training", self._train), ("test", self._test)):
            lacking = [k for k, rows in enumerate(places) if not len(rows)]
            if lacking and not self.may_lack:
                raise BadData(
                    f"task {lacking[0]} ({self._name(lacking[0])}) has no {what} rows: make fewer tasks, or add such rows"
                )

    def __len__(self) -> int:
        return self.length

    def _made(self, index: int) -> Experience:
        train = Picked(self.data.train, self._train[index], self.labels)
        test = Picked(self.data.test, self._test[index], self.labels)
        classes = self._present[index].nonzero().flatten().tolist()
        return experience(index, train, test, classes, False, self._name(index))

    @property
    def in_order(self) -> bool:
        """Whether rows came one after the other."""
        return self.times is not None

    def describe(self) -> dict[str, Any]:
        """The stream in words and numbers, ready for JSON."""
        tasks = [
            {
                "index": index,
                "test": self._name(index),
                "classes": [self.class_names[c] for c in self._present[index].nonzero().flatten().tolist()],
                "train_rows": len(self._train[index]),
                "test_rows": len(self._test[index]),
            }
            for index in range(len(self))
        ]
        return {**self._about(), **self.about, "tasks": tasks}

    def _name(self, index: int) -> str:
        return self.names[index] if self.names else f"task{index}"

    @cached_property
    def _train(self) -> tuple[Tensor, ...]:
        """For each task, the positions of its training rows."""
        return self._positions(self.train_task, None if self.times is None else self.times[0])

    @cached_property
    def _test(self) -> tuple[Tensor, ...]:
        return self._positions(self.test_task, None if self.times is None else self.times[1])

    def _positions(self, task: Tensor, times: Tensor | None) -> tuple[Tensor, ...]:
        arrived = torch.arange(len(task)) if times is None else times.argsort(stable=True)
        counts = torch.bincount(task, minlength=self.length).tolist()
        return arrived[task[arrived].argsort(stable=True)].split(counts)

    @cached_property
    def _present(self) -> Tensor:
        """(tasks, labels) whether a task has training rows of a label."""
        y = self.data.train.y.cpu()
        y = y if self.labels is None else self.labels[y]
        width = len(self.class_names)
        return torch.bincount(self.train_task * width + y, minlength=self.length * width).view(-1, width) > 0
