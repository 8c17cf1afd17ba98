"""A step that calls its closure several times has met its rows once."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from worlds import Net, rows

from nacre.core.drive import Drive
from nacre.core.method import Method, compose
from nacre.core.state import state
from nacre.core.stream import Task
from nacre.methods import ER


@dataclass
class Heard(Method):
    """Moves nothing; counts rows and micro-batches."""

    rows: int = state(int)
    pieces: int = state(int)

    def after_step(self, batch, out, site):
        self.rows += int((batch.source == 0).sum()) if batch.source is not None else len(batch)
        self.pieces += 1


def lbfgs(params):
    return torch.optim.LBFGS(params.values(), lr=0.1, max_iter=5)


@pytest.mark.parametrize("cuts", [1, 2])
def test_rows_are_heard_once_a_step_however_often_the_closure_is_called(cuts):
    method, calls = compose(ER(rows=4), Heard()), []
    with Drive(method, Net(norm=False), lbfgs, Task(0, rows((0, 1), 8, 0), (0, 1))) as drive:
        for pieces in drive.steps(0, 8, accumulate=cuts):

            def closure(pieces=pieces):
                drive.optimizer.zero_grad()
                losses = [drive.loss(b) for b in pieces]
                sum(losses).backward()
                calls.append(1)
                return sum(losses).detach()

            drive.optimizer.step(closure)
            drive.stepped()
    er, heard = method.members
    assert len(calls) > 4
    assert er.memory.seen == heard.rows == 16
    assert heard.pieces == 2 * cuts


def test_micro_batches_before_the_step_are_heard_beside_those_of_its_closure():
    method = Heard()

    def sgd(params):
        return torch.optim.SGD(params.values(), lr=0.1)

    with Drive(method, Net(norm=False), sgd, Task(0, rows((0, 1), 6, 0), (0, 1))) as drive:
        first, second, third = drive.batches(0, 4)
        drive.loss(first).backward()
        drive.loss(second).backward()  # neither says its share
        drive.optimizer.step(lambda: drive.loss(third))
        drive.stepped()
    assert (method.rows, method.pieces) == (12, 3)
