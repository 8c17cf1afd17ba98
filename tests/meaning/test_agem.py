"""A-GEM: the reference is of this step's weights and of earlier tasks, and the projection does what it promises."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from worlds import Net, noise, stream

from nacre.core.dice import dice
from nacre.core.drive import Drive
from nacre.core.method import Method, compose
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import TensorRows
from nacre.core.rule import Rule
from nacre.core.stream import Task
from nacre.learner import Learner, Stage
from nacre.memory import TaskBalanced
from nacre.methods import AGEM
from nacre.methods.agem import harmful
from nacre.rules import Rest

SGD = MadeOptimizer("sgd", 0.1)
HEAVY = MadeOptimizer("adamw", 0.02, [], {"weight_decay": 0.5})


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.detach().flatten() for t in tensors])


@dataclass
class Notes(Rule):
    """Notes gradients and weights as they pass."""

    grads: list[dict] = field(default_factory=list)

    def shape_grads(self, grads, site):
        self.grads.append({n: g.clone() for n, g in grads.items()})
        return grads


def conflicting() -> tuple[list[Task], nn.Module]:
    """Two tasks on the same rows with opposite labels, without growth: each step of the second harms the first."""
    x = torch.randn(40, 4, generator=dice("conflict"))
    y = (x[:, 0] > 0).long()
    net = nn.Linear(4, 2)
    with torch.no_grad():
        net.weight.copy_(torch.randn(2, 4, generator=dice("w")))
        net.bias.zero_()
    return [Task(0, TensorRows(x, y), (0, 1)), Task(1, TensorRows(x, 1 - y), (0, 1))], net


def reference(method: AGEM, net: nn.Module, step: int) -> torch.Tensor:
    """Twin: the gradient of the mean loss on the rows drawn at this step, at the weights that net has."""
    past = method.memory.sample(method.rows, "reference", method.seed, method.tasks, step)
    return flat(torch.autograd.grad(F.cross_entropy(net(past.x), past.y), list(net.parameters())))


@pytest.mark.parametrize("how", ["gradient", "move"])
def test_at_every_step_the_product_with_this_steps_reference_is_not_negative(how):
    """Under plain SGD; with a reference of other weights or rows it comes out negative."""
    tasks, net = conflicting()
    method, before = AGEM(rows=16, patterns=40, how=how), Notes()
    whole, violated = compose(before, method), 0
    with Drive(whole, net, SGD, tasks[0], seed=0) as drive:
        for batch in drive.batches(0, 8):
            drive.loss(batch).backward()
            drive.optimizer.step()
            drive.stepped()
            drive.optimizer.zero_grad()
    with Drive(whole, net, SGD if how == "gradient" else HEAVY, tasks[1], seed=0) as drive:
        for epoch in range(4):
            for batch in drive.batches(epoch, 8):
                wanted, old = reference(method, net, drive.site.step), flat(net.parameters())
                drive.optimizer.zero_grad()
                drive.loss(batch).backward()
                drive.optimizer.step()
                drive.stepped()
                given = flat(before.grads[-1].values())
                move = old - flat(net.parameters())
                product = torch.dot(move, wanted) / (move.norm() * wanted.norm() + 1e-12)
                assert product > -1e-5, f"step {drive.site.step}: {product}"
                if how == "gradient":
                    violated += bool(torch.dot(given, wanted) < 0)
                    by_hand = given - min(torch.dot(given, wanted), torch.tensor(0.0)) / wanted.dot(wanted) * wanted
                    assert torch.allclose(move, 0.1 * by_hand, atol=1e-6)
    assert how == "move" or violated > 10, "the tasks do conflict"


def worst_move(method: AGEM, composed: Rule) -> float:
    """The least cosine, over the steps after the first task, of a step's move with the gradient on rows of the past."""
    tasks, net = conflicting()
    worst = 0.0
    for task in tasks:
        with Drive(composed, net, HEAVY, task, seed=0) as drive:
            for batch in [b for epoch in range(4) for b in drive.batches(epoch, 8)]:
                wanted = reference(method, net, drive.site.step) if task.index else None
                old = flat(net.parameters())
                drive.optimizer.zero_grad()
                drive.loss(batch).backward()
                drive.optimizer.step()
                drive.stepped()
                if wanted is not None:
                    move = old - flat(net.parameters())
                    worst = min(worst, (move @ wanted / (move.norm() * wanted.norm() + 1e-12)).item())
    return worst


def test_gradients_alone_promise_nothing_about_the_moves_of_adamw_with_decay():
    worst = {}
    for how in ("gradient", "move"):
        method = AGEM(rows=40, patterns=40, how=how)
        worst[how] = worst_move(method, method)
    assert worst["gradient"] < -0.2 and worst["move"] > -1e-4, worst


def test_beside_entries_that_rest_the_others_alone_keep_the_promise():
    """What of the move is put back after it cannot make up for the rest of it."""
    rests = {"weight": torch.tensor([[True, False, True, False]])}  # half of the first row; the second moves
    method = AGEM(rows=40, patterns=40, how="move")
    assert worst_move(method, compose(method, Rest(rests))) > -1e-4


def test_what_does_not_conflict_is_left_alone_bit_for_bit():
    g = [torch.tensor([1.0, -2.0]), torch.tensor([[0.5]])]
    kind, against = [torch.tensor([1.0, 0.0]), torch.tensor([[1.0]])], [torch.tensor([0.0, 1.0]), torch.tensor([[0.0]])]
    assert all(torch.equal(a - h, a) for a, h in zip(g, harmful(g, kind), strict=True))
    left = [a - h for a, h in zip(g, harmful(g, against), strict=True)]
    assert torch.equal(left[0], torch.tensor([1.0, 0.0])) and torch.equal(left[1], g[1])


def test_during_a_task_its_own_rows_are_not_in_the_memory_and_each_task_brings_its_patterns():
    method = AGEM(rows=8, patterns=10, memory=TaskBalanced(capacity=24))
    learner = Learner(Net(norm=False), (Stage(method, SGD, batch_size=8),))
    for i, met in enumerate(learner.learn(stream())):
        labels = method.memory.field("y")
        counts = torch.bincount(labels // 2, minlength=3)
        assert counts.tolist() == [[10, 0, 0], [10, 10, 0], [8, 8, 8]][i] and met.task.index == i
        assert len({tuple(x.tolist()) for x in method.memory.field("x")}) == len(labels), "different rows"


def test_the_reference_is_of_all_micro_batches_and_leaves_norm_statistics_alone():
    """One reference a step, however it is cut; and no layer counts another batch."""
    ends = []
    for pieces in (1, 4):
        net = Net(norm=False, dropout=0.0)
        stage = Stage(AGEM(rows=8, patterns=10), SGD, batch_size=8, accumulate=pieces)
        list(Learner(net, (stage,)).learn(stream()))
        ends.append(flat(net.parameters()))
    assert (ends[0] - ends[1]).abs().max() < 1e-5
    counted = []
    for method in (Method(), AGEM(rows=8, patterns=10)):
        net = Net()
        list(Learner(net, (Stage(method, SGD, batch_size=8, augment=noise),)).learn(stream()))
        counted.append(int(net.body[1].num_batches_tracked))
    assert counted[0] == counted[1] == 15


def test_it_forgets_less_than_fine_tuning():
    losses = {}
    for name, method in (("plain", Method()), ("agem", AGEM(rows=40, patterns=40))):
        tasks, net = conflicting()
        for task in tasks:
            with Drive(method, net, SGD, task, seed=0) as drive:
                for epoch in range(4):
                    for batch in drive.batches(epoch, 8):
                        drive.optimizer.zero_grad()
                        drive.loss(batch).backward()
                        drive.optimizer.step()
                        drive.stepped()
        losses[name] = F.cross_entropy(net(tasks[0].train.x), tasks[0].train.y).item()
    assert losses["agem"] < 0.75 * losses["plain"], losses
