"""SaRA: which entries move and which do not, the low-rank term by hand, narrowing, and both forms alike."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from worlds import Answer, stream

from nacre.adapters import entries_in
from nacre.core.dice import mix
from nacre.core.drive import Drive
from nacre.core.method import Method
from nacre.core.model import grow
from nacre.core.optim import MadeOptimizer
from nacre.heads import GrowingLinear
from nacre.learner import Learner, Stage
from nacre.losses import nuclear_norm
from nacre.methods import SaRA

FORMS = pytest.mark.parametrize("form", ["dense", "compact"])
ADAMW = MadeOptimizer("adamw", 0.02, [], {"weight_decay": 0.1})
SGD = MadeOptimizer("sgd", 0.05, [], {"momentum": 0.9, "weight_decay": 0.01})


class Smooth(nn.Module):
    """A net in which every weight has a gradient."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 16), nn.Tanh())
        self.head = GrowingLinear(16)

    def forward(self, x):
        z = self.body(x)
        return Answer(self.head(z), z)


def steps(method, net, count=5, make=ADAMW, look=None):
    """A few steps on the first task; the weights before and after."""
    grow(net, 2)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    with Drive(method, net, make, stream()[0].task, seed=0) as drive:
        for batch in [b for epoch in range(9) for b in drive.batches(epoch, 8)][:count]:
            drive.optimizer.zero_grad()
            drive.loss(batch).backward()
            if look is not None:
                look(drive)
            drive.optimizer.step()
            drive.stepped()
    return before, {n: t.clone() for n, t in net.state_dict().items()}


@FORMS
def test_before_the_first_step_no_bit_changes_and_no_sign(form):
    """The published code writes |w| in the place of w."""
    before, after = steps(SaRA(threshold=0.1, least=4, form=form), Smooth(), count=0)
    assert all(torch.equal(t, after[n]) for n, t in before.items())
    net, x = Smooth(), torch.randn(5, 8)
    grow(net, 2)
    answer = net(x).logits
    with Drive(SaRA(threshold=0.1, form=form), net, ADAMW, stream()[0].task, seed=0):
        assert torch.equal(net(x).logits, answer)


@FORMS
def test_small_entries_move_and_no_other_of_the_body(form):
    before, after = steps(SaRA(threshold=0.05, least=4, form=form), Smooth(), count=10)
    for name, was in before.items():
        small = was.abs() < 0.05 if name.startswith("body") else torch.ones_like(was, dtype=torch.bool)
        moved = was != after[name]
        assert not (moved & ~small).any(), name
        assert moved[small].float().mean() > 0.9 or not small.any(), name
    assert 0 < (before["body.0.weight"].abs() < 0.05).float().mean() < 0.5


def test_a_share_takes_the_smallest_of_each_tensor():
    before, after = steps(SaRA(share=0.25, nuclear=0.0), Smooth())
    for name in ("body.0.weight", "body.2.weight"):
        moved = before[name] != after[name]
        assert moved.float().mean() == pytest.approx(0.25, abs=0.01)
        assert before[name][moved].abs().max() <= before[name][~moved].abs().min()


def test_all_chosen_without_the_term_is_the_bare_optimizer_bit_for_bit():
    ends = [steps(method, Smooth())[1] for method in (Method(), SaRA(share=1.0, nuclear=0.0))]
    assert all(torch.equal(t, ends[1][n]) for n, t in ends[0].items())


def test_the_gradient_of_the_values_is_the_dense_one_at_their_places():
    found = {}
    for form in ("dense", "compact"):

        def look(drive, form=form):
            found[form] = {n: p.grad.clone() for n, p in drive.site.params.items() if n.startswith("body")}

        before, _ = steps(SaRA(threshold=0.1, nuclear=0.0, form=form), Smooth(), 1, look=look)
    for name in ("body.0.weight", "body.2.weight"):
        mask = before[name].abs() < 0.1
        values = found["compact"][f"{name}_values"]
        torch.testing.assert_close(values, found["dense"][name][mask], rtol=1e-5, atol=1e-8)
        assert 0 < len(values) == mask.sum() < mask.numel() and values.abs().min() > 0


def test_both_forms_end_alike():
    ends = [
        steps(SaRA(threshold=0.1, least=4, nuclear=0.05, narrow=4, form=f), Smooth(), 12)[1]
        for f in ("dense", "compact")
    ]
    for name, t in ends[0].items():
        torch.testing.assert_close(t, ends[1][name], rtol=1e-6, atol=1e-6)


def test_the_nuclear_norm_and_its_gradient():
    w = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    norm = nuclear_norm(w)
    assert norm.item() == pytest.approx(torch.linalg.svdvals(w).sum().item())
    (slope,) = torch.autograd.grad(norm, w)
    u, _, v = torch.linalg.svd(w.detach(), full_matrices=False)
    torch.testing.assert_close(slope, u @ v)


@FORMS
def test_the_low_rank_term_reaches_what_the_optimizer_holds(form):
    """In the compact form of the published code its gradient goes nowhere."""
    strength, found = 0.5, {}
    for nuclear in (0.0, strength):
        net = Smooth()

        def look(drive, nuclear=nuclear):
            params = drive.site.params
            found[nuclear] = {n: params[n].grad.clone() for n in params if n.startswith("body") and "weight" in n}

        method = SaRA(threshold=0.1, least=4, nuclear=nuclear, form=form)
        before, _ = steps(method, net, 1, SGD, look)
    name = sorted(["body.0.weight", "body.2.weight"])[mix(0, 0, "matrix") % 2]
    mask = before[name].abs() < 0.1
    u, _, v = torch.linalg.svd(before[name] * mask, full_matrices=False)
    expected = strength * (u @ v) * mask
    held = name + "_values" if form == "compact" else name
    slope = found[strength][held] - found[0.0][held]
    torch.testing.assert_close(slope, expected[mask] if form == "compact" else expected, rtol=1e-3, atol=1e-5)
    other = next(n for n in found[0.0] if not n.startswith(name))
    torch.testing.assert_close(found[strength][other], found[0.0][other])


def test_each_step_draws_a_matrix_and_small_ones_are_left_out():
    method, drawn = SaRA(threshold=0.1, least=4, nuclear=0.5), []

    def look(drive):
        weights = [drive.model.body[k].weight for k in (0, 2)]
        slopes = torch.autograd.grad(method.loss(drive.model, None, None), weights, allow_unused=True)
        drawn.append([s is not None and s.abs().sum().item() > 0 for s in slopes].index(True))
        assert sum(s is not None for s in slopes) == 1, "of one matrix a step"

    steps(method, Smooth(), 20, look=look)
    assert drawn == [mix(0, step, "matrix") % 2 for step in range(20)] and 4 < sum(drawn) < 16
    ends = [steps(SaRA(threshold=0.1, least=64, nuclear=n), Smooth())[1] for n in (0.0, 9.0)]
    assert all(torch.equal(t, ends[1][n]) for n, t in ends[0].items())


@FORMS
def test_a_narrower_choice_is_a_part_of_the_first_and_what_grew_out_rests(form):
    seen = {}

    def look(drive):
        if drive.site.step in (3, 8):
            held = {n: p.detach().clone() for n, p in drive.site.params.items() if n.startswith("body.0.weight")}
            seen[drive.site.step] = next(iter(held.values()))

    method = SaRA(threshold=0.05, nuclear=0.0, narrow=3, form=form)
    net = Smooth()
    first = net.body[0].weight.detach().clone()
    steps(method, net, 9, ADAMW, look)
    chosen = first.abs() < 0.05
    at, end = (seen[s] if form == "dense" else first.clone().masked_scatter(chosen, seen[s]) for s in (3, 8))
    out = chosen & (at.abs() >= 0.05)
    still = chosen & ~out
    assert out.any() and still.any()
    assert torch.equal(at[out], end[out]), "what grew out rests"
    assert (at[still] != end[still]).float().mean() > 0.9
    assert torch.equal(first[~chosen], end[~chosen])


def test_what_a_task_made_large_rests_in_the_next():
    learner = Learner(Smooth(), (Stage(SaRA(threshold=0.05, nuclear=0.0), ADAMW, batch_size=8),))
    held = []
    for _ in learner.learn(stream()[:2]):
        held.append(learner.model.body[0].weight.detach().clone())
    first = Smooth().body[0].weight
    grew = (first.abs() < 0.05) & (held[0].abs() >= 0.05)
    assert grew.any() and torch.equal(held[0][grew], held[1][grew])


def test_in_compact_form_the_optimizer_holds_the_chosen_alone():
    net = Smooth()
    grow(net, 2)
    with Drive(SaRA(threshold=0.05, form="compact"), net, ADAMW, stream()[0].task, seed=0) as drive:
        assert len(entries_in(net)["body.0.weight"]) == int((net.body[0].weight.abs() < 0.05).sum())
        assert "body.0.weight" not in drive.site.params
    assert not entries_in(net) and net.body[0].weight.requires_grad
