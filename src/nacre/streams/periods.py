"""Streams in the order of time: each task is a period."""

from __future__ import annotations

import torch
from torch import Tensor

from ..core.errors import BadData, BadSetting
from .columns import column
from .from_data import Data
from .placed import Placed

KIND = "time-incremental"


def periods(data: Data, tasks: int, by: str | None, cut: str) -> Placed:
    """Consecutive periods; test rows belong to the period in which they fall.

    Args:
        data: What to cut.
        tasks: How many periods.
        by: The column of the times; None takes the place of a row among the training rows, or among the test rows.
        cut: Where periods end: after equally many training rows (`"rows"`), or after equal times (`"span"`).
    """
    if by is not None:
        found = column(data, by, named=False)
        train, test = found.train.double(), found.test.double()
    else:
        train, test = _places(len(data.train)), _places(len(data.test))
    if not 1 <= tasks <= len(train):
        raise BadSetting(f"{len(train)} training rows cannot make {tasks} periods: ask for 1 to {len(train)}")
    ends = _ends(train, tasks, cut)  # (tasks - 1,) the first moment of each period but the first
    about = {"by": by or "the order of the rows", "cut": cut, "begins": ends.tolist()}
    return Placed(
        data, KIND, tasks, torch.searchsorted(ends, train, right=True), torch.searchsorted(ends, test, right=True),
        tuple(data.classes), times=(train, test), may_lack=True, about=about,
    )  # fmt: skip


def _places(rows: int) -> Tensor:
    """The place of each of these rows, as a share of all."""
    return torch.arange(rows).double() / max(rows, 1)


def _ends(times: Tensor, tasks: int, cut: str) -> Tensor:
    first, last = float(times.min()), float(times.max())
    if cut == "span":
        return first + (last - first) * torch.arange(1, tasks).double() / tasks
    at = torch.arange(1, tasks) * len(times) // tasks
    ends = times.sort().values[at]
    if len(ends.unique()) < len(ends) or (len(ends) and float(ends[0]) == first):
        raise BadData(
            f"{len(times)} rows of {len(times.unique())} different times cannot make {tasks} periods of as many rows: rows of "
            'one time stay together; make fewer tasks, or cut = "span"'
        )
    return ends
