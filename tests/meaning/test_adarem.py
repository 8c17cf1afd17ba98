"""AdaRem: against a plain twin, and by hand."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from nacre.core.dice import dice
from nacre.core.method import compose
from nacre.core.rule import attached
from nacre.methods import AdaRem
from nacre.rules import Rest


def walk(method, grads, optimizer=torch.optim.SGD, start=None, **options) -> list[torch.Tensor]:
    """The weights after each step of one tensor whose gradients are given."""
    w = nn.Linear(*grads[0].shape[::-1], bias=False, dtype=grads[0].dtype)
    with torch.no_grad():
        w.weight.copy_(torch.zeros_like(grads[0]) if start is None else start)
    made, ends = optimizer(w.parameters(), **{"lr": 0.1, **options}), [w.weight.detach().clone()]
    with attached(method, made, w):
        for g in grads:
            w.weight.grad = g.clone()
            made.step()
            ends.append(w.weight.detach().clone())
    return ends


def noisy(steps: int, dtype=torch.float64) -> list[torch.Tensor]:
    return [torch.randn(3, 4, generator=dice("g", k)).to(dtype) + 0.3 for k in range(steps)]


@pytest.mark.parametrize(("strength", "decay"), [(1.0, 0.999), (0.5, 0.8)])
def test_a_plain_twin_of_the_rule(strength, decay):
    grads = noisy(12)
    w, m = torch.zeros(3, 4, dtype=torch.float64), torch.zeros(3, 4, dtype=torch.float64)
    ends = [w.clone()]
    for g in grads:
        a = g * m / (g.abs() * m.abs().max() + 1e-30)
        w -= 0.1 * (1 + strength * a) * g
        m = decay * m + (1 - decay) * g
        ends.append(w.clone())
    found = walk(AdaRem(strength=strength, decay=decay), grads)
    assert all(torch.allclose(a, b, atol=1e-12) for a, b in zip(found, ends, strict=True))


def test_at_strength_0_it_is_the_optimizer_bit_for_bit():
    for made, options in ((torch.optim.SGD, {"momentum": 0.9, "weight_decay": 0.1}), (torch.optim.AdamW, {})):
        grads = noisy(5, torch.float32)
        plain, off = walk(Rest({}), grads, made, **options), walk(AdaRem(strength=0.0), grads, made, **options)
        assert all(torch.equal(a, b) for a, b in zip(plain, off, strict=True))


def test_a_steady_gradient_moves_farther_and_the_largest_entry_by_1_plus_strength():
    g = torch.tensor([[1.0, 0.25]])
    ends = walk(AdaRem(strength=0.6), [g] * 3)
    assert torch.allclose(ends[1] - ends[0], -0.1 * g), "no past, no change"
    for before, after in pairwise(ends[1:]):
        assert torch.allclose(after - before, -0.1 * g * (1 + 0.6 * torch.tensor([[1.0, 0.25]])))


def test_a_gradient_that_comes_and_goes_moves_less_far_and_leaves_no_average():
    steady, method = 1.0, AdaRem(decay=0.9)
    grads = [torch.tensor([[steady, (-1.0) ** k]], dtype=torch.float64) for k in range(200)]
    ends = walk(method, grads)
    moves = torch.stack([(b - a)[0, 1].abs() for a, b in pairwise(ends)])
    assert moves.max() <= 0.1 + 1e-12 and (moves[1:] < 0.1).all(), "each step back is shortened"
    assert method.average["weight"][0, 1].abs() < 0.1 < 0.99 < method.average["weight"][0, 0]


def test_no_move_changes_its_sign_and_none_is_more_than_doubled():
    grads = noisy(30)
    ends = walk(AdaRem(decay=0.7), grads)
    for g, before, after in zip(grads, ends, ends[1:], strict=False):
        factor = (after - before) / (-0.1 * g)
        assert (factor >= -1e-9).all() and (factor <= 2 + 1e-9).all()
    spread = torch.stack([(b - a) / g for g, a, b in zip(grads[1:], ends[1:], ends[2:], strict=False)])
    assert spread.std() > 0.01, "it does something"


def test_it_changes_moves_of_adam_which_divides_factors_on_gradients_out():
    grads = [torch.tensor([[1.0, 1.0]]), torch.tensor([[1.0, -1.0]])]
    options = {"lr": 0.1, "betas": (0.0, 0.999), "weight_decay": 0.0}
    plain = walk(Rest({}), grads, torch.optim.AdamW, **options)
    found = walk(AdaRem(), grads, torch.optim.AdamW, **options)
    assert torch.allclose(found[1], plain[1])
    ratio = (found[2] - found[1]) / (plain[2] - plain[1])
    assert torch.allclose(ratio, torch.tensor([[2.0, 0.0]]), atol=1e-5)


def test_what_rests_keeps_its_bits_and_the_average_of_bf16_weights_is_fp32():
    rests = torch.tensor([[True, False], [False, True]])
    start = torch.tensor([[0.1, 0.2], [0.3, 0.4]], dtype=torch.bfloat16)
    grads = [g[:2, :2].to(torch.bfloat16) for g in noisy(5)]
    method = AdaRem()
    for order in ((method, Rest({"weight": rests})), (Rest({"weight": rests}), method)):
        ends = walk(compose(*order), grads, start=start)
        assert torch.equal(ends[-1][rests], start[rests]) and (ends[-1] != start)[~rests].all()
    assert method.average["weight"].dtype == torch.float32
