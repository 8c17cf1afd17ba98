"""How the rows of a stream arrive: task by task to be met as often as one likes, once, or without a word about tasks."""

from __future__ import annotations

from collections.abc import Callable, Sized
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor

from ..core.dice import dice
from ..core.errors import BadData, BadSetting, UnknownName
from ..core.once import Once
from ..core.rows import Batch, Rows
from ..core.stream import Experience, Stream

Arrival = Literal["offline", "online", "task-free"]


@dataclass(frozen=True)
class Arriving:
    """Another stream, whose rows are met once; make it with `online` or `task_free`.

    Attributes:
        stream: The stream.
        borders: Whether it is told where tasks begin and end, and which classes they bring.
        seed: Draws the order in which the rows of a task arrive where no borders are told.
        in_order: Whether rows arrive in the order in which they lie; None: if the stream says so of itself.
    """

    stream: Stream
    borders: bool = True
    seed: int = 0
    in_order: bool | None = None

    def __len__(self) -> int:
        if not isinstance(self.stream, Sized):
            raise BadData(
                f"the stream {type(self.stream).__name__} does not know its length: give it a __len__, or walk through it"
            )
        return len(self.stream)

    @property
    def told(self) -> bool:
        """Whether rows carry their task id."""
        return bool(getattr(self.stream, "told", False))

    def __getitem__(self, index: int) -> Experience:
        """The experience at a place, counted from 0."""
        met = self.stream[index]
        task = met.task
        in_order = bool(getattr(self.stream, "in_order", False) if self.in_order is None else self.in_order)
        rows = task.train
        if not self.borders:
            if task.task_id is not None:
                raise BadSetting(
                    f"task {index} tells its task id, and a task-free stream tells none: take one that hides tasks, such as "
                    "class-incremental, or let it be online"
                )
            rows = rows if in_order or rows is None else Shuffled(rows, (self.seed, "arrival", index))
            task = replace(task, classes=(), owners=(), border=False)
        train = None if rows is None else Once(rows, index)
        return replace(met, task=replace(task, train=train, once=True, ordered=in_order or not self.borders))


@dataclass(frozen=True)
class Shuffled:
    """Rows in a drawn order.

    Attributes:
        rows: The rows.
        place: Draws the order.
    """

    rows: Rows
    place: tuple[int | str, ...]

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: Tensor) -> Batch:
        """The rows at these positions of the drawn order."""
        return replace(self.rows.take(self._order[index]), ids=index)

    @cached_property
    def _order(self) -> Tensor:
        return torch.randperm(len(self.rows), generator=dice(*self.place))


def online(stream: Stream) -> Arriving:
    """Each row is met once, in the batches of the stage; where a task begins and ends is told.

    A second look at a row is refused: more than one epoch, a second stage that trains on the same task, a method that reads
    the rows of a task at its end. Rows of a memory are not the stream's, and may be met as often as a method likes. Where
    the stream has an order of its own, such as time, rows arrive in it.

    >>> from nacre.core.rows import TensorRows
    >>> from nacre.core.stream import Task
    >>> from nacre.streams import stream_of
    >>> rows = TensorRows(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
    >>> stream = online(stream_of([Experience(Task(0, rows, (0, 1)))]))
    >>> stream[0].task.once, stream[0].task.classes
    (True, (0, 1))
    """
    return Arriving(stream)


def task_free(stream: Stream, seed: int = 0) -> Arriving:
    """Each row is met once, and nothing says where a task begins or ends or which classes it brings.

    To the methods it is one long task without an end. They hear of neither its beginning nor its end; one stage goes on
    through all of it, with one optimizer, its steps counted on. The head grows when a label comes up in a batch that it does
    not answer for. What the learner yields are the places at which it is measured; a batch ends where such a piece ends.

    Args:
        stream: A stream that hides its tasks.
        seed: Draws the order in which the rows of each of its tasks arrive, unless it has an order of its own.

    >>> from nacre.core.rows import TensorRows
    >>> from nacre.core.stream import Task
    >>> from nacre.streams import stream_of
    >>> rows = TensorRows(torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]))
    >>> stream = task_free(stream_of([Experience(Task(0, rows, (0, 1)))]))
    >>> stream[0].task.border, stream[0].task.classes
    (False, ())
    """
    return Arriving(stream, borders=False, seed=seed)


def offline(stream: Stream) -> Stream:
    """All rows of a task are there at once and may be met as often as a stage likes; its borders and classes are told."""
    return stream


ARRIVALS: dict[str, Callable[..., Stream]] = {"offline": offline, "online": online, "task-free": task_free}
"""Ways in which rows arrive, by name: what `arrival` says of a stream of any kind."""


def arriving(stream: Stream, arrival: str, seed: int = 0) -> Stream:
    """A stream whose rows arrive so.

    Raises:
        UnknownName: there is no such way; the nearest is named.
    """
    if arrival not in ARRIVALS:
        raise UnknownName("arrival", arrival, ARRIVALS)
    return task_free(stream, seed) if arrival == "task-free" else ARRIVALS[arrival](stream)
