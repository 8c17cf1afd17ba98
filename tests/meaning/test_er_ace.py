"""ER-ACE: new rows leave absent classes alone. And ER's weights by tasks."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from worlds import Net, rows, stream

from nacre.core.drive import Drive
from nacre.core.errors import BadSetting
from nacre.core.method import compose
from nacre.core.model import Outputs, forward, grow
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch
from nacre.memory import Reservoir
from nacre.methods import DER, ER, ERACE

SGD = MadeOptimizer("sgd", 0.1)


def remembering(method, tasks: int = 1) -> Net:
    """A model after the first tasks of the toy stream."""
    net = Net(norm=False, dropout=0.0)
    for task in [e.task for e in stream()][:tasks]:
        with Drive(method, net, SGD, task, seed=0) as drive:
            for batch in drive.batches(epoch=0, size=8):
                drive.optimizer.zero_grad()
                drive.loss(batch).backward()
                drive.optimizer.step()
                drive.stepped()
    return net


def test_the_gradient_of_new_rows_is_exactly_zero_on_absent_classes():
    method = ERACE(rows=6, memory=Reservoir(capacity=20))
    net = remembering(method)
    grow(net, 6)
    batch = method.shape_batch(rows((2, 3), 3, "new").take(torch.arange(6)))
    out = forward(net, batch)
    competing = method.shape_logits(out.logits, batch)
    new = F.cross_entropy(competing[:6], batch.y[:6])
    (slope,) = torch.autograd.grad(new, out.logits, retain_graph=True)
    assert (slope[:, [0, 1, 4, 5]] == 0).all() and (slope[:6, [2, 3]] != 0).all()
    only = F.cross_entropy(out.logits[:6, 2:4], batch.y[:6] - 2)
    assert new.item() == pytest.approx(only.item(), rel=1e-6)
    assert torch.equal(competing[6:], out.logits[6:]), "replayed rows compete among all classes"


def test_its_loss_is_the_sum_of_the_two_means():
    method = ERACE(rows=6, memory=Reservoir(capacity=20))
    net = remembering(method)
    task = stream()[1].task
    with Drive(method, net, SGD, task, seed=0) as drive:
        batch = task.train.take(torch.tensor([0, 1, 2, 25]))
        shaped = method.shape_batch(batch)
        whole = drive.loss(batch)
    logits = forward(net, shaped).logits
    new, old = F.cross_entropy(logits[:4, 2:4], shaped.y[:4] - 2), F.cross_entropy(logits[4:], shaped.y[4:])
    assert whole.item() == pytest.approx((new + old).item(), rel=1e-6) and len(shaped) == 10


def test_nothing_is_replayed_before_the_tasks_it_waits_for():
    method = ERACE(rows=6, wait=1, memory=Reservoir(capacity=20))
    batch = rows((0, 1), 3, "new").take(torch.arange(6))
    remembering(method)
    assert len(method.memory) == 20 and method.shape_batch(batch) is batch
    remembering(method)
    assert len(method.shape_batch(batch)) == 12


def test_labels_that_are_no_class_ids_are_refused_by_name():
    z = torch.zeros(2, 3)
    with pytest.raises(BadSetting, match=r"ERACE needs one class id a row"):
        ERACE().shape_logits(z, Batch(z, torch.zeros(2)))


def test_er_balanced_by_tasks_weighs_new_and_old_rows_one_to_t_minus_one():
    er = ER(rows=6, balance="tasks", memory=Reservoir(capacity=20))
    net = remembering(er)
    assert er.tasks == 1 and len(er.memory) == 20
    er.begin_stage(net, stream()[1].task)
    er.begin_stage(net, stream()[2].task)  # the third task
    grow(net, 6)
    shaped = er.shape_batch(rows((4, 5), 2, "new").take(torch.arange(4)))
    out = forward(net, shaped)
    new, old = F.cross_entropy(out.logits[:4], shaped.y[:4]), F.cross_entropy(out.logits[4:], shaped.y[4:])
    whole = er.objective(net, shaped, Outputs(out.logits, out.logits))
    assert whole.item() == pytest.approx((new / 3 + 2 * old / 3).item(), rel=1e-5)


@pytest.mark.parametrize("first", [True, False])
def test_er_balanced_by_tasks_counts_rows_by_their_weights(first):
    """Rows that a partner brought without weight are no rows of the present task."""
    er, der = ER(rows=6, balance="tasks", memory=Reservoir(capacity=20)), DER(rows=9, memory=Reservoir(capacity=20))
    both = compose(er, der) if first else compose(der, er)
    both.begin_stage(remembering(both), stream()[1].task)
    weight = both.shape_batch(rows((2, 3), 2, "new").take(torch.arange(4))).weight
    assert weight.sum().item() == pytest.approx(2 * 4) and weight.gt(0).sum() == 10
