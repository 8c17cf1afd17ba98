"""How far directions agree: every measure against its formula, and the gate against the best step on a grid."""

from __future__ import annotations

import pytest
import torch

from nacre.core.dice import dice
from nacre.rules import agreement, gate

SHAPES = ((3, 4), (5,), (2, 3, 2), ())


def pair(*place, shapes=SHAPES, dtype=torch.float64):
    return tuple([torch.randn(s, generator=dice(*place, w, k)).to(dtype) for k, s in enumerate(shapes)] for w in (0, 1))


def flat(tensors) -> torch.Tensor:
    return torch.cat([t.flatten() for t in tensors])


MEASURES = {
    "share": lambda r, g, peak: (r * g).sum() / g.square().sum(),
    "cosine": lambda r, g, peak: (r * g).sum() / (r.norm() * g.norm()),
    "peak": lambda r, g, peak: (r * g).sum() / (g.abs().sum() * peak),
}


@pytest.mark.parametrize("measure", MEASURES)
def test_every_unit_and_measure_is_its_formula(measure):
    r, g = pair("formula")
    twin = MEASURES[measure]
    for found, a, b in zip(agreement(r, g, "tensor", measure), r, g, strict=True):
        assert found.shape == () and torch.allclose(found, twin(a, b, a.abs().max()))
    whole = twin(flat(r), flat(g), flat(r).abs().max())
    assert all(torch.allclose(found, whole) for found in agreement(r, g, "list", measure))
    for found, a, b in zip(agreement(r, g, "entry", measure), r, g, strict=True):
        single = [twin(x, y, a.abs().max()) for x, y in zip(a.flatten(), b.flatten(), strict=True)]
        assert found.shape == a.shape and torch.allclose(found.flatten(), torch.stack(single))
    for found, a, b in zip(agreement(r, g, "row", measure), r[:3], g[:3], strict=False):
        rows = torch.stack([twin(x, y, a.abs().max()) for x, y in zip(a, b, strict=True)])
        assert torch.allclose(found.flatten(), rows) and (found * a).shape == a.shape


@pytest.mark.parametrize("per", ["entry", "row", "tensor", "list"])
def test_lengths_do_not_count_in_a_cosine_and_nothing_leaves_its_range(per):
    r, g = pair("scale")
    plain = agreement(r, g, per, "cosine")
    scaled = agreement([7 * t for t in r], [0.01 * t for t in g], per, "cosine")
    assert all(torch.allclose(a, b) for a, b in zip(plain, scaled, strict=True))
    backwards = agreement(r[::-1], g[::-1], per, "cosine")
    assert all(torch.allclose(a, b) for a, b in zip(plain, backwards[::-1], strict=True))
    for measure in ("cosine", "peak"):
        assert all((t.abs() <= 1 + 1e-12).all() for t in agreement(r, g, per, measure))


@pytest.mark.parametrize("per", ["entry", "row", "tensor", "list"])
@pytest.mark.parametrize("measure", MEASURES)
def test_what_is_zero_or_empty_agrees_with_nothing(per, measure):
    zeros, (g, _) = [torch.zeros(2, 3), torch.zeros(0, 3)], pair("zero", shapes=((2, 3), (0, 3)), dtype=torch.float32)
    for a, b in ((zeros, g), (g, zeros), (zeros, zeros)):
        assert all((t == 0).all() for t in agreement(a, b, per, measure))


def test_bf16_is_summed_in_fp32_and_room_is_used_again():
    r, g = pair("bf16", shapes=((40, 50),), dtype=torch.bfloat16)
    (found,) = agreement(r, g, "tensor", "cosine")
    exact = (r[0].double() * g[0].double()).sum() / (r[0].double().norm() * g[0].double().norm())
    assert found.dtype == torch.float32 and abs(found - exact) < 1e-5
    room = [torch.empty(40, 50)]
    for measure in MEASURES:
        (by_entry,) = agreement(r, g, "entry", measure, room=room)
        assert by_entry.data_ptr() == room[0].data_ptr()


def test_the_gate_is_the_best_length_of_a_step_for_the_old_tasks():
    """Old tasks with minima w_i and the step beta d_new: their mean loss is least at the clipped share, on a grid too."""
    grid = torch.linspace(0, 1, 1001, dtype=torch.float64)
    met = set()
    for k in range(40):
        minima = torch.randn(3, 6, generator=dice("old", k), dtype=torch.float64)
        new = torch.randn(6, generator=dice("new", k), dtype=torch.float64)
        w = torch.randn(6, generator=dice("w", k), dtype=torch.float64)
        step = new - w
        losses = torch.stack([((w + b * step - minima) ** 2).sum(1).mean() for b in grid])
        old_gradient, new_gradient = (w - minima).mean(0), w - new
        (beta,) = gate([old_gradient], [new_gradient])
        assert abs(beta - grid[losses.argmin()]) <= 1e-3
        met.add("shut" if beta == 0 else "open" if beta == 1 else "between")
    assert met == {"shut", "open", "between"}


def test_between_equal_lengths_the_gate_is_the_cosine_and_a_conflict_shuts_it():
    r, g = pair("equal", shapes=((50,),) * 8)
    r, g = [t / t.norm() for t in r], [t / t.norm() for t in g]
    for beta, cosine in zip(gate(r, g), agreement(r, g), strict=True):
        assert torch.allclose(beta, cosine.clamp_min(0))
    assert gate([torch.tensor([1.0, 0.0])], [torch.tensor([-1.0, 5.0])])[0] == 0


def test_without_a_reference_the_gate_is_open():
    g = [torch.ones(2, 2), torch.ones(3)]
    for per in ("entry", "row", "tensor", "list"):
        assert all((beta == 1).all() for beta in gate([torch.zeros(2, 2), torch.zeros(3)], g, per))
    partly = gate([torch.zeros(2, 2), torch.full((3,), -1.0)], g, "tensor")
    assert partly[0] == 1 and partly[1] == 0
