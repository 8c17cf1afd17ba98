"""Losses that hold answers to earlier ones: closed forms, gradients, and widths."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from nacre.core.dice import dice
from nacre.losses import distillation, sigmoid_targets, stored_logits


def drawn(rows: int, classes: int, *place: str) -> torch.Tensor:
    return torch.randn(rows, classes, generator=dice("distillation", *place), dtype=torch.float64)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_the_gradient_is_q_minus_p_over_t_and_adds_up_to_zero(temperature):
    z, t = drawn(6, 4, "z").requires_grad_(), drawn(6, 4, "t")
    (slope,) = torch.autograd.grad(distillation(z, t, temperature), z)
    expected = ((z / temperature).softmax(1) - (t / temperature).softmax(1)) / temperature / 6
    assert (slope - expected).abs().max() < 1e-12, "no factor T^2"
    assert slope.sum(1).abs().max() < 1e-12
    (none,) = torch.autograd.grad(distillation(z, z.detach(), temperature), z)
    assert none.abs().max() < 1e-15


def test_it_is_the_divergence_and_extra_classes_have_target_zero():
    z, t = drawn(6, 5, "z"), drawn(6, 3, "t")
    assert distillation(z[:, :3], t, 2.0) == pytest.approx(
        F.kl_div((z[:, :3] / 2).log_softmax(1), (t / 2).softmax(1), reduction="batchmean").item()
    )
    padded = F.pad((t / 2).softmax(1), (0, 2))
    cross = -(padded * (z / 2).log_softmax(1)).sum(1) - ((t / 2).softmax(1) * -(t / 2).log_softmax(1)).sum(1)
    assert distillation(z, t, 2.0) == pytest.approx(cross.mean().item())
    weight = torch.tensor([1.0, 0, 2, 0, 0, 1])
    assert distillation(z, t, 2.0, weight) == pytest.approx(((cross * weight).sum() / 4).item())


def test_stored_logits_are_compared_on_their_own_columns_and_rows():
    z = drawn(3, 4, "z").requires_grad_()
    stored = torch.full((3, 3), torch.nan, dtype=torch.float64)
    stored[0, :2], stored[1] = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0, 2.0])
    has = torch.tensor([True, True, False])
    loss = stored_logits(z, stored, has)
    by_hand = ((z[0, :2] - stored[0, :2]).square().mean() + (z[1, :3] - stored[1]).square().mean()) / 2
    assert loss.item() == pytest.approx(by_hand.item())
    (slope,) = torch.autograd.grad(loss, z)
    assert (slope[0, 2:] == 0).all() and (slope[2] == 0).all() and (slope[:, 3] == 0).all() and slope.isfinite().all()
    full = drawn(3, 4, "full")
    assert stored_logits(z, full).item() == pytest.approx(F.mse_loss(z, full).item()), "divides by the columns"


def test_sigmoid_targets_sum_over_the_columns_asked_about():
    z, p = drawn(4, 3, "z"), drawn(4, 3, "p").sigmoid()
    columns = torch.tensor([True, False, True])
    each = -(p * F.logsigmoid(z) + (1 - p) * F.logsigmoid(-z))
    assert sigmoid_targets(z, p, columns).item() == pytest.approx(each[:, columns].sum(1).mean().item())
