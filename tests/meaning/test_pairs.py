"""Any two methods learn together, beside what rests; or are refused by what only one part may do."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from worlds import Net, stream

import nacre.methods
from nacre.core.errors import BadSetting, BadUse
from nacre.core.method import Method, compose, leaves, trains
from nacre.core.optim import MadeOptimizer
from nacre.learner import Learner, Stage
from nacre.methods import (
    AGEM,
    DER,
    ER,
    ERACE,
    EWC,
    MAS,
    MIST,
    OSFT,
    SI,
    SLDA,
    Cumulative,
    DERpp,
    GDumb,
    ICaRL,
    LwF,
    RanPAC,
)
from nacre.rules import Rest
from nacre.schedules import schedule

ADAMW = MadeOptimizer("adamw", 0.01, [], {"weight_decay": 0.1})
PARTS: list[Method] = [
    *(AGEM(rows=8, how="move"), Cumulative(), DER(rows=4), DERpp(rows=4), ER(rows=4), ERACE(rows=4), EWC(rows=4)),
    *(GDumb(), ICaRL(), LwF(), LwF(balance="tasks"), MAS(rows=4), SI(), SLDA(), RanPAC(width=16)),
    *(MIST(width=8, batch=16), MIST(objective_of="stage", batch=16), OSFT(), OSFT(form="weights")),
]


def named(part: Method) -> str:
    return type(part).__name__ + ("-" + part.balance if isinstance(part, LwF) else "") + getattr(part, "form", "")


def learned(*parts: Method | Rest) -> Learner:
    """Carry the toy stream's first two tasks through; what is remembered of the first is read in the second."""
    whole = compose(*map(deepcopy, parts))
    made = ADAMW if trains(whole) else None
    learner = Learner(Net(norm=False), (Stage(whole, made, batch_size=10, epochs=1),))
    list(learner.learn(stream(per_class=10)[:2]))
    return learner


@pytest.mark.parametrize("one", PARTS, ids=named)
def test_with_any_other_it_learns_and_what_rests_stays(one):
    start = Net(norm=False).body[0].weight
    for other in PARTS:
        if type(other) is type(one):
            continue
        twice = [h for h in ("objective", "predict") if one.overrides(h) and other.overrides(h)]
        if twice:
            with pytest.raises(BadSetting, match=rf"only one part may define {twice[0]}\(\)"):
                compose(one, other)
            continue
        if not (trains(one) or trains(other)):
            continue
        try:
            model = learned(one, other, Rest("body.0")).model
        except BadUse as error:  # of weights that train by factors some methods would hear nothing
            assert "OSFT" in (type(one).__name__, type(other).__name__) and "as a whole" in str(error)
            continue
        assert torch.equal(model.body[0].weight, start), f"{named(one)} with {named(other)} moved what rests"
        assert all(p.isfinite().all() for p in model.parameters()), f"{named(one)} with {named(other)}"
        assert not torch.equal(model.body[4].weight, Net(norm=False).body[4].weight), "it learned"


def test_each_is_heard_beside_the_others():
    """Leaving any one of four out ends elsewhere."""
    parts = [MIST(objective_of="stage", batch=16), LwF(), DERpp(rows=4), SI(strength=50.0)]
    ends = [learned(*parts)] + [learned(*(p for p in parts if p is not left)) for left in parts]
    weights = [torch.cat([p.detach().flatten() for p in end.model.parameters()]) for end in ends]
    assert all((w - weights[0]).abs().max() > 1e-5 for w in weights[1:])
    assert [type(m).__name__ for m in leaves(ends[0].stages[0].method)] == ["MIST", "LwF", "DERpp", "SI"]


EVERY = [m for name in nacre.methods.__all__ for m in getattr(nacre.methods, name).examples()]


def carried(part: Method, *others: Method, falls: bool) -> torch.Tensor:
    """All weights after two tasks, at rates that fall or not."""
    decay = schedule("cosine", warmup=2) if falls else schedule("constant")
    whole = compose(deepcopy(part), *others)
    learner = Learner(Net(norm=False), (Stage(whole, ADAMW, batch_size=10, epochs=2, schedule=decay),))
    list(learner.learn(stream(per_class=10)[:2]))
    return torch.cat([p.detach().flatten().double() for p in learner.model.parameters()])


@pytest.mark.parametrize("part", EVERY, ids=named)
def test_every_method_hears_replay_and_schedules(part):
    """It learns beside ER under a schedule, and leaving out either ends elsewhere; or it is refused in words."""
    if isinstance(part, ER):
        pytest.skip("two of one name cannot be composed")
    replay = ER(rows=4)
    try:
        both = carried(part, replay, falls=True)
    except BadSetting as error:
        assert "objective()" in str(error) or "predict()" in str(error), error
        assert any(part.overrides(hook) and replay.overrides(hook) for hook in ("objective", "predict"))
        return
    assert both.isfinite().all()
    if isinstance(part, GDumb):  # it trains on rows of its memory alone: there are none of the task to remember
        return
    assert len(replay.memory), "what it met was remembered"
    assert not torch.equal(both, carried(part, ER(rows=4), falls=False)), "the schedule is not heard"
    if trains(part):
        alone = carried(part, falls=True)
        assert alone.shape != both.shape or not torch.equal(both, alone), "replay is not heard"
