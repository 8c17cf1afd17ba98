"""iCaRL: herding, the loss on its targets, and the nearest mean of exemplars."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from worlds import CENTRES, Net, rows, stream

from nacre.core.dice import dice
from nacre.core.drive import Drive
from nacre.core.model import forward
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch, TensorRows
from nacre.core.stream import Task
from nacre.learner import Learner, Stage
from nacre.memory import Herding, herd
from nacre.methods import ICaRL
from nacre.metrics import score

SGD = MadeOptimizer("sgd", 0.1)


def points(count: int, *place: int | str) -> torch.Tensor:
    return torch.randn(count, 5, generator=dice("herding", *place), dtype=torch.float64) + 1.0


def brute(z: torch.Tensor, count: int) -> list[int]:
    """Twin: argmin over the rows left of |mean - (sum chosen + row) / k|."""
    chosen: list[int] = []
    for k in range(1, count + 1):
        left = [i for i in range(len(z)) if i not in chosen]
        far = [(z.mean(0) - (z[chosen].sum(0) + z[i]) / k).norm().item() for i in left]
        chosen.append(left[min(range(len(left)), key=far.__getitem__)])
    return chosen


def test_herding_equals_brute_force_and_its_prefixes_beat_random_rows():
    error, random = torch.zeros(12), torch.zeros(12)
    for seed in range(20):
        z = points(40, seed)
        order = herd(z, 12)
        assert order.tolist() == brute(z, 12)
        shuffled = torch.randperm(40, generator=dice(seed))
        for k in range(12):
            error[k] += (z[order[: k + 1]].mean(0) - z.mean(0)).norm() / 20
            random[k] += (z[shuffled[: k + 1]].mean(0) - z.mean(0)).norm() / 20
    assert (error[3:] < 0.35 * random[3:]).all() and (error[1:] <= error[:-1]).all(), (error, random)
    assert herd(points(3), 9).tolist() == herd(points(3), 3).tolist() and not len(herd(points(3), 0))


def test_the_memory_keeps_each_class_in_herding_order_and_trims_the_last():
    memory, x = Herding(capacity=12), {c: points(30, c).float() for c in range(4)}
    for c in range(4):
        memory.add(Batch(x[c], torch.full((30,), c)))
        share = 12 // (c + 1)
        for d in range(c + 1):
            held = memory.take(torch.arange(len(memory)))
            order = herd(F.normalize(x[d], dim=1), 12)[:share]
            assert torch.equal(held.x[held.y == d], x[d][order]), f"class {d} of {c + 1}"
        assert len(memory) == 12
    assert memory.draw(12).x.shape == (12, 5) and (memory.take(torch.arange(12)).source == 1).all()


def test_a_class_that_comes_back_is_herded_toward_the_mean_of_all_its_rows():
    x = F.normalize(points(40, "back"), dim=1)
    memory = Herding(capacity=30)
    memory.add(Batch(x[:20], torch.zeros(20, dtype=torch.long)))
    memory.add(Batch(x[20:], torch.zeros(20, dtype=torch.long)))
    held = memory.take(torch.arange(30)).x
    candidates = torch.cat([x[:20][herd(x[:20], 20)], x[20:]])
    assert torch.allclose(held, candidates[herd(candidates, 30, x.mean(0))])
    assert memory.counts == {"0": 40}


def learned(method: ICaRL, tasks: int, **settings) -> Learner:
    net = Net(norm=False, dropout=0.0)
    learner = Learner(net, (Stage(method, SGD, batch_size=8, **settings),))
    walk = learner.learn(stream())
    for _ in range(tasks):
        next(walk)
    return learner


def test_the_loss_asks_old_classes_about_the_teachers_answer_and_new_ones_about_the_label():
    method = ICaRL(memory=Herding(capacity=20))
    net = learned(method, 1).model
    task = stream()[1].task
    with Drive(method, net, SGD, task, seed=0) as drive:
        for batch in drive.batches(0, 8):
            drive.loss(batch).backward()
            drive.optimizer.step()
            drive.stepped()
            drive.optimizer.zero_grad()
        batch = next(drive.batches(1, 10))
        whole = drive.loss(batch)
        method.reduction = "mean"
        assert drive.loss(batch).item() == pytest.approx(whole.item() / 4, rel=1e-5), "four classes so far"
        z, then = forward(net, batch).logits, method.teacher.answer(net, batch).logits.sigmoid()
    assert {0, 1} & {*batch.y.tolist()} and {2, 3} & {*batch.y.tolist()}, "exemplars and new rows"
    targets = torch.cat([then[:, :2], F.one_hot(batch.y, 4)[:, 2:].float()], 1)
    by_hand = F.binary_cross_entropy_with_logits(z, targets, reduction="none").sum(1).mean()
    assert whole.item() == pytest.approx(by_hand.item(), rel=1e-5)
    assert (then[:, :2] - z[:, :2].sigmoid()).abs().max() > 1e-3, "the teacher stayed behind"


def test_an_epoch_goes_through_the_tasks_rows_and_all_exemplars_once():
    method = ICaRL(memory=Herding(capacity=12))
    net = learned(method, 1).model
    with Drive(method, net, SGD, stream()[1].task, seed=0) as drive:
        met = list(drive.batches(0, 8))
    ids, source = torch.cat([b.ids for b in met]), torch.cat([b.own() for b in met])
    y = torch.cat([b.y for b in met])
    assert sorted(ids.tolist()) == list(range(52)) and source.sum() == 40
    assert (y[source] >= 2).all() and y[~source].bincount().tolist() == [6, 6]
    assert method.memory.seen == 40 + 40


def test_it_answers_with_the_nearest_mean_of_exemplars():
    learner = learned(ICaRL(memory=Herding(capacity=30)), 2)
    method, net = learner.stages[0].method, learner.model.eval()
    x = rows((0, 1, 2, 3), 25, "tests").x
    with torch.no_grad():
        held = method.memory.take(torch.arange(len(method.memory)))
        z, t = (F.normalize(net.body(v).double(), dim=1) for v in (held.x, x))
    means = F.normalize(torch.stack([z[held.y == c].mean(0) for c in range(4)]), dim=1)
    nearest = (t[:, None] - means[None]).norm(dim=2).argmin(1)
    assert torch.equal(learner.predict(Batch(x, torch.zeros(100))).argmax(1), nearest)


def test_with_all_rows_as_exemplars_it_is_the_nearest_class_mean():
    learner = learned(ICaRL(memory=Herding(capacity=1000)), 2)
    method, net = learner.stages[0].method, learner.model.eval()
    every = [e.task.train for e in stream()[:2]]
    with torch.no_grad():
        z = F.normalize(net.body(torch.cat([r.x for r in every])).double(), dim=1)
    y = torch.cat([r.y for r in every])
    assert torch.allclose(method.means.mean, torch.stack([z[y == c].mean(0) for c in range(4)]), atol=1e-6)
    assert not method.stale(net)
    with torch.no_grad():
        net.body[0].weight.add_(0.1)
    assert method.stale(net) == [0, 1]


def test_where_tasks_name_no_classes_new_columns_are_trained_too():
    """Else the rows of a second task train the columns of the first alone."""
    method, net = ICaRL(memory=Herding(capacity=20)), Net(norm=False, dropout=0.0)
    net.head.grow(4)
    for i, classes in enumerate(((0, 1), (2, 3))):
        before = net.head.weight.detach().clone()
        with Drive(method, net, SGD, Task(i, rows(classes, 8, "unnamed", i)), seed=0) as drive:
            drive.optimizer.zero_grad()
            drive.loss(next(drive.batches(0, 16))).backward()
            drive.optimizer.step()
    assert method.known == [0, 1, 2, 3] and (net.head.weight != before).any(1)[2:].all()


def test_it_remembers_classes_that_fine_tuning_forgets():
    learner = learned(ICaRL(memory=Herding(capacity=60)), 3, epochs=4)
    scores = [score(learner.predict, e.tests[f"task{i}"]) for i, e in enumerate(stream())]
    assert min(scores) > 0.7, scores


def test_only_rows_that_are_chosen_are_read():
    class Counts:
        def __init__(self, inner):
            self.inner, self.read = inner, 0

        def __len__(self):
            return len(self.inner)

        def take(self, index):
            self.read += len(index)
            return self.inner.take(index)

    task_rows = Counts(rows((0, 1), 50, "counts"))
    memory = Herding(capacity=10)
    memory.offer(task_rows, CENTRES[task_rows.inner.y] + task_rows.inner.x, task_rows.inner.y)
    assert len(memory) == 10 == task_rows.read


def test_in_a_loop_of_ones_own_too():
    task = Task(0, TensorRows(torch.randn(12, 8, generator=dice("own")), torch.tensor([0, 1] * 6)))
    method, net = ICaRL(memory=Herding(capacity=6)), Net(norm=False)
    net.head.grow(2)
    with Drive(method, net, SGD, task) as drive:
        drive.loss(next(drive.batches(0, 6))).backward()
    assert method.known == [0, 1] and len(method.memory) == 6
