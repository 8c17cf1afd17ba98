"""What arrives, in which order, and what may be known about it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from torch import Tensor

from .errors import BadSetting
from .model import Outputs
from .once import Once
from .rows import Batch, Chain, Rows


@dataclass(frozen=True)
class Task:
    """What training may know of one experience. It has no test rows, so peeking cannot be written.

    Attributes:
        index: Its place in the stream, from 0.
        train: The training rows; None or empty where it brings none.
        classes: The labels that occur in it.
        task_id: What prediction may know of its rows; None = hidden.
        owners: The classes of each task id, where several tasks are joined into one; empty otherwise.
        once: Whether its rows are met once (an online stream): asked for again, they refuse.
        border: Whether anybody is told where it begins and ends and what it brings. On a task-free stream nobody is: it is a
            piece of one long task, its classes are not announced, and methods hear of neither its beginning nor its end.
        ordered: Whether its rows are met in the order in which they lie, instead of a drawn one.
        anchors: Rows whose labels mean nothing, which may be seen in every task: other people's texts or pictures, through
            which methods look at how the backbone changes; None where nobody gave any.
        stage: Which stage of it is running; set by the learner.
        device: Where batches are to be put; set by the driver.
        augment: The stage's augmentation by counted dice, `augment(batch, *place)`; set by the driver.
        outputs: The stage's own shaped answer for any rows; set by the driver.
        objective: The stage's own loss on any rows, what importance is taken of; set by the driver.
    """

    index: int
    train: Rows | None = None
    classes: tuple[int, ...] = ()
    task_id: int | None = None
    owners: tuple[tuple[tuple[int, ...], int | None], ...] = ()
    once: bool = False
    border: bool = True
    ordered: bool = False
    anchors: Rows | None = None
    stage: int = 0
    device: str = "cpu"
    augment: Callable[..., Batch] | None = None
    outputs: Callable[[Batch], Outputs] | None = None
    objective: Callable[[Batch], Tensor] | None = None

    @property
    def growth(self) -> tuple[tuple[tuple[int, ...], int | None], ...]:
        """What heads learn of it before it begins: classes, and the task id that owns them."""
        return self.owners or (((self.classes, self.task_id),) if self.classes else ())

    @property
    def rows(self) -> int:
        """How many training rows there are."""
        return len(self.train) if self.train is not None else 0


@dataclass(frozen=True)
class Experience:
    """The unit of a stream: a task and the named test sets that belong to it."""

    task: Task
    tests: Mapping[str, Rows] = field(default_factory=dict)


class Stream(Protocol):
    """`stream[i]` is made on demand and is the same every time; IndexError ends it."""

    def __getitem__(self, index: int, /) -> Experience: ...


def experiences(stream: Stream) -> Iterator[Experience]:
    """Walk a stream from its beginning."""
    index = 0
    while True:
        try:
            met = stream[index]
        except IndexError:
            return
        yield met
        index += 1


@dataclass(frozen=True)
class Accumulated:
    """A stream in which each experience also brings the training rows of all before it: what cumulative training is given.

    Its test sets are its own. Experiences are made anew when they are asked for, so nothing is kept.

    Raises:
        BadSetting: when an experience is asked for: its rows, or those of one before it, are met once.
    """

    stream: Stream

    def __getitem__(self, index: int) -> Experience:
        last = self.stream[index]
        met = [*(self.stream[i] for i in range(index)), last]
        if any(e.task.once for e in met):
            raise BadSetting(
                'cumulative training meets rows again, and those of this stream are met once: set arrival = "offline"'
            )
        rows = tuple(e.task.train for e in met if e.task.train is not None)
        classes = tuple(sorted({c for e in met for c in e.task.classes}))
        owners = tuple((e.task.classes, e.task.task_id) for e in met if e.task.classes)
        task = replace(last.task, train=Chain(rows) if rows else None, classes=classes, task_id=None, owners=owners)
        return Experience(task, last.tests)


@dataclass(frozen=True)
class Joined:
    """A whole finite stream as one experience: what a joint bound is trained on. The test sets keep their names."""

    stream: Stream

    def __getitem__(self, index: int) -> Experience:
        if index:
            raise IndexError(f"a joined stream has one experience, 0, not {index}")
        met: Sequence[Experience] = list(experiences(self.stream))
        once = any(e.task.once for e in met)
        parts = (e.task.train for e in met if e.task.train is not None)
        rows = Chain(tuple(part.rows if isinstance(part, Once) else part for part in parts))
        classes = tuple(sorted({c for e in met for c in e.task.classes}))
        tests = {name: test for e in met for name, test in e.tests.items()}
        owners = tuple((e.task.classes, e.task.task_id) for e in met if e.task.classes)
        train = (Once(rows, 0) if once else rows) if rows.parts else None
        border = all(e.task.border for e in met)
        anchors = met[0].task.anchors if met else None
        return Experience(Task(0, train, classes, owners=owners, once=once, border=border, anchors=anchors), tests)
