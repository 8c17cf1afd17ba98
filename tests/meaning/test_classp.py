"""CLASSP: AdaGrad at power 2, harmonic steps at power 1, which weights move; and what the published class does instead."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nacre.core.dice import dice
from nacre.core.rule import attached
from nacre.methods import CLASSP


def walk(method, grads, make=None) -> list[torch.Tensor]:
    model = nn.Linear(*grads[0].shape[::-1], bias=False, dtype=grads[0].dtype)
    with torch.no_grad():
        model.weight.fill_(0.5)
    made = (make or (lambda p: torch.optim.SGD(p, lr=0.1)))(model.parameters())
    ends = [model.weight.detach().clone()]
    with attached(method, made, model):
        for g in grads:
            model.weight.grad = g.clone()
            made.step()
            ends.append(model.weight.detach().clone())
    return ends


def noisy(steps: int) -> list[torch.Tensor]:
    return [torch.randn(6, 5, generator=dice("g", k), dtype=torch.float64) for k in range(steps)]


def heavy(params):
    return torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1)


def test_at_power_2_and_threshold_0_it_is_adagrad():
    grads = noisy(20)
    model = nn.Linear(5, 6, bias=False, dtype=torch.float64)
    nn.init.constant_(model.weight, 0.5)
    adagrad = torch.optim.Adagrad(model.parameters(), lr=0.1, eps=0.0, initial_accumulator_value=1e-12)
    for g in grads:
        model.weight.grad = g.clone()
        adagrad.step()
    found = walk(CLASSP(power=2.0, eps=1e-12), grads)
    assert (found[-1] - model.weight).abs().max() < 1e-14 and (found[-1] - found[0]).abs().min() > 1e-3


def test_steps_of_a_constant_gradient_are_harmonic():
    ends = walk(CLASSP(power=1.0, eps=1e-12), [torch.ones(1, 1, dtype=torch.float64)] * 30)
    harmonic = torch.tensor([1.0 / k for k in range(1, 31)], dtype=torch.float64).cumsum(0)
    assert torch.allclose(0.5 - torch.cat(ends[1:]).flatten(), 0.1 * harmonic, atol=1e-9)


def test_a_plain_twin_with_a_threshold_and_sums_of_earlier_steps():
    grads, p, eps, threshold = noisy(15), 1.5, 0.3, 0.4
    w, s = torch.full((6, 5), 0.5, dtype=torch.float64), torch.zeros(6, 5, dtype=torch.float64)
    for g in grads:
        moves = g**2 > threshold
        w = torch.where(moves, w - 0.1 * g / (eps + s) ** (1 / p), w)
        s = torch.where(moves, s + g.abs() ** p, s)
    settings = {"power": p, "eps": eps, "threshold": threshold, "include_current": False}
    assert torch.allclose(walk(CLASSP(**settings), grads)[-1], w, atol=1e-12)


def test_without_the_present_gradient_the_first_step_is_divided_by_the_root_of_eps():
    first = walk(CLASSP(power=2.0, eps=1e-4, include_current=False), [torch.full((1, 1), 0.01)])
    assert (first[0] - first[1]).item() == pytest.approx(0.1 * 0.01 / 1e-4**0.5, rel=1e-4)


@pytest.mark.parametrize("make", [None, heavy], ids=["plain", "momentum and decay"])
def test_exactly_the_weights_with_large_gradients_move(make):
    grads = noisy(4)
    ends = walk(CLASSP(threshold=0.5), grads, make)
    for g, before, after in zip(grads, ends, ends[1:], strict=False):
        assert torch.equal(before != after, g**2 > 0.5)
    still = walk(CLASSP(threshold=1e9), grads, make)
    assert torch.equal(still[0], still[-1])


def test_the_optimizer_gives_the_learning_rate_only_and_a_schedule_acts():
    grads = noisy(6)
    plain, other = walk(CLASSP(), grads), walk(CLASSP(), grads, lambda p: torch.optim.AdamW(p, lr=0.1))
    assert all(torch.equal(a, b) for a, b in zip(plain, other, strict=True))
    halved = walk(CLASSP(), grads, lambda p: torch.optim.SGD(p, lr=0.05))
    assert torch.allclose(2 * (halved[1] - halved[0]), plain[1] - plain[0])


def test_the_published_class_compares_a_truth_with_the_threshold_and_forgets_its_power():
    """Its faults, built in on purpose: below 1 no threshold spares a weight, from 1 on nothing moves; sums are of |g|."""
    grads = [0.1 * g for g in noisy(3)]
    reference, paper = walk(CLASSP("reference", threshold=0.5), grads), walk(CLASSP(threshold=0.5), grads)
    assert (reference[0] != reference[1]).all() and torch.equal(paper[0], paper[-1])
    never = walk(CLASSP("reference", threshold=1.0), grads)
    assert torch.equal(never[0], never[-1])
    method = CLASSP("reference", power=2.0)
    walk(method, grads)
    assert torch.allclose(method.sums["weight"], sum(g.abs() for g in grads))
    paper = CLASSP(power=2.0)
    walk(paper, grads)
    assert torch.allclose(paper.sums["weight"], sum(g.abs() ** 2 for g in grads))


def test_plain_steps_are_the_optimizers_bit_for_bit_while_sums_go_on():
    grads = noisy(6)
    off, late = walk(CLASSP(scaling=False), grads, heavy), CLASSP("reference", plain_steps=3)
    ends = walk(late, grads, heavy)
    assert all(torch.equal(a, b) for a, b in zip(off[:4], ends[:4], strict=True))
    s = sum(g.abs() for g in grads[:4])
    assert torch.allclose(ends[4], ends[3] - 0.1 * grads[3] / (1e-5 + s), atol=1e-12)


def test_weights_that_earlier_rows_used_are_slow_and_others_are_free():
    used = torch.tensor([[1.0, 0.0]])
    ends = walk(CLASSP(), [used] * 99 + [torch.ones(1, 2)])
    last = (ends[-1] - ends[-2]).abs()[0]
    assert last[0] == pytest.approx(0.1 / 100, rel=1e-3) and last[1] == pytest.approx(0.1, rel=1e-3)
