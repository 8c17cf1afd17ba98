"""Anchor: its three forms against closed forms, AdamW, autograd and EWC."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from worlds import Net, noise, stream

from nacre.core.dice import dice
from nacre.core.drive import Drive
from nacre.core.errors import BadSetting
from nacre.core.model import grow
from nacre.core.optim import MadeOptimizer
from nacre.core.rule import attached
from nacre.methods import EWC
from nacre.rules import Anchor, Rest

FORMS = ("loss", "decoupled", "implicit")


class Quadratic(nn.Module):
    """1/2 sum h (w - best)^2."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.zeros(6, dtype=torch.float64))
        self.h = 0.5 + torch.rand(6, generator=dice("h"), dtype=torch.float64)
        self.best = torch.randn(6, generator=dice("best"), dtype=torch.float64)

    def forward(self) -> torch.Tensor:
        return 0.5 * (self.h * (self.w - self.best).square()).sum()


def descend(rule, net: nn.Module, made: torch.optim.Optimizer, steps: int) -> None:
    with attached(rule, made, net):
        for _ in range(steps):
            made.zero_grad()
            net().backward()
            made.step()


@pytest.mark.parametrize("form", FORMS)
def test_the_fixed_point_on_a_quadratic(form):
    net = Quadratic()
    a = torch.randn(6, generator=dice("a"), dtype=torch.float64)
    importance = torch.rand(6, generator=dice("i"), dtype=torch.float64)
    rule = Anchor(3.0, form, reference={"w": a}, importance={"w": importance})
    descend(rule, net, torch.optim.SGD(net.parameters(), lr=0.1), 600)
    expected = (net.h * net.best + 3.0 * importance * a) / (net.h + 3.0 * importance)
    assert torch.allclose(net.w, expected, atol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_along_linear_tasks_with_gaussian_noise_it_is_recursive_bayesian_regression(form):
    """Inputs of orthogonal columns, so that the diagonal is all of X'X; the prior of a task is the posterior before it."""
    net, mean, precision = Quadratic(), torch.zeros(6).double(), torch.ones(6).double()
    whole, seen = torch.eye(6).double(), torch.zeros(6).double()
    for task in range(3):
        q, _ = torch.linalg.qr(torch.randn(20, 6, generator=dice("columns", task), dtype=torch.float64))
        x = q * (0.5 + torch.rand(6, generator=dice("lengths", task), dtype=torch.float64))
        y = torch.randn(20, generator=dice("answers", task), dtype=torch.float64)
        net.forward = lambda x=x, y=y: (y - x @ net.w).square().sum() / 2
        rule = Anchor(1.0, form, reference={"w": mean}, importance={"w": precision})
        descend(rule, net, torch.optim.SGD(net.parameters(), lr=0.1), 400)
        mean, precision = net.w.detach().clone(), precision + x.square().sum(0)
        whole, seen = whole + x.T @ x, seen + x.T @ y
        assert torch.allclose(mean, torch.linalg.solve(whole, seen), atol=1e-10), "the posterior of all rows so far"
    assert torch.allclose(precision, whole.diagonal())


def test_the_loss_form_is_the_penaltys_own_gradient():
    ends = []
    for penalty in (False, True):
        net, a = Quadratic(), torch.arange(6.0, dtype=torch.float64)
        made = torch.optim.Adam(net.parameters(), lr=0.05)
        rule = Rest({}) if penalty else Anchor(0.7, "loss", reference={"w": a})
        with attached(rule, made, net):
            for _ in range(10):
                made.zero_grad()
                loss = net() + (0.7 / 2 * (net.w - a).square().sum() if penalty else 0.0)
                loss.backward()
                made.step()
        ends.append(net.w.detach())
    assert torch.allclose(*ends, atol=1e-12)


def test_decoupled_toward_zero_is_the_decay_of_adamw():
    ends = []
    for decay in (0.0, 0.3):
        net = Quadratic()
        made = torch.optim.AdamW(net.parameters(), lr=0.05, weight_decay=decay)
        rule = Rest({}) if decay else Anchor(0.3, "decoupled", reference={"w": torch.zeros(6)})
        descend(rule, net, made, 20)
        ends.append(net.w.detach())
    assert torch.allclose(*ends, atol=1e-12) and ends[0].abs().max() > 0.1


def test_importance_1_is_plain_l2_bit_for_bit():
    for form in FORMS:
        ends = []
        for importance in (None, {"w": torch.ones(6)}):
            net = Quadratic().float()
            net.w.data.add_(0.3)
            made = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
            descend(Anchor(0.4, form, reference={"w": torch.ones(6)}, importance=importance), net, made, 7)
            ends.append(net.w.detach())
        assert torch.equal(*ends), form


def test_an_implicit_pull_of_any_strength_is_finite_and_a_large_one_is_frozen():
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        net = Quadratic()
        net.w = nn.Parameter(torch.randn(6, generator=dice("w")).to(dtype))
        start = net.w.detach().clone()
        descend(Anchor(1e18), net, torch.optim.AdamW(net.parameters(), lr=0.1), 5)
        assert torch.equal(net.w.detach(), start)
        descend(Anchor(1.0), net, torch.optim.AdamW(net.parameters(), lr=0.1), 5)
        assert net.w.dtype == dtype and not torch.equal(net.w.detach(), start)


def test_a_decoupled_pull_beyond_its_anchor_is_refused():
    net = Quadratic()
    made = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(BadSetting, match=r"= 2, and a decoupled pull.*implicit"):
        descend(Anchor(2.0, "decoupled", importance={"w": torch.full((6,), 10.0)}), net, made, 1)
    assert torch.equal(net.w.detach(), torch.zeros(6)) or net.w.isfinite().all()
    descend(Anchor(1.9, "decoupled", importance={"w": torch.full((6,), 10.0)}), net, made, 50)
    assert net.w.isfinite().all()


def steps(method, net, task: int, made=None) -> None:
    made = made or MadeOptimizer("adamw", 0.02, [], {"weight_decay": 0.0})
    grow(net, 2 * task + 2)
    with Drive(method, net, made, stream()[task].task, augment=noise, seed=0) as drive:
        for batch in drive.batches(epoch=0, size=8):
            drive.optimizer.zero_grad()
            drive.loss(batch).backward()
            drive.optimizer.step()
            drive.stepped()


def test_with_ewcs_memory_it_is_ewcs_pull_bit_for_bit():
    ewc, net = EWC(strength=50.0, rows=16, how="pull"), Net(dropout=0.0)
    steps(ewc, net, 0)
    twin = copy.deepcopy(net)
    importance, anchor = ({n: t.clone() for n, t in kept.items()} for kept in (ewc.importance, ewc.anchor))
    steps(ewc, net, 1)
    steps(Anchor(50.0, match="", reference=anchor, importance=importance), twin, 1)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), twin.parameters(), strict=True))
    assert len(net.head.weight) > len(importance["head.weight"]), "the head grew"


def test_by_default_each_stage_is_anchored_where_it_began_and_the_head_is_free():
    rule, net, free = Anchor(30.0), Net(dropout=0.0), Net(dropout=0.0)
    for task in (0, 1, 2):
        grow(net, 2 * task + 2)
        grow(free, 2 * task + 2)
        free.load_state_dict(net.state_dict())
        start = copy.deepcopy(net.state_dict())
        steps(rule, net, task)
        steps(Rest({}), free, task)
        far, wide = (
            torch.cat(
                [(p.detach() - start[n]).flatten() for n, p in m.named_parameters() if n.startswith("body")]
            ).norm()
            for m in (net, free)
        )
        assert 0 < far < 0.6 * wide
        begun = {n: w for n, w in rule.start.weights.items()}
        assert all(torch.equal(begun[n], start[n]) for n in begun) and not any(n.startswith("head") for n in begun)


def test_rows_of_a_head_that_grew_since_are_free():
    for form in FORMS:
        net = Net(norm=False, dropout=0.0)
        grow(net, 2)
        reference = {"head.weight": torch.zeros(2, 16)}
        twin = copy.deepcopy(net)
        made = MadeOptimizer("sgd", 0.05)
        steps(Anchor(0.5, form, match="head", reference=reference), net, 1, made)
        steps(Rest({}), twin, 1, made)
        first = (net.head.weight - twin.head.weight).detach().abs()
        assert first[:2].max() > 1e-3, form
        assert first[2:].max() < 0.2 * first[:2].max(), "new rows differ through the others only"


def test_an_importance_of_fewer_rows_leaves_new_ones_free_and_single_numbers_are_for_all():
    for form in FORMS:
        net = Net(norm=False, dropout=0.0)
        grow(net, 4)
        start, made = net.head.weight.detach().clone(), MadeOptimizer("sgd", 0.05)
        steps(Anchor(10.0, form, match="head.weight", importance={"head.weight": torch.ones(2, 16)}), net, 1, made)
        far = (net.head.weight.detach() - start).norm(dim=1)
        assert far[:2].max() < 0.5 * far[2:].min(), form
        ends = []
        for a, i in ((torch.tensor(0.5), torch.tensor(2.0)), (torch.full((6,), 0.5), torch.full((6,), 2.0))):
            quadratic = Quadratic()
            rule = Anchor(0.3, form, reference={"w": a}, importance={"w": i})
            descend(rule, quadratic, torch.optim.SGD(quadratic.parameters(), lr=0.1), 5)
            ends.append(quadratic.w.detach())
        assert torch.equal(*ends), form


def test_names_and_shapes_that_do_not_fit_are_refused():
    net = Quadratic()
    made = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(BadSetting, match=r"Anchor.reference names 'v', which the model does not have: it has w"):
        descend(Anchor(reference={"v": torch.zeros(6)}), net, made, 1)
    with pytest.raises(BadSetting, match=r"Anchor.reference of w has the shape \(7,\), the parameter \(6,\)"):
        descend(Anchor(reference={"w": torch.zeros(7)}), net, made, 1)
    with pytest.raises(BadSetting, match=r"Anchor.importance of w has the shape \(6, 2\)"):
        descend(Anchor(importance={"w": torch.zeros(6, 2)}), net, made, 1)
