"""Draws with moments that are exactly those asked for, and plain ones."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from nacre.core.dice import dice
from nacre.core.errors import BadData, BadSetting
from nacre.heads import draws, factor_of, gaussian_draws, kernel_shift

WIDTH = 6
MEAN = torch.randn(WIDTH, generator=dice("mean"), dtype=torch.float64)
ROOT = torch.randn(WIDTH, WIDTH, generator=dice("root"), dtype=torch.float64)


def factor(rank: int) -> Tensor:
    """Rows that are neither orthogonal nor of one size."""
    return ROOT[:rank] * torch.arange(1.0, rank + 1)[:, None]


def moments(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.mean(0), (x - x.mean(0)).T @ (x - x.mean(0)) / len(x)


def target(f: Tensor, residual: float) -> Tensor:
    """Factor' factor, plus the residual in every direction that is orthogonal to the factor's rows."""
    inside = torch.linalg.pinv(f) @ f if len(f) else torch.zeros(WIDTH, WIDTH, dtype=f.dtype)
    return f.T @ f + residual * (torch.eye(WIDTH, dtype=f.dtype) - inside)


@pytest.mark.parametrize("rank", [0, 1, 3, 6])
@pytest.mark.parametrize("residual", [0.0, 0.3])
@pytest.mark.parametrize("count", [7, 8, 50])
def test_the_first_two_moments_are_exact_where_there_are_more_rows_than_directions(rank, residual, count):
    f = factor(rank)
    x = draws(MEAN, f, count, dice("draws", count), residual)
    mean, covariance = moments(x)
    assert x.dtype == torch.float64 and x.shape == (count, WIDTH)
    assert (mean - MEAN).abs().max() < 1e-10
    assert (covariance - target(f, residual)).abs().max() < 1e-10


@pytest.mark.parametrize("count", [4, 5, 6])
def test_without_a_residual_rows_beyond_the_rank_suffice(count):
    mean, covariance = moments(draws(MEAN, factor(3), count, dice("few")))
    assert (mean - MEAN).abs().max() < 1e-10 and (covariance - target(factor(3), 0.0)).abs().max() < 1e-10


@pytest.mark.parametrize("count", [5, 6])
def test_a_residual_without_room_is_exact_on_the_factor_and_in_the_trace_and_right_in_the_mean_over_dice(count):
    f, wanted, total = factor(3), target(factor(3), 0.3), torch.zeros(WIDTH, WIDTH, dtype=torch.float64)
    basis = torch.linalg.svd(f, full_matrices=False).Vh
    for k in range(400):
        mean, covariance = moments(draws(MEAN, f, count, dice("room", k), residual=0.3))
        assert (mean - MEAN).abs().max() < 1e-10
        assert (basis @ (covariance - wanted)).abs().max() < 1e-10, "the factor's directions, and across"
        assert abs(covariance.trace() - wanted.trace()) < 1e-10
        total += covariance / 400
    assert (covariance - wanted).abs().max() > 0.1, "a single draw cannot be exact"
    assert (total - wanted).abs().max() < 0.1


@pytest.mark.parametrize("count", [1, 2, 3])
def test_with_fewer_rows_than_directions_the_largest_are_exact_and_the_rest_is_left_out(count):
    f = factor(4)
    mean, covariance = moments(draws(MEAN, f, count, dice("fewer"), residual=0.3))
    _, size, basis = torch.linalg.svd(f, full_matrices=False)
    kept = size[: count - 1, None] * basis[: count - 1]
    assert (mean - MEAN).abs().max() < 1e-10 and (covariance - kept.T @ kept).abs().max() < 1e-10


def test_degenerate_cases():
    nothing = torch.zeros(0, WIDTH)
    assert torch.equal(draws(MEAN, ROOT, 1, dice("one"), residual=2.0), MEAN[None])
    assert torch.equal(draws(MEAN, nothing, 3, dice("none")), MEAN.expand(3, -1))
    assert torch.equal(draws(MEAN, torch.zeros(2, WIDTH), 3, dice("zeros")), MEAN.expand(3, -1))
    assert torch.equal(gaussian_draws(MEAN, nothing, 3, dice("none")), MEAN.expand(3, -1))
    twice = torch.cat([ROOT[:1], ROOT[:1]])  # of rank 1: two rows carry it
    _, covariance = moments(draws(MEAN, twice, 2, dice("twice")))
    assert (covariance - 2 * ROOT[:1].T @ ROOT[:1]).abs().max() < 1e-10
    x = draws(MEAN, nothing, 20, dice("sphere"), residual=0.5)
    assert (moments(x)[1] - 0.5 * torch.eye(WIDTH)).abs().max() < 1e-10
    x[0] += 1  # the caller's own memory
    for bad in ({"count": 0}, {"residual": -1.0}, {"residual": float("nan")}):
        with pytest.raises(BadSetting, match="at least 1 and a residual of at least 0"):
            draws(MEAN, ROOT, **{"count": 3, "generator": dice("bad"), **bad})


@pytest.mark.parametrize("draw", [draws, gaussian_draws])
def test_one_place_of_the_dice_gives_one_draw_and_nothing_else_draws(draw):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, again, other = (draw(MEAN, factor(2), 9, dice("place", k), residual=0.1) for k in (0, 0, 1))
    assert torch.equal(first, again) and (first - other).abs().max() > 0.1
    assert torch.equal(torch.get_rng_state(), state)
    single = draw(MEAN.float(), factor(2).float(), 9, dice("place", 0), residual=0.1)
    assert single.dtype == torch.float64 and (single - first).abs().max() < 1e-4


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("draw", [draws, gaussian_draws])
def test_both_devices_draw_alike(draw):
    here = draw(MEAN, factor(2), 9, dice("device"))
    there = draw(MEAN.cuda(), factor(2).cuda(), 9, dice("device"))
    _, covariance = moments(draws(MEAN.cuda(), factor(2).cuda(), 9, dice("device"), residual=0.2))
    assert there.is_cuda and (covariance.cpu() - target(factor(2), 0.2)).abs().max() < 1e-10
    assert (here - there.cpu()).abs().max() < 1e-9


def test_exact_draws_look_normal_where_rows_are_many():
    x = draws(torch.zeros(2), torch.diag(torch.tensor([2.0, 1.0])), 4000, dice("normal"))
    inside = ((x / torch.tensor([2.0, 1.0])).abs() < 1).double().mean(0)
    assert (inside - 0.6827).abs().max() < 0.02


def test_plain_draws_have_the_moments_up_to_sampling():
    f = factor(2)
    mean, covariance = moments(gaussian_draws(MEAN, f, 40_000, dice("plain"), residual=0.3))
    assert 1e-6 < (mean - MEAN).abs().max() < 0.1
    wanted = target(f, 0.3)
    assert 1e-6 < (covariance - wanted).abs().max() < 0.03 * wanted.abs().max()


@pytest.mark.parametrize("rank", [2, 6])
def test_a_covariance_has_a_factor_whether_it_is_of_full_rank_or_not(rank):
    covariance = factor(rank).T @ factor(rank)
    found = factor_of(covariance)
    assert found.shape == (rank, WIDTH) and (found.T @ found - covariance).abs().max() < 1e-10 * covariance.abs().max()
    assert factor_of(torch.zeros(3, 3)).shape == (0, 3)
    _, got = moments(draws(MEAN, found, 9, dice("covariance")))
    assert (got - covariance).abs().max() < 1e-10


def test_a_shift_of_all_features_is_the_shift_of_every_mean():
    before = torch.randn(30, WIDTH, generator=dice("before"), dtype=torch.float64)
    shift = torch.arange(1.0, WIDTH + 1, dtype=torch.float64)
    means = torch.cat([before[:2], before[:1] + 1000.0])  # one far from every row
    for width in (0.01, 4.0, 1e6):
        assert (kernel_shift(means, before, before + shift, width) - shift).abs().max() < 1e-12


def test_a_mean_moves_with_the_rows_near_it_as_the_formula_says_and_pairs_must_be_of_the_same_row():
    before = torch.randn(40, 3, generator=dice("before"), dtype=torch.float64)
    after = before + 0.1 * before.flip(1) + torch.tensor([0.0, 1.0, 0.0])
    means = torch.randn(5, 3, generator=dice("means"), dtype=torch.float64)
    got = kernel_shift(means, before, after, width=0.7, floor=1e-5)
    for c in range(5):
        weights = torch.stack([(-((b - means[c]) ** 2).sum() / (2 * 0.7**2)).exp() + 1e-5 for b in before])
        wanted = (weights[:, None] * (after - before)).sum(0) / weights.sum()
        assert (got[c] - wanted).abs().max() < 1e-12
    shuffled = kernel_shift(means, before, after[torch.randperm(40, generator=dice("shuffle"))], width=0.7)
    assert (shuffled - got).abs().max() > 0.1, "what a shuffled loader makes of it"
    assert (kernel_shift(means, before, after, 1e6) - (after - before).mean(0)).abs().max() < 1e-9
    with pytest.raises(BadData, match="the same rows before and after"):
        kernel_shift(means, before, after[1:], width=0.7)
