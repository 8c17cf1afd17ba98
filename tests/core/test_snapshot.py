"""A snapshot answers as the model did when it was taken, whatever happened to the model since."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from worlds import Net, rows

from nacre import checkpoint
from nacre.core.model import forward, grow
from nacre.core.rows import Batch
from nacre.core.snapshot import Snapshot


def answered(net: nn.Module, batch: Batch) -> torch.Tensor:
    """The model's own answer in eval mode."""
    modes = [(m, m.training) for m in net.modules()]
    with torch.no_grad():
        logits = forward(net.eval(), batch).logits
    for m, mode in modes:
        m.training = mode
    return logits


def batch(task: int | None = None) -> Batch:
    return rows((0, 1), 6, "snapshot", task=task).take(torch.arange(12))


def shaken(net: nn.Module) -> None:
    """Move all weights and buffers."""
    with torch.no_grad():
        for t in (*net.parameters(), *net.buffers()):
            t.add_(1)


def test_it_answers_as_then_with_the_width_of_then_and_touches_nothing():
    net = Net()
    grow(net, 2)
    then, before = Snapshot(), answered(net, batch())
    then.take(net)
    grow(net, 5)
    shaken(net)
    net.train()
    now = {n: t.clone() for n, t in net.state_dict().items()}
    out = then.answer(net, batch())
    assert torch.equal(out.logits, before) and out.logits.shape[1] == 2 and out.features.shape == (12, 16)
    assert not out.logits.requires_grad
    assert all(torch.equal(t, now[n]) for n, t in net.state_dict().items()), "norm statistics of the live model stay"
    assert all(m.training for m in net.modules())


def test_through_files_into_a_fresh_model_it_answers_with_the_same_bits(tmp_path):
    net = Net()
    grow(net, 3)
    then = Snapshot()
    then.take(net)
    before = then.answer(net, batch()).logits
    checkpoint.save(tmp_path / "saved", {"then": then.state_dict()})
    again, other = Snapshot(), Net(seed=1)
    grow(other, 3)
    again.load_state_dict(checkpoint.load(tmp_path / "saved")["then"])
    assert torch.equal(again.answer(other, batch()).logits, before)


def test_a_module_that_is_put_in_later_answers_as_it_first_was():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(16))

        def forward(self, z):
            return z * self.scale

    net = Net()
    grow(net, 2)
    then = Snapshot()
    then.take(net)
    before = then.answer(net, batch()).logits
    net.body.append(Scaled())
    assert torch.equal(then.answer(net, batch()).logits, before)
    shaken(net)
    assert torch.equal(then.answer(net, batch()).logits, before), "a teacher that moves with what was put in"


def test_it_is_told_the_task_where_heads_separate_tasks():
    net = Net(heads=True)
    grow(net, 2, 0, (0, 1))
    grow(net, 4, 1, (2, 3))
    then, before = Snapshot(), answered(net, batch(task=1))
    then.take(net)
    shaken(net)
    assert torch.equal(then.answer(net, batch(task=1)).logits, before) and (before[:, :2] == -1e4).all()


def test_tied_weights_are_understood():
    net = nn.Sequential(nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False))
    net[1].weight = net[0].weight
    then, before = Snapshot(), answered(net, batch())
    then.take(net)
    shaken(net)
    assert torch.equal(then.answer(net, batch()).logits, before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_it_keeps_the_type_of_the_weights(dtype):
    net = Net().to(dtype)
    then = Snapshot()
    then.take(net)
    assert {t.dtype for n, t in then.tensors.items() if t.is_floating_point()} == {dtype}


def test_put_back_restores_all_but_what_was_gained():
    net = Net()
    grow(net, 2)
    then = Snapshot()
    then.extend(net)
    first = {n: t.clone() for n, t in net.state_dict().items()}
    shaken(net)
    grow(net, 4)
    fresh = net.head.weight.detach()[2:].clone()
    then.extend(net)
    shaken(net)
    then.put_back(net)
    for n, t in net.state_dict().items():
        assert torch.equal(t[: len(first[n])] if t.ndim else t, first[n]), n
    assert torch.equal(net.head.weight[2:], fresh)


class Twice(nn.Module):
    """One layer under two names, and a module whose state is no tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.b = self.a

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))

    def get_extra_state(self):
        return {"seen": 1}

    def set_extra_state(self, state):
        pass


def test_a_layer_of_two_names_is_lent_and_given_back():
    model, rows = Twice(), Batch(torch.randn(3, 4), torch.zeros(3, dtype=torch.long))
    before, held = model(rows.x), model.a.weight
    then = Snapshot()
    then.take(model)
    with torch.no_grad():
        held.add_(1.0)
    assert torch.equal(then.answer(model, rows).logits, before)
    assert model.a.weight is held and model.b.weight is held
    assert not torch.equal(model(rows.x), before)
