"""What kinds of streams, and streams whose rows are met once or that tell no borders, are refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from nacre.core.drive import Drive
from nacre.core.errors import BadData, BadSetting, UnknownName
from nacre.core.method import Method
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import TensorRows
from nacre.core.stream import Accumulated, Experience, Task
from nacre.data import Column, Source
from nacre.heads import GrowingLinear
from nacre.learner import Learner, Stage
from nacre.schedules import schedule
from nacre.streams import Arriving, online, stream, stream_of, task_free
from tests.errors.row import Place, Row

LABELS = torch.arange(6) % 2
VECTORS = torch.arange(18.0).view(6, 3)


def toy(classes: int = 2, pictures: bool = False, **columns: Column) -> Any:
    """Six rows, vectors or pictures."""
    x = torch.zeros(6, 1, 4, 4, dtype=torch.uint8) if pictures else VECTORS
    rows = TensorRows(x, torch.arange(6) % classes)
    names = tuple("abcdef"[:classes])
    return SimpleNamespace(train=rows, test=rows, classes=names, groups=(), columns=columns)


def source(column: Any) -> Source:
    rows = TensorRows(VECTORS, LABELS)
    return Source("toy", rows, rows, ("a", "b"), columns={"site": column})


NAMED = Column.of(["sea", "air"] * 3, ["sea", "air"] * 3)
TIMES = Column.of([0.0, 0.0, 0.0, 1.0, 1.0, 1.0], [0.0] * 6)

KINDS = [
    Row(
        "a kind with a setting out of its range",
        BadSetting,
        "Permuted.pad must be at least 0, not -1",
        lambda at: stream("permuted", toy(), pad=-1),
    ),
    Row(
        "a kind with a choice that there is not",
        UnknownName,
        "unknown value of Permuted.scenario 'tasks': did you mean 'task'? known are …",
        lambda at: stream("permuted", toy(), scenario="tasks"),
    ),
    Row(
        "permuted rows that are neither pictures nor vectors",
        BadData,
        "permuted streams are made of pictures, to be padded, not of rows of shape (3,): take other data",
        lambda at: stream("permuted", toy(), pad=2),
    ),
    Row(
        "rotated rows that are no pictures",
        BadData,
        "rotated streams are made of pictures, not of rows of shape (3,): take other data",
        lambda at: stream("rotated", toy()),
    ),
    Row(
        "no angles",
        BadSetting,
        "Rotated.angles is empty: give one for each task, or none to have them drawn",
        lambda at: stream("rotated", toy(pictures=True), angles=[]),
    ),
    Row(
        "angles that are no numbers",
        BadSetting,
        "Rotated.angles are numbers of degrees, not '90': write angles = [0, 80, 160]",
        lambda at: stream("rotated", toy(pictures=True), angles=["90"]),
    ),
    Row(
        "angles for another number of tasks",
        BadSetting,
        "Rotated.angles has 2 of them, for 3 tasks: leave tasks out, or give as many",
        lambda at: stream("rotated", toy(pictures=True), angles=[0, 90], tasks=3),
    ),
    Row(
        "a column that there is not",
        UnknownName,
        "unknown column of the data 'sight': did you mean 'site'? known are site",
        lambda at: stream("domain-incremental", toy(site=NAMED), by="sight"),
    ),
    Row(
        "a column of the other sort",
        BadData,
        "the column 'time' holds numbers where names such as domains are needed: say another column, with by",
        lambda at: stream("domain-incremental", toy(time=TIMES), by="time"),
    ),
    Row(
        "a domain without test rows",
        BadData,
        "task 1 (sea) has no test rows: make fewer tasks, or add such rows",
        lambda at: stream("domain-incremental", toy(domain=Column.of(["air", "sea"] * 3, ["air"] * 6)), order="given"),
    ),
    Row(
        "grouped tasks of one class",
        BadData,
        "2 tasks of one class each have one label between them: make at most 1 tasks of 2 classes",
        lambda at: stream("domain-incremental", toy(), tasks=2),
    ),
    Row(
        "more blurry tasks than classes",
        BadSetting,
        "2 classes cannot make 5 blurry tasks: ask for 1 to 2",
        lambda at: stream("blurry", toy()),
    ),
    Row(
        "more periods than rows",
        BadSetting,
        "6 training rows cannot make 7 periods: ask for 1 to 6",
        lambda at: stream("time-incremental", toy(), tasks=7),
    ),
    Row(
        "more periods than times",
        BadData,
        "6 rows of 2 different times cannot make 3 periods of as many rows: rows of one time stay together; make fewer tasks, "
        'or cut = "span"',
        lambda at: stream("time-incremental", toy(time=TIMES), tasks=3),
    ),
    Row(
        "tasks of more classes than there are",
        BadSetting,
        "a task of 3 classes cannot be drawn from 2: ask for fewer classes",
        lambda at: stream("re-occurring", toy(), classes=3),
    ),
    Row(
        "a function without a length",
        BadSetting,
        "a stream that a function makes has a length of at least 1, not None: say length=...",
        lambda at: stream_of(lambda i: Experience(Task(i))),  # pyright: ignore[reportCallIssue, reportArgumentType]
    ),
    Row(
        "a list with a length",
        BadSetting,
        "length = 3 is for a stream that a function makes: leave it out, lists have their own",
        lambda at: stream_of([Experience(Task(0))], length=3),  # pyright: ignore[reportCallIssue, reportArgumentType]
    ),
    Row(
        "a function that makes another place's experience",
        BadData,
        "the experience at place 1 has task.index 0: number tasks 0, 1, ... in the order in which they arrive",
        lambda at: stream_of(lambda i: Experience(Task(0)), length=2)[1],
    ),
    Row(
        "a column of another length",
        BadData,
        "toy, the column 'site' of training rows is (2,), but there are 6 rows: give a tensor with one value for each",
        lambda at: source(Column.of([0.0, 1.0], [0.0, 1.0])),
    ),
    Row(
        "a column of two values of one name",
        BadData,
        "toy, the column 'site' of training rows has two values of one name: give each its own",
        lambda at: source(Column(LABELS, LABELS, ("sea", "sea"))),
    ),
    Row(
        "a column of numbers without a name",
        BadData,
        "toy, the column 'site' of training rows numbers its 2 names, so its values are int64 in 0..1: renumber it",
        lambda at: source(Column(LABELS + 1, LABELS, ("sea", "air"))),
    ),
    Row(
        "a column with NaN",
        BadData,
        "toy, the column 'site' of training rows holds NaN or infinite numbers: repair or leave these rows out",
        lambda at: source(Column.of([float("nan")] * 6, [0.0] * 6)),
    ),
    Row(
        "a test row of a domain that training lacks",
        BadData,
        "test rows have the value 'sky', which no training row has: leave them out",
        lambda at: Column.of(["sea"], ["sky"]),
    ),
]


class Net(nn.Module):
    """A head that grows, alone."""

    def __init__(self) -> None:
        super().__init__()
        self.head = GrowingLinear(3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(x)


def learned(stream: Any, *stages: Stage) -> None:
    """Carry a small net through a stream."""
    for _ in Learner(Net(), stages or (staged(),)).learn(stream):
        pass


def staged(method: Any = None, **more: Any) -> Stage:
    sgd = MadeOptimizer("sgd", 0.1)
    return Stage(method=method if method is not None else Method(), **{"optimizer": sgd, "batch_size": 4, **more})


class Late(Method):
    """Learns at the end of a task."""

    def end_stage(self, model: nn.Module, task: Task) -> None:
        """Read the first row again."""
        assert task.train is not None
        task.train.take(torch.tensor([0]))


class TwoFaced(torch.optim.SGD):
    """Is read through other weights than it trains."""

    def eval(self) -> None:
        """Change to them."""


def tasks() -> Any:
    return stream_of([Experience(Task(0, TensorRows(VECTORS, LABELS), (0, 1)))])


class Endless:
    """A stream that does not know its length."""

    def __getitem__(self, index: int) -> Experience:
        return Experience(Task(index))


def on_two_ranks(at: Place) -> None:
    """A class that only this rank has seen."""
    drive = Drive(Method(), Net(), MadeOptimizer("sgd", 0.1), Task(0, TensorRows(VECTORS, LABELS), border=False))
    drive.world = 2
    drive.admit(LABELS)


ARRIVAL = [
    Row(
        "an arrival that there is not",
        UnknownName,
        "unknown arrival 'onlin': did you mean 'online'? known are offline, online, task-free",
        lambda at: stream("permuted", toy(), arrival="onlin"),
    ),
    Row(
        "the length of a stream that has none",
        BadData,
        "the stream Endless does not know its length: give it a __len__, or walk through it",
        lambda at: len(Arriving(Endless())),
    ),
    Row(
        "more than one epoch of an online stream",
        BadSetting,
        "the 6 rows of task 0 are met once, in 2 steps of 4, but epochs = 2 asks for 4 steps: set epochs = 1, or let rows "
        'stay, with arrival = "offline"',
        lambda at: learned(online(tasks()), staged(epochs=2)),
    ),
    Row(
        "a second look at a row of an online stream",
        BadSetting,
        "the rows of an online stream are met once, and 1 of task 0 are asked for again: train in one stage, for 1 epoch, with "
        "methods that learn from batches as they pass or keep rows in a memory; who reads the rows of a task at its end or its "
        'beginning needs arrival = "offline"',
        lambda at: learned(online(tasks()), staged(Late())),
    ),
    Row(
        "cumulative training on an online stream",
        BadSetting,
        'cumulative training meets rows again, and those of this stream are met once: set arrival = "offline"',
        lambda at: Accumulated(online(tasks()))[0],
    ),
    Row(
        "a method that needs borders, without borders",
        BadSetting,
        "Late learns when a task begins or ends (end_stage), and a task-free stream tells neither: use methods that learn at "
        'each step, such as replay from a memory, or tell borders with arrival = "online"',
        lambda at: learned(task_free(tasks()), staged(Late())),
    ),
    Row(
        "an optimizer that is read through other weights, without borders",
        BadSetting,
        "TwoFaced is read through other weights than it trains, and changes between them are not exact: on a task-free stream "
        "use an optimizer with one set of weights, such as AdamW or SGD",
        lambda at: learned(task_free(tasks()), staged(optimizer=lambda named: TwoFaced(named.values(), lr=0.1))),
    ),
    Row(
        "a stream that tells its tasks, without borders",
        BadSetting,
        "task 0 tells its task id, and a task-free stream tells none: take one that hides tasks, such as class-incremental, or "
        "let it be online",
        lambda at: task_free(stream_of([Experience(Task(0, TensorRows(VECTORS, LABELS), (0, 1), task_id=0))]))[0],
    ),
    Row(
        "several stages without borders",
        BadSetting,
        "2 stages follow each other where a task ends, and a task-free stream does not tell: compose their methods in one "
        'stage, or tell borders, with arrival = "online"',
        lambda at: learned(task_free(tasks()), staged(), staged()),
    ),
    Row(
        "a stage of some tasks without borders",
        BadSetting,
        "when = 'first' counts tasks, and a task-free stream tells none: leave it out, or tell borders, with arrival = "
        '"online"',
        lambda at: learned(task_free(tasks()), staged(when="first")),
    ),
    Row(
        "a schedule of shares without borders",
        BadSetting,
        "a schedule with shares of a stage needs its end, and a task-free stream has one stage without an end: leave it out, "
        'or tell borders, with arrival = "online"',
        lambda at: learned(task_free(tasks()), staged(schedule=schedule("cosine"))),
    ),
    Row(
        "a new class on one of several ranks, without borders",
        BadSetting,
        "a row of class 1 came up on one of several ranks, and the head is too narrow for it: call nacre.grow(model, classes) "
        "before, or use one process",
        on_two_ranks,
    ),
]
