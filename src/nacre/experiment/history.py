"""What happened at many steps of many tasks, as columns of numbers: however long a stream is, they stay small.

A number takes eight bytes in memory, in a checkpoint as few as hold it exactly. Where there are more rows than the limit, every
second point is left out, of the past as of what comes: what is held is then what would have been held had it been so from the
beginning.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from itertools import compress
from math import nan
from typing import Any

import torch

PLACE = ("task", "stage", "step")
SMALLER = (torch.uint8, torch.int16, torch.int32, torch.float32)  # than float64
FEW = 4  # points of a stage: with fewer than that, stages are left out instead of points


class History:
    """Rows of numbers, each with its place: task, stage and step.

    Args:
        *names: What a row holds beside its place.
        every: Steps between points; 0: points are not left out, only tasks.
        first: Whether the first step of a stage is a point, too.
        limit: Rows that are held at most.

    >>> losses = History("loss", every=10, first=True, limit=100)
    >>> for task in range(50):
    ...     losses.begin(task, 0, 30)
    ...     for step in range(1, 31):
    ...         if losses.due(task, step):
    ...             losses.add(task, 0, step, 1 / step)
    >>> len(losses), losses.stages()[:2], [row[0] for row in dict(losses.by_stage())[0, 0]]
    (100, [(0, 0, 30), (2, 0, 30)], [1.0, 10.0, 20.0, 30.0])
    """

    def __init__(self, *names: str, every: int = 0, first: bool = False, limit: int = 5_000):
        self.names, self.every, self.first, self.limit = (*PLACE, *names), every, first, limit
        self.columns = {name: array("d") for name in self.names}
        self.begun = {name: array("d") for name in ("task", "stage", "steps")}
        self.stride = self.skip = 1  # of points and tasks, each how manieth is held

    def __len__(self) -> int:
        return len(self.columns["task"])

    def begin(self, task: int, stage: int, steps: int) -> None:
        """Note that a stage began, and how many steps it has."""
        if not task % self.skip:
            _append(self.begun, (task, stage, steps))

    def due(self, task: int, step: int) -> bool:
        """Whether a point belongs here, with `step` counted from 1."""
        at = (self.first and step == 1) or (self.every and step % (self.every * self.stride) == 0)
        return bool(at) and not task % self.skip

    def add(self, task: int, stage: int, step: int, *values: float) -> None:
        """Hold a row; one that is not due any more is left out."""
        if task % self.skip:
            return
        _append(self.columns, (task, stage, step, *values))
        while len(self) > self.limit:
            self._thin()

    def _thin(self) -> None:
        stages = max(len(self.begun["task"]), 1)
        if self.every and len(self) > FEW * stages:
            self.stride *= 2
        else:
            self.skip *= 2
            _keep(self.begun, [not task % self.skip for task in self.begun["task"]])
        places = ((int(t), int(s)) for t, s in zip(self.columns["task"], self.columns["step"], strict=True))
        _keep(self.columns, [self.due(task, step) if self.every else not task % self.skip for task, step in places])

    def stages(self) -> list[tuple[int, int, int]]:
        """The stages that are held: task, stage, and how many steps it has."""
        return [(int(t), int(s), int(n)) for t, s, n in zip(*self.begun.values(), strict=True)]

    def by_stage(self) -> Iterator[tuple[tuple[int, int], list[tuple[float, ...]]]]:
        """The rows of each stage that has any, in one walk, without their place but for the step."""
        held: dict[tuple[int, int], list[tuple[float, ...]]] = {}
        for row in zip(*self.columns.values(), strict=True):
            held.setdefault((int(row[0]), int(row[1])), []).append(row[2:])
        yield from held.items()

    def state_dict(self) -> dict[str, Any]:
        """All that is held; the numbers as tensors, each column in a type of its own."""
        held = {kind: {n: _tensor(c) for n, c in columns.items()} for kind, columns in self._kinds().items()}
        return {**held, "stride": self.stride, "skip": self.skip}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over what `state_dict` gave."""
        for kind, columns in self._kinds().items():
            for name in columns:
                held = saved[kind].get(name)  # one that an earlier version did not know is NaN
                columns[name] = array("d", [nan] * len(saved[kind]["task"]) if held is None else held.tolist())
        self.stride, self.skip = saved["stride"], saved["skip"]

    def _kinds(self) -> dict[str, dict[str, array[float]]]:
        return {"columns": self.columns, "begun": self.begun}


def _append(columns: dict[str, array[float]], values: tuple[float, ...]) -> None:
    for column, value in zip(columns.values(), values, strict=True):
        column.append(value)


def _keep(columns: dict[str, array[float]], chosen: list[bool]) -> None:
    for name, column in columns.items():
        columns[name] = array("d", compress(column, chosen))


def _tensor(column: array[float]) -> torch.Tensor:
    """The column in the smallest type that holds each of its numbers exactly."""
    whole = torch.tensor(column, dtype=torch.float64)
    bits = whole.view(torch.int64)  # NaN and -0.0 are themselves
    return next((small for small in map(whole.to, SMALLER) if small.double().view(torch.int64).equal(bits)), whole)
