"""One data set cut by classes into tasks: class-incremental and task-incremental streams."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..core.dice import dice
from ..core.errors import BadData, BadSetting
from ..core.rows import Picked
from ..core.stream import Experience
from .from_data import Data, FromData, Labelled, arranged, check_classes, cut, experience, sizes_of


@dataclass(frozen=True, eq=False)
class Split(FromData):
    """A stream that brings some classes of one data set after the other; make it with `split`.

    Labels are numbered in the order of arrival, so a head only grows: the k-th class to arrive is label k, and is called
    `class_names[k]`. Experiences are made when asked for, share the memory of the data, and are the same every time.
    Experience i brings one test set, called `task<i>`, of its own classes.

    Attributes:
        data: What is cut.
        tasks: The data's labels that each task brings, in the order of arrival.
        order: How the classes were ordered: `"seed"`, `"given"` or `"listed"`.
        seed: The seed of that order.
        told: Whether rows carry their task id (task-incremental), or it is hidden (class-incremental).

    Raises:
        BadData: labels beyond the classes, or a task without training or test rows.
        BadSetting: a class in no task or in two.
    """

    data: Data
    tasks: tuple[tuple[int, ...], ...]
    order: str = "seed"
    seed: int = 0
    told: bool = False

    def __post_init__(self) -> None:
        check_classes(self.data)
        classes = self.data.classes
        if sorted(c for task in self.tasks for c in task) != list(range(len(classes))) or not all(self.tasks):
            raise BadSetting(
                f"{len(self.tasks)} tasks bring {sum(map(len, self.tasks))} classes, but must bring each of the "
                f"{len(classes)} exactly once, and at least one each: list them anew"
            )
        for index, (train, test) in enumerate(zip(*self.counts, strict=True)):
            if not train or not test:
                names = ", ".join(classes[c] for c in self.tasks[index][:5])
                raise BadData(
                    f"task {index} ({names}) has {train} training and {test} test rows: make fewer tasks, leave these "
                    "classes out of the data, or add rows of them to both"
                )

    def __len__(self) -> int:
        return len(self.tasks)

    def _made(self, index: int) -> Experience:
        task_id = index if self.told else None
        train, test = (
            Picked(rows, places[index], self.labels, task_id)
            for rows, places in zip((self.data.train, self.data.test), self._places, strict=True)
        )
        first = self._firsts[index]
        classes = range(first, first + len(self.tasks[index]))
        return experience(index, train, test, classes, self.told, f"task{index}")

    @property
    def kind(self) -> str:
        """The name under which `STREAMS` makes it."""
        return "task-incremental" if self.told else "class-incremental"

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """The data's own name of each label of the stream."""
        return tuple(self.data.classes[c] for task in self.tasks for c in task)

    @cached_property
    def labels(self) -> Tensor:
        """(classes,) the stream's label of each label of the data."""
        return torch.tensor([c for task in self.tasks for c in task]).argsort()

    @cached_property
    def counts(self) -> tuple[list[int], list[int]]:
        """Training rows and test rows of each task."""
        return self._count(self.data.train), self._count(self.data.test)

    def describe(self) -> dict[str, Any]:
        """The stream in words and numbers, ready for JSON."""
        tasks = [
            {
                "index": index,
                "classes": [self.data.classes[c] for c in task],
                "train_rows": self.counts[0][index],
                "test_rows": self.counts[1][index],
            }
            for index, task in enumerate(self.tasks)
        ]
        return {**self._about(), "order": self.order, "tasks": tasks}

    def to_json(self) -> str:
        """What `from_json` makes the same stream from, beside the data."""
        return json.dumps(self.describe(), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, data: Data) -> Split:
        """The stream that `to_json` wrote down, over the same data.

        Raises:
            BadData: the data have other classes or other numbers of rows, or the text is no stream.
        """
        try:
            said = json.loads(text)
            tasks = [list(task["classes"]) for task in said["tasks"]]
            rows = [(task["train_rows"], task["test_rows"]) for task in said["tasks"]]
            order, seed, told = said["order"], said["seed"], said["told"]
        except (ValueError, KeyError, TypeError) as error:
            raise BadData(
                f"this is no stream that to_json wrote ({type(error).__name__}: {error}): give its text"
            ) from error
        number = {name: k for k, name in enumerate(data.classes)}
        names = [name for task in tasks for name in task]
        if strange := set(names) ^ set(number):
            missing = sorted(map(str, set(names) - set(number)))
            where = "the data lack" if missing else "the stream lacks"
            raise BadData(
                f"these data are not those of the stream: {where} {', '.join(missing or sorted(strange))[:200]}: "
                "load the data that the stream was made of"
            )
        made = cls(data, tuple(tuple(number[name] for name in task) for task in tasks), order, seed, told)
        if (found := list(zip(*made.counts, strict=True))) != rows:
            k = next(k for k, pair in enumerate(found) if pair != rows[k])
            raise BadData(
                f"these data are not those of the stream: task {k} has {found[k]} training and test rows, and had {rows[k]}: "
                "load the data that the stream was made of"
            )
        return made

    @cached_property
    def _firsts(self) -> list[int]:
        """The first label of each task."""
        sizes = torch.tensor([len(task) for task in self.tasks])
        return (sizes.cumsum(0) - sizes).tolist()

    @cached_property
    def _places(self) -> tuple[tuple[Tensor, ...], ...]:
        """For training and test rows, and each task: the positions of its rows, (chosen,), ascending."""
        task_of = torch.empty(len(self.data.classes), dtype=torch.long)
        for index, classes in enumerate(self.tasks):
            task_of[list(classes)] = index
        parts = zip((self.data.train, self.data.test), self.counts, strict=True)
        return tuple(task_of[rows.y.cpu()].argsort(stable=True).split(counts) for rows, counts in parts)

    def _count(self, rows: Labelled) -> list[int]:
        found = torch.bincount(rows.y.cpu(), minlength=len(self.data.classes)).tolist()
        return [sum(found[c] for c in task) for task in self.tasks]


def split(
    data: Data,
    tasks: int | Sequence[int] = 5,
    *,
    order: str | Sequence[str | int] = "seed",
    seed: int = 0,
    told: bool = False,
) -> Split:
    """Cut data by classes into tasks.

    Where the data have groups, and as many as tasks are asked for, each group becomes a task: in the order of the groups if
    `order` is `"given"`, in an order drawn by the seed if it is `"seed"`. Otherwise groups are not looked at.

    Args:
        data: What to cut, such as a `nacre.data.Source`.
        tasks: How many tasks, whose sizes then differ by one class at most; or the number of classes of each task.
        order: In which order classes arrive: drawn by the `"seed"`, as `"given"`, or a list of their names or labels; whole
            numbers that are not all labels are names.
        seed: Draws the order.
        told: Whether rows carry their task id.

    Raises:
        BadSetting: tasks that cannot be made of these classes, or an order that is none of them.
        UnknownName: the order lists a class that the data lack.
        BadData: a task would have no training or no test rows.

    >>> from nacre.core.rows import TensorRows
    >>> from types import SimpleNamespace
    >>> rows = TensorRows(torch.zeros(8, 2), torch.arange(8) % 4)
    >>> data = SimpleNamespace(train=rows, test=rows, classes=("a", "b", "c", "d"), groups=())
    >>> stream = split(data, 2, order=["d", "a", "b", "c"])
    >>> stream[1].task.classes, stream.class_names[2:], stream[1].task.train.take(torch.tensor([0])).y.item()
    ((2, 3), ('b', 'c'), 2)
    """
    sizes = sizes_of(tasks, len(data.classes))
    grouped = isinstance(tasks, int) and len(data.groups) == tasks and order in ("seed", "given")
    if grouped:
        units = data.groups
        if order == "seed":
            units = [units[k] for k in torch.randperm(len(units), generator=dice(seed, "split")).tolist()]
        return Split(data, tuple(tuple(u) for u in units), str(order), seed, told)
    classes, order = arranged(order, data.classes, seed)
    return Split(data, cut(classes, sizes), order, seed, told)
