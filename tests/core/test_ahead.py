"""Rows that are read for several batches at once are those that each batch would have read alone."""

from __future__ import annotations

import torch
from torch import nn

from nacre.core.ahead import AHEAD, ahead
from nacre.core.drive import Drive
from nacre.core.method import Method
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch, Picked, TensorRows
from nacre.core.stream import Task

SIZE = 60


def rows() -> Picked:
    x = torch.randint(0, 256, (2000, 1, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    held = TensorRows(x, torch.arange(2000) % 3)
    return Picked(held, torch.arange(0, 2000, 2), labels=torch.tensor([2, 0, 1]), task=7)


def read(start: int) -> tuple[list[Batch], torch.Tensor, Picked]:
    train = rows()
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with Drive(Method(), model, MadeOptimizer("sgd", 0.1), Task(0, train, (0, 1, 2)), seed=3) as drive:
        return list(drive.batches(0, SIZE, start)), drive.order(0), train


def test_batches_read_ahead_are_those_read_alone() -> None:
    assert ahead(rows(), SIZE) == AHEAD // SIZE > 1
    for start in (0, 5):  # from the middle of what the first run read at once
        given, order, train = read(start)
        wanted = order[start * SIZE :].split(SIZE)
        assert [len(b) for b in given] == [len(index) for index in wanted]
        for batch, index in zip(given, wanted, strict=True):
            alone = train.take(index)
            assert torch.equal(batch.x, alone.x) and torch.equal(batch.y, alone.y)
            assert batch.ids is not None and torch.equal(batch.ids, index)
            assert batch.task is not None and bool((batch.task == 7).all())
            assert batch.source is None and batch.weight is None and batch.raw is None


def test_only_simple_rows_are_read_ahead() -> None:
    class Watched(TensorRows):
        """Somebody's own rows."""

    x, y = torch.zeros(4, 3, dtype=torch.uint8), torch.zeros(4, dtype=torch.long)
    assert ahead(TensorRows(x, y), 2) > 1
    assert ahead(TensorRows(x, y), AHEAD + 1) == 1
    assert ahead(TensorRows(x.float(), y), 2) == 1  # a model would read a part of a larger tensor
    assert ahead(TensorRows({"ids": x}, y), 2) == 1
    assert ahead(Watched(x, y), 2) == 1
