"""LwF: a teacher that stays where it was, asked about old classes on new rows."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from worlds import Net, rows, stream

from nacre.core.drive import Drive
from nacre.core.method import Method, compose
from nacre.core.model import evaluating, forward
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch
from nacre.core.stream import Task
from nacre.learner import Learner, Listener, Stage
from nacre.losses import distillation
from nacre.methods import MIST, OSFT, RLRR, LwF, TaskAdapters
from nacre.metrics import Matrix, score

SGD = MadeOptimizer("sgd", 0.1)


def taught(method: LwF, told: bool = False, epochs: int = 1) -> tuple[Net, Drive]:
    """A model that has learned task 0, and a driver of task 1 after some steps."""
    net, tasks = Net(norm=False, dropout=0.0, heads=told), [e.task for e in stream(told=told)]
    for task in tasks[:2]:
        drive = Drive(method, net, SGD, task, seed=0)
        drive.__enter__()
        for epoch in range(epochs):
            for batch in drive.batches(epoch, size=8):
                drive.optimizer.zero_grad()
                drive.loss(batch).backward()
                drive.optimizer.step()
                drive.stepped()
        if task.index == 0:
            drive.__exit__(None, None, None)
    return net, drive


def test_the_teacher_is_the_model_that_ended_the_last_task_and_never_moves():
    class Watches(Listener):
        def __init__(self):
            self.apart: list[float] = []

        def stepped(self, learner: Learner, loss: torch.Tensor) -> None:
            if learner.experience:
                held = learner.stages[0].method.teacher.tensors
                assert held.keys() == then.keys()
                self.apart.append(max((held[n] - t).abs().max().item() for n, t in then.items()))

    net = Net(norm=False, dropout=0.0)
    walk = Learner(net, (Stage(LwF(), SGD, batch_size=8),)).learn(stream(), watches := Watches())
    next(walk)
    then = {n: t.clone() for n, t in net.state_dict().items()}
    next(walk)
    assert len(watches.apart) == 5 and max(watches.apart) == 0.0, "a teacher that moves"
    assert max((net.state_dict()[n][: len(t)] - t).abs().max().item() for n, t in then.items()) > 0.01


def test_its_term_is_the_distillation_over_old_classes_on_the_present_rows():
    method = LwF(strength=3.0)
    net, drive = taught(method)
    batch = next(iter(drive.batches(0, size=8)))
    out = forward(net, batch)
    then = method.teacher.answer(net, batch).logits
    assert out.logits.shape[1] == 4 and then.shape[1] == 2
    term = method.loss(net, batch, out)
    assert term.item() == pytest.approx(3.0 * distillation(out.logits[:, :2], then, 2.0).item(), rel=1e-6) and term > 0
    rows = torch.autograd.grad(term, net.head.weight, retain_graph=True)[0]
    assert (rows[2:] == 0).all() and (rows[:2] != 0).any(), "new rows of the head are free of it"
    half = replace(batch, weight=torch.tensor([1.0] * 4 + [0.0] * 4))
    alone = batch.pick(slice(0, 4))
    expected = method.loss(net, alone, forward(net, alone))
    got = method.loss(net, half, out).item()
    assert got == pytest.approx(expected.item(), rel=1e-5), "rows without weight do not count"


def test_at_the_teacher_itself_its_gradient_is_zero():
    method = LwF()
    net, _ = taught(method)
    method.teacher.take(net)
    method.known = {"": [0, 1, 2, 3]}
    batch = stream()[1].task.train.take(torch.arange(8))
    slopes = torch.autograd.grad(method.loss(net, batch, forward(net, batch)), list(net.parameters()))
    assert max(s.abs().max().item() for s in slopes) < 1e-7


def test_where_heads_separate_tasks_each_old_head_is_asked_without_its_mask():
    method = LwF()
    net, drive = taught(method, told=True)
    batch = next(iter(drive.batches(0, size=8)))
    assert (batch.task == 1).all() and method.known == {"0": [0, 1]}
    out = forward(net, batch)
    assert (out.logits[:, :2] == -1e4).all(), "the shared answer shuts the old head"
    hidden = replace(batch, task=None)
    open_, then = forward(net, hidden).logits, method.teacher.answer(net, hidden).logits
    expected = distillation(open_[:, :2], then[:, :2], 2.0)
    assert method.loss(net, batch, out).item() == pytest.approx(expected.item(), rel=1e-6) and expected > 0


def test_balanced_by_tasks_the_loss_of_task_t_is_one_over_t_and_the_rest():
    method = LwF(balance="tasks", strength=9.0)
    net, drive = taught(method)
    batch = next(iter(drive.batches(0, size=8)))
    out = forward(net, batch)
    then = method.teacher.answer(net, batch).logits
    whole = drive.loss(batch).item()
    plain = nn.functional.cross_entropy(out.logits, batch.y)
    assert whole == pytest.approx((plain / 2 + distillation(out.logits[:, :2], then) / 2).item(), rel=1e-5)
    own = drive.task.objective(batch).item()
    assert own == pytest.approx(plain.item(), rel=1e-6), "what importance is taken of does not shrink with t"
    rivals = LwF(rivals=True)
    rivals.teacher, rivals.known = method.teacher, method.known
    assert rivals.loss(net, batch, out).item() == pytest.approx(distillation(out.logits, then).item(), rel=1e-5)


@pytest.mark.parametrize(("splits", "asked"), [(((0, 1), (2, 3)), [0, 1, 2, 3]), (((0, 3), (1, 2)), [0, 3, 1, 2])])
def test_rivals_are_the_classes_of_the_present_task_also_in_a_head_that_has_all_classes(splits, asked):
    method, net = LwF(rivals=True), Net(norm=False, dropout=0.0)
    net.head.grow(6)
    walk = Learner(net, (Stage(method, SGD, batch_size=8),)).learn(tasks := stream(splits=splits))
    next(walk)
    method.begin_stage(net, tasks[1].task)
    with torch.no_grad():
        net.head.weight.add_(0.1 * torch.arange(6.0)[:, None])
    batch = tasks[1].task.train.take(torch.arange(8))
    out, then = forward(net, batch), method.teacher.answer(net, batch).logits
    expected = distillation(out.logits[:, asked], then[:, asked[:2]])
    assert method.loss(net, batch, out).item() == pytest.approx(expected.item(), rel=1e-5) and expected > 0


def test_where_tasks_name_no_classes_all_answers_of_the_teacher_are_distilled():
    method, net = LwF(), Net(norm=False, dropout=0.0)
    net.head.grow(4)
    for i, classes in enumerate(((0, 1), (2, 3))):
        with Drive(method, net, SGD, Task(i, rows(classes, 8, "unnamed", i)), seed=0) as drive:
            for batch in drive.batches(0, size=8):
                drive.optimizer.zero_grad()
                drive.loss(batch).backward()
                drive.optimizer.step()
    with torch.no_grad():
        net.head.weight.add_(0.1 * torch.arange(4.0)[:, None])
    out, then = forward(net, batch), method.teacher.answer(net, batch).logits
    term = method.loss(net, batch, out).item()
    assert term == pytest.approx(distillation(out.logits, then).item(), rel=1e-5) and term > 0


def test_it_forgets_less_than_fine_tuning_where_tasks_are_told():
    forgotten = {}
    for name, method in (("plain", Method()), ("lwf", LwF(strength=2.0))):
        net = Net(norm=False, dropout=0.0, heads=True)
        learner = Learner(net, (Stage(method, MadeOptimizer("sgd", 0.1), batch_size=8, epochs=8),))
        matrix, tests = Matrix(), {}
        for met in learner.learn(stream(told=True)):
            tests |= met.tests
            for test, held in tests.items():
                matrix.add(f"task{met.task.index}", test, score(learner.predict, held), len(held), test in met.tests)
        forgotten[name] = matrix.forgetting()
    assert forgotten["lwf"] < 0.5 * forgotten["plain"] and forgotten["plain"] > 0.02, forgotten


@pytest.mark.parametrize(
    "other",
    [
        OSFT(),
        RLRR(start="published"),
        TaskAdapters(rank=2),
        TaskAdapters(kind="ia3", target="all-linear"),
        MIST(objective_of="stage", batch=16, form="compact"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("first", [True, False])
def test_the_teacher_answers_as_the_model_did_whatever_stood_beside_its_weights(other, first):
    lwf, x = LwF(), Batch(torch.randn(16, 8), torch.zeros(16, dtype=torch.long))
    other = copy.deepcopy(other)
    method, net = compose(*((lwf, other) if first else (other, lwf))), Net(dropout=0.0)
    made, then = MadeOptimizer("adamw", 0.02), torch.empty(0)
    for k, met in enumerate(stream(splits=((0, 1), (2, 3)))):
        with Drive(method, net, made, met.task, seed=0) as drive:
            if k:
                torch.testing.assert_close(lwf.teacher.answer(net, x).logits, then, atol=1e-4, rtol=1e-4)
            for batch in drive.batches(0, 8):
                drive.optimizer.zero_grad()
                drive.loss(batch).backward()
                drive.optimizer.step()
                drive.stepped()
            now = answered(net, x)
        then = answered(net, x)
        torch.testing.assert_close(now, then, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(lwf.teacher.answer(net, x).logits, then, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def answered(net: nn.Module, batch: Batch) -> torch.Tensor:
    with evaluating(net):
        return net(batch.x).logits
