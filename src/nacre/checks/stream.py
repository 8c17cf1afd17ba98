"""What holds for every stream that cuts a data set into tasks."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch
from torch import Tensor

from ..core.errors import BadData
from ..core.rows import Rows
from ..core.stream import Experience, experiences
from ..learner import Learner, Stage
from .check import Case, check
from .kinds import is_stream
from .runs import SGD, gap
from .worlds import VECTORS


@check(is_stream)
def covers_once(case: Case) -> None:
    """Each training row is in one task; train and test are disjoint; classes are those present; it is the same every time."""
    stream = case.part
    met = list(experiences(stream))
    train = [_keys(m.task.train) for m in met]
    every = Counter(k for keys in train for k in keys)
    wanted = Counter(_keys(stream.data.train))
    lost, more = wanted - every, every - wanted
    case.holds(
        not lost and not more, "each training row is in exactly one task",
        f"{sum(lost.values())} rows are in none, {sum(more.values())} in several", "tasks whose classes overlap",
    )  # fmt: skip
    tests = {k for m in met for rows in m.tests.values() for k in _keys(rows)}
    both = len(tests & set(every))
    case.holds(
        not both, "training and test rows are disjoint", f"{both} rows are in both", "a test set cut from training"
    )
    for m in met:
        present = tuple(sorted(set(_labels(m.task.train).tolist())))
        case.holds(
            tuple(sorted(m.task.classes)) == present, f"task {m.task.index} lists the classes that are in it",
            f"it lists {m.task.classes}, its rows carry {present}", "labels of the data instead of the stream's",
        )  # fmt: skip
    for m in met:
        again = stream[m.task.index]
        figure = gap([_labels(m.task.train), *_x(m)], [_labels(again.task.train), *_x(again)])
        case.holds(
            not figure, f"stream[{m.task.index}] is the same every time", figure, "an order drawn at each access"
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


@check(is_stream)
def hides_what_it_hides(case: Case) -> None:
    """Where the scenario hides the task, neither the task nor any row carries it; where it tells it, every row does."""
    for met in experiences(case.part):
        rows = [met.task.train, *met.tests.values()]
        told = [_task(r) for r in rows if r is not None]
        if case.part.told:
            wrong = [t for t in told if t is None or set(t.tolist()) != {met.task.task_id}]
            case.holds(
                met.task.task_id is not None and not wrong, "every row carries its task", f"{len(wrong)} sets do not",
                "a task id set on the task alone",
            )  # fmt: skip
        else:
            seen = [t for t in told if t is not None]
            case.holds(
                met.task.task_id is None and not seen, "nothing carries the hidden task",
                f"task {met.task.index} says {met.task.task_id}, {len(seen)} of its row sets carry it",
                "rows that keep the field of the scenario they were made for",
            )  # fmt: skip


def _all(rows: Rows) -> Any:
    return rows.take(torch.arange(len(rows)))


def _keys(rows: Rows | None) -> list[bytes]:
    """Each row's bytes."""
    return [] if rows is None or not len(rows) else [r.contiguous().numpy().tobytes() for r in _all(rows).x]


def _labels(rows: Rows | None) -> Tensor:
    return torch.empty(0, dtype=torch.long) if rows is None or not len(rows) else _all(rows).y


def _x(met: Experience) -> list[Tensor]:
    return [_all(r).x for r in (met.task.train, *met.tests.values()) if r is not None and len(r)]


def _task(rows: Rows) -> Tensor | None:
    return _all(rows).task
