"""L2: the form that EWC has with importance 1, its fixed point, its limits, and what is anchored."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from worlds import Net, steps, stream

from nacre.core.drive import Drive
from nacre.core.errors import BadSetting
from nacre.core.method import Method, compose
from nacre.core.model import Outputs
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch, TensorRows
from nacre.core.stream import Task
from nacre.learner import Learner, Stage
from nacre.memory import Reservoir
from nacre.methods import ER, EWC, L2, MAS, SI
from nacre.schedules import schedule

SGD = MadeOptimizer("sgd", 0.05)
ADAMW = MadeOptimizer("adamw", 0.01, [], {"weight_decay": 0.05})


def end(method: Method, net: Net | None = None, make=ADAMW, tasks: int = 3, **settings) -> dict[str, torch.Tensor]:
    learner = Learner(
        net or Net(norm=False, dropout=0.0), (Stage(method, make, batch_size=8, epochs=2, **settings),), seed=1
    )
    list(learner.learn(stream()[:tasks]))
    return {n: p.detach().clone() for n, p in learner.model.named_parameters()}


class Even(EWC):
    """EWC with importance 1 and the latest anchor."""

    def end_stage(self, model, task):
        self.anchor = {n: p.detach().clone() for n, p in model.named_parameters()}
        self.importance = {n: torch.ones_like(a) for n, a in self.anchor.items()}


@pytest.mark.parametrize("how", ["loss", "gradient", "pull"])
def test_it_is_ewc_with_importance_1_bit_for_bit(how):
    ours, twin = end(L2(strength=3.0, how=how, head=True)), end(Even(strength=3.0, how=how))
    assert all(torch.equal(ours[n], twin[n]) for n in twin)
    assert not torch.equal(ours["body.0.weight"], end(Method())["body.0.weight"])


@pytest.mark.parametrize(("strength", "within"), [(1e8, 1e-5), (1e18, 0.0)])
def test_an_endless_pull_is_frozen_and_beyond_rounding_bit_for_bit_and_the_head_learns(strength, within):
    net = Net(norm=False, dropout=0.0)
    method = L2(strength=strength)
    learner = Learner(net, (Stage(method, SGD, batch_size=8),))
    walk = learner.learn(stream())
    next(walk)
    then = {n: p.detach().clone() for n, p in net.named_parameters()}
    list(walk)
    for n, p in net.named_parameters():
        far = (p.detach()[: len(then[n])] - then[n]).abs().max()
        assert far <= within if n.startswith("body") else far > 1e-3, (n, far)


class Quadratic(nn.Module):
    """Answers with its weights alone."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64))

    def forward(self, x):
        return self.w.expand(len(x), 3)


@pytest.mark.parametrize("how", ["loss", "gradient", "pull"])
def test_the_optimum_of_a_quadratic_is_the_mean_of_both_weighted_by_curvature(how):
    """(H + a I)^-1 (H w* + a anchor)."""
    root = torch.tensor([[2.0, 0.0, 0.0], [0.5, 1.0, 0.0], [-0.3, 0.4, 0.7]], dtype=torch.float64)
    hessian, best = root @ root.T, torch.tensor([3.0, 1.0, -1.0], dtype=torch.float64)

    class Bowl(Method):
        def objective(self, model: nn.Module, batch: Batch, out: Outputs):
            far = model.w - best
            return far @ hessian @ far / 2

    net, method = Quadratic(), L2(strength=0.7, how=how, first=True, head=True)
    start = net.w.detach().clone()
    rows = TensorRows(torch.zeros(400, 1), torch.zeros(400, 3))
    rate = 0.1
    with Drive(compose(Bowl(), method), net, MadeOptimizer("sgd", rate), Task(0, rows), seed=0) as drive:
        for _ in range(6):
            steps(drive)
    eye = torch.eye(3, dtype=torch.float64)
    expected = torch.linalg.solve(hessian + 0.7 * eye, hessian @ best + 0.7 * start)
    # the proximal step after a gradient step has this fixed point at any rate
    assert (net.w.detach() - expected).abs().max() < 1e-8
    assert torch.equal(method.anchor["w"], net.w.detach())


def test_what_is_anchored_is_chosen_by_name_and_renewed_after_each_task():
    net, method = Net(norm=True, dropout=0.0), L2(select=r"body\.4")
    with Drive(method, net, SGD, stream()[0].task, seed=0) as drive:
        steps(drive)
    assert set(method.anchor) == {"body.4.weight", "body.4.bias"}
    with Drive(method, net, SGD, stream()[1].task, seed=0) as drive:
        steps(drive)
    assert torch.equal(method.anchor["body.4.weight"], net.body[4].weight)
    with pytest.raises(BadSetting, match="finds none of the weights"):
        end(L2(select="attn.*qkv"))


@pytest.mark.parametrize(
    "make",
    [
        lambda s: EWC(rows=8, strength=50.0, select=s),
        lambda s: SI(strength=9.0, select=s),
        lambda s: MAS(rows=8, select=s),
    ],
)
def test_others_can_be_held_to_chosen_weights_too_and_are_unchanged_without_a_choice(make):
    method = make(r"body\.0")
    end(method)
    assert set(method.importance) == {"body.0.weight", "body.0.bias"} == set(method.anchor)
    everything, all_of_them = end(make(None)), end(make("."))
    assert all(torch.equal(everything[n], all_of_them[n]) for n in everything)


def test_local_rows_compete_among_their_own_classes_and_replayed_ones_among_all():
    net, method = Net(norm=False, dropout=0.0), L2(local=True)
    net.head.grow(4)
    with Drive(method, net, SGD, stream()[1].task, seed=0) as drive:
        batch = next(drive.batches(0, 6))
        drive.loss(batch).backward()
        assert net.head.weight.grad[:2].abs().max() == 0 < net.head.weight.grad[2:].abs().max()
        mixed = Batch(batch.x, batch.y, source=torch.tensor([0, 0, 0, 1, 1, 1]))
        shaped = method.shape_logits(torch.ones(6, 4), mixed)
        assert shaped[:3, :2].max() == -1e4 and (shaped[3:] == 1).all() and (shaped[:3, 2:] == 1).all()
        assert L2().shape_logits(shaped, mixed) is shaped


def test_with_replay_and_a_schedule_it_ends_nearer_the_anchor_than_without():
    far = {}
    for strength in (0.0, 20.0):
        net = Net(norm=False, dropout=0.0)
        method = compose(L2(strength=strength), ER(rows=8, memory=Reservoir(capacity=20)))
        stage = Stage(method, SGD, batch_size=8, epochs=2, schedule=schedule("cosine", warmup=2))
        walk = Learner(net, (stage,)).learn(stream())
        next(walk)
        then = net.body[0].weight.detach().clone()
        next(walk)
        far[strength] = (net.body[0].weight - then).norm().item()
    assert far[20.0] < 0.7 * far[0.0], far
