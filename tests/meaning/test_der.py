"""DER and DER++: which logits are stored, with which row, when; and what is made of them."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from worlds import Net, noise, stream

from nacre.core.drive import Drive
from nacre.core.errors import BadSetting
from nacre.core.method import Method, compose
from nacre.core.model import forward, grow
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch, TensorRows
from nacre.core.stream import Task
from nacre.learner import Learner, Stage
from nacre.memory import ClassBalanced, Reservoir
from nacre.methods import DER, ER, MIST, DERpp
from nacre.metrics import Matrix, score
from nacre.streams import stream_of
from nacre.streams.arrival import task_free

SGD = MadeOptimizer("sgd", 0.1)


class Numbers(nn.Module):
    """Answers a row with functions of the number that it carries, and of a weight that moves."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.weight * torch.cat([x, x**2, -x], 1)


def numbered(rows: int = 40) -> Task:
    x = torch.arange(rows)[:, None] / rows
    return Task(0, TensorRows(x, torch.arange(rows) % 3), (0, 1, 2))


def step(drive: Drive, batch: Batch) -> None:
    drive.optimizer.zero_grad()
    drive.loss(batch).backward()
    drive.optimizer.step()
    drive.stepped()


@pytest.mark.parametrize("partner", [None, ER(rows=3), MIST(objective_of="stage", drop=0.5, free="^$", select=1.0)])
def test_stored_logits_are_those_of_the_row_before_the_step_that_admitted_it(partner):
    """A buffer whose logits are of other rows trains all the same; only this sees it."""
    method, net, task = DERpp(rows=4, memory=Reservoir(capacity=12)), Numbers(), numbered()
    admitted = torch.full((40,), torch.nan)
    with Drive(compose(partner, method) if partner else method, net, SGD, task, seed=0) as drive:
        for batch in drive.batches(epoch=0, size=5):
            admitted[batch.ids] = net.weight.item()
            step(drive, batch)
    held = method.memory.take(torch.arange(12))
    number, weight = held.x, admitted[(held.x[:, 0] * 40).round().long()]
    expected = weight[:, None] * torch.cat([number, number**2, -number], 1)
    assert torch.allclose(held.extra["logits"], expected, atol=1e-6)
    assert len(weight.unique()) > 2, "rows of several steps are held"


def test_what_it_adds_is_the_distance_of_one_draw_and_the_labels_of_another():
    method = DERpp(rows=6, strength=0.7, labels=0.3, memory=Reservoir(capacity=20))
    net, task = Net(norm=False, dropout=0.0), stream()[0].task
    with Drive(method, net, SGD, task, seed=0) as drive:
        for batch in drive.batches(epoch=0, size=8):
            step(drive, batch)
        batch = task.train.take(torch.arange(8))
        shaped = method.shape_batch(batch)
        whole = drive.loss(batch).item()
    assert shaped.y.shape == (20,) and shaped.extra["der"].tolist() == [-1] * 8 + [1] * 6 + [2] * 6
    assert shaped.weight.tolist() == [1.0] * 8 + [0.0] * 12
    assert not torch.equal(shaped.x[8:14], shaped.x[14:]), "two independent draws"
    logits = forward(net, shaped).logits
    by_hand = F.cross_entropy(logits[:8], shaped.y[:8])
    by_hand = by_hand + 0.7 * F.mse_loss(logits[8:14], shaped.extra["logits"][8:14])
    by_hand = by_hand + 0.3 * F.cross_entropy(logits[14:], shaped.y[14:])
    assert whole == pytest.approx(by_hand.item(), rel=1e-6)


@pytest.mark.parametrize("others", [(), (ER(rows=5),), (ER(rows=5), MIST(width=4, batch=16, drop=0.0))])
def test_rows_are_found_wherever_partners_move_them(others):
    """Behind it others add rows, or repeat them all: the term is that of its own rows."""
    method, net = DERpp(rows=6, memory=Reservoir(capacity=20)), Net(norm=False, dropout=0.0)
    task = stream()[0].task
    with Drive(compose(method, *others), net, SGD, task, seed=0) as drive:
        for batch in drive.batches(epoch=0, size=8):
            step(drive, batch)
        whole = drive.method.shape_batch(task.train.take(torch.arange(8)))
    alone = method.shape_batch(task.train.take(torch.arange(8)))
    terms = [method.loss(net, batch, forward(net, batch)).item() for batch in (alone, whole)]
    assert terms[0] == pytest.approx(terms[1], rel=1e-5) and terms[0] > 0 and len(whole) >= len(alone)


def test_with_z_equal_to_the_present_logits_its_gradient_is_zero():
    method, net = DER(rows=8, strength=5.0, memory=Reservoir(capacity=20)), Net(norm=False, dropout=0.0)
    task = stream()[0].task
    with Drive(method, net, SGD, task, seed=0) as drive:
        step(drive, next(drive.batches(epoch=0, size=8)))
    held = method.memory.take(torch.arange(8))
    method.memory.fill(torch.arange(8), logits=forward(net, held).logits.detach())
    batch = method.shape_batch(task.train.take(torch.arange(4)))
    term = method.loss(net, batch, forward(net, batch))
    slopes = torch.autograd.grad(term, list(net.parameters()))
    assert abs(term.item()) < 1e-12 and max(s.abs().max().item() for s in slopes) < 1e-6


def test_a_head_that_grew_is_compared_on_the_columns_that_it_had():
    method, net = DER(rows=40, memory=Reservoir(capacity=40)), Net(norm=False, dropout=0.0)
    tasks = [e.task for e in stream()]
    for task in tasks[:2]:
        with Drive(method, net, SGD, task, seed=0) as drive:
            for batch in drive.batches(epoch=0, size=8):
                step(drive, batch)
    stored = method.memory.field("logits")
    old = method.memory.field("y") < 2
    assert stored.shape[1] == 4 and stored[old][:, 2:].isnan().all() and not stored[~old].isnan().any()
    batch = method.shape_batch(tasks[1].train.take(torch.arange(4)))
    z, out = batch.extra["logits"][4:], forward(net, batch)
    pairs = [(row[~s.isnan()], s[~s.isnan()]) for row, s in zip(out.logits[4:], z, strict=True)]
    far = torch.stack([(row - s).square().mean() for row, s in pairs])
    assert method.loss(net, batch, out).item() == pytest.approx(0.1 * far.mean().item(), rel=1e-5)


def test_at_the_end_logits_are_taken_once_by_the_model_that_ended_the_task():
    method, net = DERpp(rows=8, stored="end", memory=ClassBalanced(capacity=24)), Net(norm=True, dropout=0.5)
    tasks, ends = [e.task for e in stream()], []
    for task in tasks[:2]:
        with Drive(method, net, SGD, task, augment=noise, seed=0) as drive:
            for k, batch in enumerate(drive.batches(epoch=0, size=8)):
                step(drive, batch)
                if not task.index and k == 2:
                    assert "logits" not in method.memory.block.kept
        held = method.memory.take(torch.arange(len(method.memory)))
        net.eval()
        with torch.no_grad():
            ends.append((held, forward(net, held).logits))
    (first, then), (second, now) = ends
    assert torch.equal(first.extra["logits"], then)
    fresh = second.y >= 2
    assert torch.equal(second.extra["logits"][fresh], now[fresh]), "of the new rows, by the model as it is now"
    known = {tuple(x.tolist()): z for x, z in zip(first.x, then, strict=True)}
    for x, z in zip(second.x[~fresh], second.extra["logits"][~fresh], strict=True):
        assert torch.equal(z[:2], known[tuple(x.tolist())]) and z[2:].isnan().all(), "old ones keep theirs"


def test_told_tasks_store_no_logits_of_other_heads():
    method, net = DERpp(rows=8, memory=Reservoir(capacity=40)), Net(norm=False, dropout=0.0, heads=True)
    for task in [e.task for e in stream(told=True)][:2]:
        with Drive(method, net, SGD, task, seed=0) as drive:
            for batch in drive.batches(epoch=0, size=8):
                step(drive, batch)
    stored, told = method.memory.field("logits"), method.memory.field("task")
    assert stored[told == 1][:, :2].isnan().all() and stored[told == 1][:, 2:].isfinite().all()


@pytest.mark.parametrize("pieces", [2, 4])
def test_micro_batches_make_the_gradient_of_the_whole_step(pieces):
    slopes = {}
    for cut in (1, pieces):
        method, net = DERpp(rows=6, memory=Reservoir(capacity=20)), Net(norm=False, dropout=0.0)
        with Drive(method, net, SGD, stream()[0].task, seed=0) as drive:
            for batch in drive.batches(epoch=0, size=8):
                step(drive, batch)
            drive.optimizer.zero_grad()
            for piece in next(drive.steps(epoch=1, size=8, accumulate=cut)):
                drive.loss(piece).backward()
        slopes[cut] = torch.cat([p.grad.flatten() for p in net.parameters()])
    assert (slopes[1] - slopes[pieces]).abs().max() < 1e-6


class Tokens(nn.Module):
    """Answers each token with its number and the next, times a weight that moves."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.weight * torch.stack([ids, ids + 1.0], 2)


@pytest.mark.parametrize("lengths", [(3, 3), (3, 5), (5, 3)])
def test_answers_for_tokens_are_compared_at_the_places_that_both_lengths_have(lengths):
    """The row that is remembered comes with its batch's length, and meets a batch of another."""
    method, net = DER(rows=2, strength=1.0, memory=Reservoir(capacity=4)), Tokens()
    ids = [{"ids": torch.ones(2, length)} for length in lengths]
    batches = [Batch(x, torch.ones(2, length, dtype=torch.long)) for x, length in zip(ids, lengths, strict=True)]
    with Drive(method, net, SGD, Task(0, TensorRows(ids[0], batches[0].y)), seed=0) as drive:
        step(drive, batches[0])
        weight = net.weight.item()
        shaped = method.shape_batch(batches[1])
        term = method.loss(net, shaped, forward(net, shaped))
    expected = (weight - 1.0) ** 2 * torch.tensor([1.0, 2.0]).square().mean()
    assert term.item() == pytest.approx(expected.item(), rel=1e-4) and weight != 1.0


def test_on_a_stream_that_tells_no_borders_logits_are_stored_at_insertion_only():
    def learned(method: Method) -> None:
        learner = Learner(Net(norm=False, dropout=0.0), (Stage(method, SGD, batch_size=8),))
        list(learner.learn(task_free(stream_of(stream()))))

    method = DERpp(rows=6, memory=Reservoir(capacity=20))
    learned(method)
    assert method.memory.seen == 120
    with pytest.raises(BadSetting, match="end_stage"):
        learned(DERpp(rows=6, stored="end", memory=Reservoir(capacity=20)))


def forgotten(method: Method, wide: bool) -> float:
    """What is forgotten of the toy stream, with a head that grows or one that has all classes from the start."""
    net = Net(norm=False, dropout=0.0)
    if wide:
        grow(net, 6)
    learner = Learner(net, (Stage(method, MadeOptimizer("sgd", 0.05), batch_size=8, epochs=8),))
    matrix, tests = Matrix(), {}
    for met in learner.learn(stream()):
        tests |= met.tests
        for test, held in tests.items():
            matrix.add(f"task{met.task.index}", test, score(learner.predict, held), len(held), test in met.tests)
    return matrix.forgetting()


def test_both_forget_less_than_fine_tuning_and_the_labels_of_the_second_draw_help():
    """A head that grows leaves DER without a word on later columns, so that only the labels hold old classes."""
    memory = Reservoir(capacity=60)
    wide = {
        "plain": forgotten(Method(), wide=True),
        "der": forgotten(DER(strength=1.0, rows=16, memory=deepcopy(memory)), wide=True),
        "derpp": forgotten(DERpp(strength=0.3, labels=1.0, rows=16, memory=deepcopy(memory)), wide=True),
    }
    assert wide["plain"] > 0.8 and wide["derpp"] < wide["der"] < 0.7 * wide["plain"], wide
    assert forgotten(DERpp(strength=0.3, labels=1.0, rows=16, memory=memory), wide=False) < 0.5 * wide["plain"]
