"""GDumb: trained on its memory and on nothing else, from the start, whatever the order of tasks."""

from __future__ import annotations

import torch
from worlds import Net, noise, rows, stream

from nacre.core.drive import Drive
from nacre.core.optim import MadeOptimizer
from nacre.core.stream import Experience, Task
from nacre.learner import Learner, Stage
from nacre.memory import Greedy
from nacre.methods import GDumb
from nacre.metrics import score

SGD, ADAMW = MadeOptimizer("sgd", 0.1), MadeOptimizer("adamw", 0.01)


def test_every_row_that_is_trained_on_comes_from_the_memory_and_all_of_them_do():
    method = GDumb(memory=Greedy(capacity=10))
    net = Net(norm=False)
    for task in [e.task for e in stream()]:
        with Drive(method, net, SGD, task, augment=noise, seed=0) as drive:
            held = {tuple(x.tolist()) for x in method.memory.take(torch.arange(len(method.memory))).x}
            for epoch in range(2):
                met = list(drive.batches(epoch, 4))
                assert {tuple(x.tolist()) for b in met for x in b.x} == held and sum(map(len, met)) == 10
                assert all((b.source != 0).all() for b in met), "no memory admits them again"
                for batch in met:
                    drive.loss(batch).backward()
                    drive.optimizer.step()
                    drive.stepped()
    assert method.memory.seen == 120, "each row was offered once"


def test_each_task_begins_with_the_untrained_weights():
    method, net = GDumb(memory=Greedy(capacity=20)), Net(norm=True)
    untrained = Net(norm=True)
    for c in (2, 4, 6):
        untrained.head.grow(c)
    for task in [e.task for e in stream()]:
        with Drive(method, net, SGD, task, seed=0) as drive:
            for n, t in net.state_dict().items():
                first = untrained.state_dict()[n]
                assert torch.equal(t, first[: len(t)] if t.ndim else first), f"{n}, task {task.index} begins"
            for batch in drive.batches(0, 4):
                drive.loss(batch).backward()
                drive.optimizer.step()
                drive.stepped()
        assert not torch.equal(net.body[0].weight, untrained.body[0].weight)


def test_whose_classes_are_whose_is_not_put_back_with_the_weights():
    """Else the classes of each later task are nobody's, and compete in every task."""
    method, net = GDumb(memory=Greedy(capacity=20)), Net(norm=False, heads=True)
    net.head.grow(6)
    for task in [e.task for e in stream(told=True)]:
        with Drive(method, net, SGD, task, seed=0) as drive:
            trained(drive)
    assert net.head.owner.tolist() == [0, 0, 1, 1, 2, 2]


def test_the_result_does_not_depend_on_the_order_of_tasks_given_an_equal_memory():
    """Other tasks in between, and the same rows in the end: the same weights, bit for bit."""
    everything = rows((0, 1, 2, 3), 4, "order")
    task, ends = Task(2, everything, (0, 1, 2, 3)), []
    for before in (((0, 1), (2, 3)), ((2, 3), (0, 1))):
        net, method = Net(norm=True, dropout=0.3), GDumb(memory=Greedy(capacity=16))
        net.head.grow(4)
        for i, classes in enumerate(before):
            with Drive(method, net, ADAMW, Task(i, rows(classes, 3, i), classes), seed=0) as drive:
                trained(drive)
        method.memory = Greedy(capacity=16)
        with Drive(method, net, ADAMW, task, seed=0) as drive:
            trained(drive)
        ends.append({n: t.clone() for n, t in net.state_dict().items()})
    assert all(torch.equal(t, ends[1][n]) for n, t in ends[0].items())


def trained(drive: Drive) -> None:
    for epoch in range(2):
        for batch in drive.batches(epoch, 4):
            drive.optimizer.zero_grad()
            drive.loss(batch).backward()
            drive.optimizer.step()
            drive.stepped()


def test_a_task_without_rows_leaves_what_was_learned():
    method, net = GDumb(memory=Greedy(capacity=20)), Net(norm=False)
    learner = Learner(net, (Stage(method, SGD, batch_size=4, epochs=2),))
    walk = learner.learn([stream()[0], Experience(Task(1))])
    next(walk)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    next(walk)
    assert all(torch.equal(t, before[n]) for n, t in net.state_dict().items())


def test_it_answers_for_all_classes_from_a_small_memory():
    net = Net(norm=False, dropout=0.0)
    stage = Stage(GDumb(memory=Greedy(capacity=60)), ADAMW, batch_size=8, epochs=20)
    learner = Learner(net, (stage,))
    list(learner.learn(stream()))
    scores = [score(learner.predict, e.tests[f"task{i}"]) for i, e in enumerate(stream())]
    assert min(scores) > 0.75, scores
