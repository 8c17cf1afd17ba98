"""EXTRAP-SGD: closed forms on a quadratic, a game that plain SGD loses, and weights that are never found ahead."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from worlds import Net, noise, stream

from nacre.core.drive import Drive
from nacre.core.errors import BadSetting
from nacre.core.method import Method, compose
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import TensorRows
from nacre.core.rule import Rule
from nacre.core.stream import Task
from nacre.learner import Learner, Stage
from nacre.memory import Reservoir
from nacre.methods import ER, EWC, ExtrapSGD
from nacre.rules import Rest
from nacre.schedules import schedule

SGD = MadeOptimizer("sgd", 0.05)
H, LR, REACH = 3.0, 0.1, 2.5


class Bowl(nn.Module):
    """0.5 h w^2, whatever the rows."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([[2.0]], dtype=torch.float64))

    def forward(self, x):
        return (H / 2) ** 0.5 * self.w.expand(len(x), 1)


def bowl(method, steps: int = 6) -> list[float]:
    net = Bowl()
    task, way = Task(0, TensorRows(torch.zeros(4, 1).double(), torch.zeros(4, 1).double())), [net.w.item()]
    with Drive(method, net, MadeOptimizer("sgd", LR), task, seed=0) as drive:
        for k in range(steps):
            for batch in drive.batches(k, 4):
                drive.optimizer.zero_grad()
                drive.loss(batch).backward()
                drive.optimizer.step()
                drive.stepped()
                way.append(net.w.item())
    return way


def test_fresh_follows_its_closed_form_on_a_quadratic():
    ahead = REACH * LR
    factor = 1 - LR * H + LR * ahead * H**2
    assert bowl(ExtrapSGD(form="fresh", reach=REACH)) == pytest.approx([2.0 * factor**k for k in range(7)], rel=1e-12)


def test_stale_follows_its_matrix_on_a_quadratic():
    """The pair (w, last gradient); before the first step there is no last gradient."""
    ahead, w, g, way = REACH * LR, 2.0, 0.0, [2.0]
    for _ in range(6):
        w, g = (1 - LR * H) * w + LR * ahead * H * g, H * w - ahead * H * g
        way.append(w)
    assert bowl(ExtrapSGD(reach=REACH)) == pytest.approx(way, rel=1e-12)


class Game(nn.Module):
    """x y, which x makes small and y makes large."""

    def __init__(self):
        super().__init__()
        self.x, self.y = (nn.Parameter(torch.tensor([1.0])) for _ in range(2))

    def forward(self, rows):
        return (self.x * self.y).expand(len(rows), 1)


class Product(Method):
    def objective(self, model, batch, out):
        return out.competing.mean()


@dataclass
class Flip(Rule):
    def shape_grads(self, grads, site):
        grads["y"] = -grads["y"]
        return grads


def test_a_game_that_plain_steps_leave_in_a_spiral_is_settled():
    far = {}
    for reach in (0.0, 1.0):
        game, task = Game(), Task(0, TensorRows(torch.zeros(4, 1), torch.zeros(4, 1)))
        method = compose(Product(), Flip(), ExtrapSGD(reach=reach))
        with Drive(method, game, MadeOptimizer("sgd", 0.3), task, seed=0) as drive:
            for k in range(200):
                for batch in drive.batches(k, 4):
                    drive.optimizer.zero_grad()
                    drive.loss(batch).backward()
                    drive.optimizer.step()
                    drive.stepped()
        far[reach] = game.x.item() ** 2 + game.y.item() ** 2
    assert far[1.0] < 1e-3 < 1e3 < far[0.0], far


@pytest.mark.parametrize("form", ["stale", "fresh", "noise"])
def test_the_gradient_is_that_of_the_offset_weights_and_the_weights_stay(form):
    """Twin: a copy of the model is moved by the offset, and its gradient taken."""
    net, method = Net(norm=False, dropout=0.0), ExtrapSGD(form=form, reach=5.0)
    with Drive(method, net, MadeOptimizer("sgd", 0.05), stream()[0].task, seed=0) as drive:
        batches = drive.batches(0, 8)
        for _ in range(2):
            batch = next(batches)
            drive.optimizer.zero_grad()
            drive.loss(batch).backward()
            drive.optimizer.step()
            drive.stepped()
        batch, before = next(batches), {n: p.detach().clone() for n, p in net.named_parameters()}
        own = dict(zip(before, torch.autograd.grad(drive.task.objective(batch), net.parameters()), strict=True))
        far = method.offset(batch, drive.site, lambda: own)
        far = {n: t.clone() for n, t in far.items()}
        assert far.keys() == before.keys() and min(t.norm() for t in far.values()) > 0
        with torch.no_grad():
            for n, p in net.named_parameters():
                p.add_(far[n])
        expected = torch.autograd.grad(drive.task.objective(batch), list(net.parameters()))
        with torch.no_grad():
            for n, p in net.named_parameters():
                p.copy_(before[n])
        drive.optimizer.zero_grad()
        loss = drive.loss(batch)
        assert all(torch.equal(p, before[n]) for n, p in net.named_parameters()), "the weights are left ahead"
        loss.backward()
        assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())
        found = [p.grad for p in net.parameters()]
        assert all(torch.allclose(a, b, atol=1e-7) for a, b in zip(found, expected, strict=True))
        plain = [not torch.allclose(a, own[n], atol=1e-5) for n, a in zip(before, found, strict=True)]
        assert any(plain), "the gradient is that of the weights themselves"


def test_noise_is_as_long_as_its_filter_times_the_reach():
    net, method = nn.Linear(4000, 3), ExtrapSGD(form="noise", reach=2.0)
    with Drive(
        method, net, MadeOptimizer("sgd", 0.05), Task(0, TensorRows(torch.zeros(2, 4000), torch.zeros(2).long()))
    ) as drive:
        far = method.offset(next(drive.batches(0, 2)), drive.site, dict)
        ratio = far["weight"].norm(dim=1) / (0.1 * net.weight.detach().norm(dim=1))
        assert (ratio - 1).abs().max() < 0.05


class Fails(Method):
    def objective(self, model, batch, out):
        raise ZeroDivisionError


def test_an_exception_ahead_leaves_the_weights_where_they_were():
    net = Net(norm=False, dropout=0.0)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    method = compose(Fails(), ExtrapSGD(form="noise", reach=100.0))
    with (
        pytest.raises(ZeroDivisionError),
        Drive(method, net, MadeOptimizer("sgd", 0.05), stream()[0].task, seed=0) as drive,
    ):
        before |= {n: p.detach().clone() for n, p in net.named_parameters()}  # the head grew
        drive.loss(next(drive.batches(0, 8)))
    assert all(torch.equal(p, before[n]) and isinstance(p, nn.Parameter) for n, p in net.named_parameters())


def test_a_step_without_effect_teaches_no_direction_and_norms_see_each_row_once():
    net, method = Net(dropout=0.0), compose(ExtrapSGD(reach=2.0), ExtrapFresh(form="fresh"))
    with Drive(method, net, MadeOptimizer("sgd", 0.05, [], {"fused": True}), stream()[0].task, seed=0) as drive:
        for k, batch in enumerate(drive.batches(0, 8)):
            drive.optimizer.found_inf = torch.tensor(float(k == 2))
            drive.optimizer.zero_grad()
            drive.loss(batch).backward()
            kept = {n: t.clone() for n, t in method.members[0].last.items()}
            drive.optimizer.step()
            drive.stepped()
            if k == 2:
                assert all(torch.equal(t, method.members[0].last[n]) for n, t in kept.items())
        assert net.body[1].num_batches_tracked == 5


class ExtrapFresh(ExtrapSGD):
    """A second part of another name: offsets add up."""


def test_offsets_of_several_parts_add_up():
    one, two = ExtrapSGD(form="fresh", reach=1.5), ExtrapFresh(form="fresh", reach=1.0)
    ends = [bowl(compose(one, two)), bowl(ExtrapSGD(form="fresh", reach=2.5))]
    assert ends[0] == pytest.approx(ends[1], rel=1e-12) and ends[0] != pytest.approx(bowl(Method()))


def test_a_penalty_counts_ahead_and_it_goes_with_replay_rest_and_a_schedule():
    parts = (ExtrapSGD(reach=3.0), ER(rows=8, memory=Reservoir(capacity=20)), EWC(rows=8), Rest(r"body\.0"))
    stage = Stage(
        compose(*parts),
        MadeOptimizer("sgd", 0.05, [], {"momentum": 0.9}),
        batch_size=8, accumulate=2, clip=1.0, augment=noise, schedule=schedule("cosine", warmup=2),
    )  # fmt: skip
    who = Learner(Net(), (stage,), seed=1)
    start = who.model.body[0].weight.detach().clone()
    assert sum(1 for _ in who.learn(stream())) == 3
    assert torch.equal(start, who.model.body[0].weight)
    assert all(p.isfinite().all() for p in who.model.parameters())


class Recomputing(nn.Module):
    """A net of which a part is computed again in the backward pass, or says that it is."""

    def __init__(self, kind: str):
        super().__init__()
        self.first, self.body, self.head, self.kind = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2), kind
        self.gradient_checkpointing = kind == "says so"

    def forward(self, x):
        z = self.first(x)
        if self.kind in ("plain", "says so"):
            return self.head(self.body(z).relu())
        return self.head(checkpoint(lambda z: self.body(z).relu(), z, use_reentrant=self.kind == "reentrant"))


@pytest.mark.parametrize("form", ["stale", "fresh", "noise"])
@pytest.mark.parametrize("kind", ["reentrant", "hooks", "says so"])
def test_a_model_that_computes_activations_again_is_refused(kind, form):
    with pytest.raises(BadSetting, match="switch gradient checkpointing off"):
        list(Learner(Recomputing(kind), (Stage(ExtrapSGD(form=form), SGD, batch_size=20),)).learn(stream()[:1]))
    list(Learner(Recomputing(kind), (Stage(ExtrapSGD(reach=0.0), SGD, batch_size=20),)).learn(stream()[:1]))


def test_a_model_that_does_not_is_not_refused():
    list(Learner(Recomputing("plain"), (Stage(ExtrapSGD(), SGD, batch_size=20),)).learn(stream()[:1]))
