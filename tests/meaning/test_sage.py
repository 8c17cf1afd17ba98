"""SAGE: against a plain twin of its AdamW and Adamax forms, its bound, and what it leaves alone."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from nacre.core.dice import dice
from nacre.core.errors import BadSetting
from nacre.core.rule import attached
from nacre.methods import SAGE


class Block(nn.Module):
    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.attn, self.norm = nn.Linear(4, 3, dtype=dtype), nn.Linear(3, 2, dtype=dtype)
        with torch.no_grad():
            for i, p in enumerate(self.parameters()):
                p.copy_(torch.randn(p.shape, generator=dice("w", i)))


def given(model: nn.Module, step: int, scale: float = 1.0) -> None:
    for i, p in enumerate(model.parameters()):
        p.grad = scale * torch.randn(p.shape, generator=dice("g", step, i)).to(p.dtype)


def walk(method, make, steps: int, model=None, scale: float = 1.0) -> list[dict[str, torch.Tensor]]:
    model = model or Block()
    made = make(model.parameters())
    ends = [{n: p.detach().clone() for n, p in model.named_parameters()}]
    with attached(method, made, model):
        for k in range(steps):
            given(model, k, scale)
            made.step()
            ends.append({n: p.detach().clone() for n, p in model.named_parameters()})
    return ends


def adamw(params):
    return torch.optim.AdamW(params, lr=0.01, weight_decay=0.0)


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("decay", [0.75, 0.85])
def test_a_plain_twin_of_adam_with_the_factor_inside(decay, corrected):
    model = Block()
    w = model.attn.weight.detach().clone()
    m, v, mean = torch.zeros_like(w), torch.zeros_like(w), torch.zeros_like(w)
    ends = []
    for k in range(8):
        given(model, k)
        g = model.attn.weight.grad
        sensitivity = (w * g).abs()
        mean = decay * mean + (1 - decay) * sensitivity
        smooth = mean / (1 - decay ** (k + 1)) if corrected else mean
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        direction = (m / (1 - 0.9 ** (k + 1))) / ((v / (1 - 0.999 ** (k + 1))).sqrt() + 1e-8)
        w = w - 0.01 * (sensitivity - smooth).abs() / (smooth + 1e-12) * direction
        ends.append(w)
    found = walk(SAGE(decay=decay, corrected=corrected), adamw, 8)[1:]
    assert all(torch.allclose(a["attn.weight"], b, atol=1e-10) for a, b in zip(found, ends, strict=True))


def test_everything_but_the_named_matrices_is_the_optimizers_bit_for_bit():
    plain, found = walk(SAGE(match=None), adamw, 5), walk(SAGE(), adamw, 5)
    for a, b in zip(plain, found, strict=True):
        assert all(torch.equal(a[n], b[n]) for n in ("attn.bias", "norm.weight", "norm.bias"))
    assert not torch.equal(plain[-1]["attn.weight"], found[-1]["attn.weight"])
    bare = Block()
    made = adamw(bare.parameters())
    for k in range(5):
        given(bare, k)
        made.step()
    assert all(torch.equal(plain[-1][n], p) for n, p in bare.named_parameters())


def factors(method, steps: int, model=None, scale: float = 1.0) -> list[torch.Tensor]:
    model = model or Block()
    ends, other = walk(method, lambda p: torch.optim.SGD(p, lr=1e-3), steps, model, scale), Block()
    found = []
    for k, (before, after) in enumerate(pairwise(ends)):
        given(other, k, scale)
        found.append((before["attn.weight"] - after["attn.weight"]) / (1e-3 * other.attn.weight.grad))
    return found


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("decay", [0.3, 0.75, 0.85])
def test_the_factor_needs_no_clip(decay, corrected):
    found = torch.stack(factors(SAGE(decay=decay, corrected=corrected), 60))
    bound = max(1.0, decay / (1 - decay))
    assert found.min() > -1e-6 and found.max() <= bound + 1e-6 and found.max() > 0.3 * bound and found.std() > 0.1


def test_the_first_step_and_no_memory():
    assert factors(SAGE(), 1)[0].abs().max() < 1e-9, "corrected, the mean is the present sensitivity"
    assert torch.allclose(factors(SAGE(corrected=False), 1)[0], torch.tensor(3.0, dtype=torch.float64), atol=1e-6)
    assert torch.stack(factors(SAGE(decay=0.0), 4)).abs().max() < 1e-9


def test_only_the_product_of_weight_and_gradient_counts():
    large = Block()
    with torch.no_grad():
        for p in large.parameters():
            p.mul_(1000.0)
    plain, scaled = (factors(SAGE(corrected=False), 1, *how)[0] for how in ((), (large, 1e-3)))
    assert torch.allclose(plain, scaled, atol=1e-8) and plain.min() > 2.9
    slow, model = factors(SAGE(corrected=False), 2)[1], Block()
    with torch.no_grad():
        model.attn.weight[0, 0] = 0.0
    zero = walk(SAGE(corrected=False), adamw, 1, model)[-1]["attn.weight"]
    assert zero[0, 0] == 0 and slow.abs().max() > 0, "a weight that was always 0 stays 0"


@pytest.mark.parametrize("corrected", [True, False])
def test_weights_c_times_as_large_with_gradients_c_times_as_small_have_the_same_factors_bit_for_bit(corrected):
    """With the rate c^2 the whole way is c times as long; c is a power of 2, so that nothing is rounded."""
    large, c = Block(), 1024.0
    with torch.no_grad():
        for p in large.parameters():
            p.mul_(c)
    method = SAGE(corrected=corrected)
    plain = walk(method, lambda p: torch.optim.SGD(p, lr=0.01), 6)
    scaled = walk(SAGE(corrected=corrected), lambda p: torch.optim.SGD(p, lr=0.01 * c**2), 6, large, 1 / c)
    assert all(torch.equal(c * one[n], other[n]) for one, other in zip(plain, scaled, strict=True) for n in one)
    bare = walk(SAGE(match=None), lambda p: torch.optim.SGD(p, lr=0.01), 6)
    assert (plain[-1]["attn.weight"] - bare[-1]["attn.weight"]).abs().max() > 1e-3, "the factors are not 1"


def test_where_the_factor_is_1_it_is_the_optimizer_bit_for_bit():
    """Weights that came to 0 have no sensitivity now and had one before: |0 - A| / A."""
    ends = []
    for method in (SAGE(), SAGE(match=None)):
        model = Block(torch.float32)
        made = adamw(model.parameters())
        with attached(method, made, model):
            for k in range(4):
                if k == 3:
                    nn.init.zeros_(model.attn.weight)
                given(model, k)
                made.step()
        ends.append(model.attn.weight.detach())
    assert torch.equal(*ends) and ends[0].abs().min() > 1e-5


def test_a_model_without_such_matrices_is_told_how_to_name_its_own():
    model = nn.Linear(2, 2)
    made = adamw(model.parameters())
    model.weight.grad = torch.ones(2, 2)
    with pytest.raises(BadSetting, match=r"SAGE.*finds no parameter.*bias, weight"), attached(SAGE(), made, model):
        made.step()
