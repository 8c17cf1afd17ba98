"""A head that grows while a stage runs: what rests keeps its bits, and what parts keep for a parameter grows with it."""

from __future__ import annotations

import itertools
from copy import deepcopy

import pytest
import torch
from worlds import Net, rows

from nacre.core.method import compose
from nacre.core.optim import MadeOptimizer
from nacre.core.stream import Experience, Task
from nacre.learner import Learner, Listener, Stage
from nacre.methods import CLASSP, SAGE, AdaRem, Multiplicative
from nacre.rules import Anchor, Drop, Rest, Scale, TrustRadius

SGD = MadeOptimizer("sgd", 0.05, [], {"momentum": 0.9, "weight_decay": 0.01})


def stream() -> list[Experience]:
    """No borders are told, and the head of 2 grows to 6 when the rows say so."""
    return [Experience(Task(0, rows((0, 1, 2, 3, 4, 5), 10, 0, "train"), (0, 1), border=False), {})]


def learner(*parts, **kw) -> Learner:
    return Learner(Net(norm=False), (Stage(compose(*map(deepcopy, parts)), SGD, batch_size=4, epochs=1),), **kw)


class Look(Listener):
    def __init__(self, at: int = 0, path=None):
        self.at, self.path, self.seen = at, path, []

    def stepped(self, learner, loss):
        self.seen.append({n: t.clone() for n, t in learner.model.state_dict().items()})
        if len(self.seen) == self.at:
            learner.save(self.path)


def same(a: Learner, b: Learner) -> bool:
    return all(
        torch.equal(x, y) for x, y in zip(a.model.state_dict().values(), b.model.state_dict().values(), strict=True)
    )


def test_what_rests_rests_while_the_head_grows():
    look = Look()
    list(learner(Rest("head|body")).learn(stream(), look))
    widths = [len(seen["head.weight"]) for seen in look.seen]
    assert widths[-1] == 6 and len(set(widths)) > 1
    for before, now in itertools.pairwise(look.seen):
        for n, t in before.items():
            assert torch.equal(now[n][: len(t)], t), n


PARTS = [
    Rest("head|body"), AdaRem(), CLASSP(), SAGE("weight"), Multiplicative(), Scale("", 0.1), Drop(0.5, ""),
    Drop(0.5, "", rescale=True), TrustRadius(total=0.1), TrustRadius(total=0.1, of="stage"), Anchor(match=""),
    Anchor(match="", form="decoupled"),
]  # fmt: skip


@pytest.mark.parametrize("part", PARTS, ids=lambda p: repr(p)[:40])
def test_the_head_grows_beside_every_rule_and_a_resume_after_it_is_exact(part, tmp_path):
    whole = learner(part)
    look = Look(6, tmp_path / "saved")
    list(whole.learn(stream(), look))
    assert len(look.seen[0]["head.weight"]) < len(look.seen[5]["head.weight"]) == 6
    again = learner(part)
    again.resume(tmp_path / "saved")
    list(again.learn(stream()))
    assert same(whole, again)
