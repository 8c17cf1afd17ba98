"""Schedules: rates at chosen steps by hand, pure, and cut to what a stage has."""

from __future__ import annotations

import pytest
import torch

from nacre.core.errors import BadSetting, UnknownName
from nacre.schedules import Phase, Phases, schedule


@pytest.mark.parametrize(
    ("name", "settings", "total", "rates"),
    [
        ("constant", {}, 4, [1, 1, 1, 1]),
        ("constant", {"warmup": 2}, 4, [0.5, 1, 1, 1]),
        ("linear", {}, 4, [1, 0.75, 0.5, 0.25]),
        ("linear", {"warmup": 2, "floor": 0.5}, 6, [0.5, 1, 1, 0.875, 0.75, 0.625]),
        ("cosine", {}, 4, [1, 0.8535534, 0.5, 0.1464466]),
        ("wsd", {"warmup": 0.25, "decay": 0.25}, 8, [0.5, 1, 1, 1, 1, 1, 1, 0.5]),
    ],
)
def test_rates_by_hand(name, settings, total, rates):
    rate = schedule(name, **settings).over(total)
    assert [rate(step) for step in range(total)] == pytest.approx(rates)
    assert [rate(step) for step in reversed(range(total))] == pytest.approx(rates[::-1]), "pure: any order of calls"


@pytest.mark.parametrize("total", [1, 2, 3, 7, 10, 33])
def test_shares_fill_the_stage_exactly(total):
    phases = Phases((Phase(0.05, 0.0, 1.0), Phase(0.75, 1.0, 1.0), Phase(0.2, 1.0, 0.0))).over(total)
    assert sum(p.length for p in phases.phases) == total


def test_torch_agrees_through_lambda_lr():
    rate = schedule("cosine", warmup=5).over(100)
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    theirs = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    for step in range(100):
        assert theirs.get_last_lr()[0] == pytest.approx(rate(step))
        optimizer.step()
        theirs.step()


def test_what_is_wrong_is_said():
    with pytest.raises(UnknownName, match="did you mean 'cosine'"):
        schedule("cosin")
    with pytest.raises(UnknownName, match="did you mean 'warmup'"):
        schedule("cosine", warmupp=1)
    with pytest.raises(BadSetting, match="share in"):
        schedule("cosine", warmup=1.5)
    with pytest.raises(BadSetting, match="never reaches 0"):
        Phase(10, 1.0, 0.0, "inverse")
    assert schedule("wsd", warmup=0).over(10)(0) == 1
