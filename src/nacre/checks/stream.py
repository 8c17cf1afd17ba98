"""What holds for every stream over a data set, and for the ways in which its rows arrive."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ..core.errors import BadData, BadSetting
from ..core.rows import Rows
from ..core.stream import Experience, experiences
from ..learner import Learner, Stage
from .check import Case, check
from .kinds import arrives, is_stream, is_whole_stream
from .runs import SGD, gap
from .worlds import VECTORS


@check(is_whole_stream)
def covers_once(case: Case) -> None:
    """Tasks bring the training rows that the stream says, train and test are disjoint, and classes are those present."""
    stream = case.part
    met = list(experiences(stream))
    {"each once": _each_once, "all": _all_again, "some": _some}[stream.brings](case, met)
    for m in met:
        both = len(set(_keys(m.task.train)) & {k for rows in m.tests.values() for k in _keys(rows)})
        case.holds(
            not both, "training and test rows are disjoint", f"{both} rows of task {m.task.index} are in both",
            "a test set cut from training",
        )  # fmt: skip
        present = tuple(sorted(set(_labels(m.task.train).tolist())))
        case.holds(
            tuple(sorted(m.task.classes)) == present, f"task {m.task.index} lists the classes that are in it",
            f"it lists {m.task.classes}, its rows carry {present}", "labels of the data instead of the stream's",
        )  # fmt: skip
        strange = [c for c in m.task.classes if not 0 <= c < len(stream.class_names)]
        case.holds(
            not strange, "each label of the stream has a name", f"{strange} have none", "names of the data's labels"
        )


@check(is_whole_stream)
def remade_item_by_item(case: Case) -> None:
    """Each item is the same whenever it is asked for, in any order, of an equal stream too; a sliced stream is refused."""
    stream, met = case.part, list(experiences(case.part))
    for made, order in (("itself", range(len(met))), ("an equal stream", range(len(met) - 1, -1, -1))):
        asked = stream if made == "itself" else dataclasses.replace(stream)
        for index in order:
            figure = gap(_told(met[index]), _told(asked[index]))
            case.holds(
                not figure, f"item {index} of {made} is the same every time", figure, "an order drawn at each access"
            )
    who = Learner(VECTORS.model(), (Stage(optimizer=SGD),))
    try:
        list(who.learn([stream[i] for i in range(1, len(stream))]))
        figure = "it is learned"
    except BadData:
        figure = ""
    case.holds(
        not figure, "a stream without its first task is refused by the learner", figure, "task.index made by slicing"
    )


@check(is_whole_stream)
def keeps_nothing(case: Case) -> None:
    """A stream is as large after all its items were made and read as after the first one."""
    stream = dataclasses.replace(case.part)
    sizes = []
    for met in experiences(stream):
        for rows in (met.task.train, *met.tests.values()):
            if rows is not None and len(rows):
                rows.take(torch.arange(1))
        sizes.append(_size(stream))
    case.holds(
        sizes[-1] <= sizes[0], f"it holds {sizes[0]} bytes, whatever was asked of it",
        f"after {len(sizes)} items it holds {sizes[-1]}", "experiences, or what they were drawn from, kept by number",
    )  # fmt: skip


@check(is_stream)
def hides_what_it_hides(case: Case) -> None:
    """Where the task is hidden, neither the task nor a row carries it; where it is told, every row does.

    Where no borders are told, no classes are announced either.
    """
    for met in experiences(case.part):
        rows = [met.task.train, *met.tests.values()]
        ids = [_task(r) for r in rows if r is not None]
        if case.part.told:
            wrong = [t for t in ids if t is None or set(t.tolist()) != {met.task.task_id}]
            case.holds(
                met.task.task_id is not None and not wrong, "every row carries its task", f"{len(wrong)} sets do not",
                "a task id set on the task alone",
            )  # fmt: skip
        else:
            seen = [t for t in ids if t is not None]
            case.holds(
                met.task.task_id is None and not seen, "nothing carries the hidden task",
                f"task {met.task.index} says {met.task.task_id}, {len(seen)} of its row sets carry it",
                "rows that keep the field of the scenario they were made for",
            )  # fmt: skip
        announced = met.task.classes or met.task.growth
        case.holds(
            met.task.border or not announced, "no classes are announced where no borders are told",
            f"task {met.task.index} announces {announced}", "a task of the stream inside, passed on as it is",
        )  # fmt: skip


@check(arrives)
def met_once(case: Case) -> None:
    """Each training row is given once, all of them are, and a second look is refused; test rows may be read again."""
    for index, met in enumerate(experiences(case.part)):
        case.holds(met.task.once, "the task says that its rows are met once", "it does not", "a flag that was lost")
        rows, inside = met.task.train, case.part.stream[index].task.train
        if rows is None or not len(rows):
            continue
        given, wanted = Counter(_keys(rows)), Counter(_keys(inside))
        figure = f"{sum((given - wanted).values())} are others, {sum((wanted - given).values())} are missing"
        case.holds(given == wanted, "it gives the rows of the stream inside", figure, "an order of other rows")
        try:
            rows.take(torch.arange(1))
            figure = "it is given again"
        except BadSetting:
            figure = ""
        case.holds(not figure, "a row that was given is refused", figure, "rows passed on as they are")
        for test in met.tests.values():
            for _ in range(2):
                test.take(torch.arange(1))


def _each_once(case: Case, met: list[Experience]) -> None:
    every = Counter(k for m in met for k in _keys(m.task.train))
    wanted = Counter(_keys(case.part.data.train))
    lost, more = wanted - every, every - wanted
    case.holds(
        not lost and not more, "each training row is in exactly one task",
        f"{sum(lost.values())} rows are in none, {sum(more.values())} in several", "tasks whose classes overlap",
    )  # fmt: skip
    tests = {k for m in met for rows in m.tests.values() for k in _keys(rows)}
    both = len(tests & set(every))
    case.holds(not both, "no test row is a training row of any task", f"{both} are", "a test set cut from training")


def _all_again(case: Case, met: list[Experience]) -> None:
    """Every row in every task, in the order of the data; training and test rows are seen alike."""
    stream, data = case.part, case.part.data
    turned = SimpleNamespace(train=data.test, test=data.train, classes=data.classes, groups=data.groups)
    other = dataclasses.replace(stream, data=turned)
    for m in met:
        first = min(m.task.classes, default=0)
        wrong = gap([_labels(m.task.train) - first], [data.train.y - data.train.y.min()])
        case.holds(not wrong, f"task {m.task.index} brings every row", wrong, "rows that a task leaves out")
        seen = [_all(rows).x for rows in m.tests.values()]
        wrong = gap(seen, [_all(other[m.task.index].task.train).x])
        case.holds(not wrong, "training and test rows of a task are changed alike", wrong, "a map drawn for each")


def _some(case: Case, met: list[Experience]) -> None:
    data = case.part.data
    wanted = dict(zip(_keys(data.train), data.train.y.tolist(), strict=True))
    for m in met:
        keys = _keys(m.task.train)
        strange = [k for k in keys if wanted.get(k) not in m.task.classes]
        case.holds(
            not strange, f"task {m.task.index} brings rows of its classes", f"{len(strange)} are none", "labels moved"
        )
        twice = len(keys) - len(set(keys))
        case.holds(not twice, f"task {m.task.index} brings no row twice", f"{twice} are", "rows drawn with replacement")


def _all(rows: Rows) -> Any:
    return rows.take(torch.arange(len(rows)))


def _keys(rows: Rows | None) -> list[bytes]:
    """Each row's bytes."""
    return [] if rows is None or not len(rows) else [r.contiguous().numpy().tobytes() for r in _all(rows).x]


def _labels(rows: Rows | None) -> Tensor:
    return torch.empty(0, dtype=torch.long) if rows is None or not len(rows) else _all(rows).y


def _told(met: Experience) -> list[Tensor]:
    """All that an experience says, as tensors."""
    every = [_all(r) for r in (met.task.train, *met.tests.values()) if r is not None and len(r)]
    return [torch.tensor([met.task.index, *met.task.classes]), *(t for batch in every for t in (batch.x, batch.y))]


def _task(rows: Rows) -> Tensor | None:
    return rows.take(torch.arange(0)).task if not len(rows) else _all(rows).task


def _size(held: Any, seen: set[int] | None = None) -> int:
    """Bytes of the tensors in what a stream holds beside its data, and of the places for everything else."""
    seen = set() if seen is None else seen
    if id(held) in seen:
        return 0
    seen.add(id(held))
    if isinstance(held, Tensor):
        return held.nbytes
    if isinstance(held, (list, tuple, set)):
        return sum(8 + _size(v, seen) for v in held)
    if isinstance(held, Mapping):
        return sum(8 + _size(v, seen) for v in held.values())
    inside = getattr(held, "__dict__", {})
    return (
        sum(8 + _size(v, seen) for name, v in inside.items() if name not in ("data", "train", "test")) if inside else 8
    )
