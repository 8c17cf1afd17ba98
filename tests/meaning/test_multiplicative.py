"""Multiplicative updates: small moves, saturation, signs and zeros."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from nacre.core.dice import dice
from nacre.core.rule import attached
from nacre.methods import Multiplicative

START = torch.tensor([[1.0, -2.0, 0.05, 0.0, -0.1]], dtype=torch.float64)


def walk(method, grads, lr: float = 0.1, make=torch.optim.SGD) -> list[torch.Tensor]:
    model = nn.Linear(5, 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        model.weight.copy_(START)
    made = make(model.parameters(), lr=lr)
    ends = [model.weight.detach().clone()]
    with attached(method, made, model):
        for g in grads:
            model.weight.grad = g.clone()
            made.step()
            ends.append(model.weight.detach().clone())
    return ends


def noisy(steps: int, size: float = 1.0) -> list[torch.Tensor]:
    return [size * torch.randn(1, 5, generator=dice("g", k), dtype=torch.float64) for k in range(steps)]


def test_a_plain_twin_of_the_rule():
    w, outer, inner, lam, cap = START.clone(), 0.2, 3.0, 0.3, 0.05
    for g in noisy(10):
        w = w + outer * ((1 - lam) * w.abs() + lam * cap) * torch.tanh(inner * (-0.1 * g))
    found = walk(Multiplicative(outer, inner, lam, cap), noisy(10))
    assert torch.allclose(found[-1], w, atol=1e-12)


@pytest.mark.parametrize("size", [1e-2, 1e-3])
def test_small_moves_are_scaled_by_the_weights_size_up_to_the_third_order(size):
    (g,) = noisy(1, size)
    ends = walk(Multiplicative(outer=0.1, inner=10.0, blend=0.0), [g])
    linear = -0.1 * g * 0.1 * 10.0 * START.abs()
    x = 10.0 * 0.1 * g.abs()
    assert ((ends[1] - ends[0] - linear).abs() <= 0.1 * START.abs() * x**3 / 3 + 1e-15).all() and linear.abs().max() > 0


def test_at_the_usual_settings_a_weight_of_the_size_cap_moves_as_the_optimizer_says():
    (g,) = noisy(1, 1e-4)
    move = (walk(Multiplicative(), [g])[1] - START)[0, 4]
    assert move.item() == pytest.approx(-0.1 * g[0, 4].item(), rel=1e-6)


def test_a_huge_move_is_a_share_of_the_weight():
    g = torch.tensor([[1.0, 1.0, -1.0, 1.0, -1.0]], dtype=torch.float64) * 1e6
    ends = walk(Multiplicative(outer=0.3, blend=0.0), [g])
    away = torch.tensor([[0.7, 1.3, 1.3, 1.0, 0.7]], dtype=torch.float64)  # what falls, falls toward minus infinity
    assert torch.allclose(ends[1], START * away)


def test_signs_stay_zeros_stay_and_logarithms_move_by_a_bounded_amount():
    grads = noisy(200, 100.0)
    ends = walk(Multiplicative(outer=0.3, blend=0.0), grads)
    bound = abs(math.log(1 - 0.3)) + 1e-9
    for before, after in pairwise(ends):
        assert torch.equal(before.sign(), START.sign()) and after[0, 3] == 0
        moved = (after.abs().log() - before.abs().log())[START != 0]
        assert moved.abs().max() <= bound and moved.abs().max() > 0


def test_the_second_term_lets_zeros_leave_and_signs_change():
    g = torch.full((1, 5), -1.0, dtype=torch.float64)
    ends = walk(Multiplicative(), [g] * 40)
    assert ends[1][0, 3] > 0 and START[0, 4] < 0 < ends[-1][0, 4]
    clipped = walk(Multiplicative(outer=0.2, blend=1.0, cap=0.1), [1e6 * g])
    assert torch.allclose(clipped[1] - START, torch.full_like(START, 0.2 * 0.1))


def test_the_learning_rate_acts_inside_tanh_and_off_is_the_optimizer_bit_for_bit():
    grads = noisy(5)
    fast, slow = (walk(Multiplicative(inner=1e6), grads, lr) for lr in (0.1, 0.05))
    assert torch.allclose(fast[-1], slow[-1]), "a saturated move has one length"
    off, plain = walk(Multiplicative(match=None), grads), START.clone()
    for g in grads:
        plain = torch.add(plain, g, alpha=-0.1)
    assert torch.equal(off[-1], plain)
    assert all((a != b).any() for a, b in zip(walk(Multiplicative(), grads)[1:], off[1:], strict=True))
