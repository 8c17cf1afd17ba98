"""Domain-incremental streams: the labels stay, what their rows look like changes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..core.errors import BadData
from .columns import column
from .from_data import Data, arranged, cut, sizes_of
from .placed import Placed

KIND = "domain-incremental"


def by_column(
    data: Data, by: str, tasks: int | Sequence[int] | None, order: str | Sequence[str | int], seed: int
) -> Placed:
    """Rows whose column has one value after the other; labels are the data's own.

    The test set of a task of one value is called like that value, that of several like all of them.
    """
    found = column(data, by, named=True)
    values, order = arranged(order, found.names, seed, "value")
    cuts = cut(values, sizes_of(len(values) if tasks is None else tasks, len(values), "value"))
    task_of = torch.empty(len(found.names), dtype=torch.long)
    for index, task in enumerate(cuts):
        task_of[list(task)] = index
    names = tuple(" + ".join(found.names[v] for v in task) for task in cuts)
    train, test = task_of[found.train], task_of[found.test]
    about = {"by": by, "order": order}
    return Placed(data, KIND, len(cuts), train, test, tuple(data.classes), None, seed, names, about=about)


def by_class(
    data: Data, tasks: int | Sequence[int] | None, order: str | Sequence[str | int], seed: int, usual: int
) -> Placed:
    """Classes grouped onto a fixed set of labels: the k-th class of each task is label k.

    Labels are called like all their classes.
    """
    count = len(data.classes)
    classes, order = arranged(order, data.classes, seed)
    cuts = cut(classes, sizes_of(min(usual, count // 2) if tasks is None else tasks, count))
    width = max(map(len, cuts))
    if width < 2:
        raise BadData(
            f"{len(cuts)} tasks of one class each have one label between them: make at most {count // 2} tasks of "
            f"{count} classes"
        )
    task_of, labels = torch.empty(count, dtype=torch.long), torch.empty(count, dtype=torch.long)
    for index, task in enumerate(cuts):
        task_of[list(task)], labels[list(task)] = index, torch.arange(len(task))
    names = tuple(" / ".join(data.classes[task[k]] for task in cuts if k < len(task)) for k in range(width))
    train, test = task_of[data.train.y.cpu()], task_of[data.test.y.cpu()]
    about = {"by": "classes", "order": order}
    return Placed(data, KIND, len(cuts), train, test, names, labels, seed, about=about)
