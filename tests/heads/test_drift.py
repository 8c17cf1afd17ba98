"""Drift maps and transported statistics: exact where the drift is one that they can say, and what they choose elsewhere."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from worlds import Net

from nacre.core.dice import dice
from nacre.core.errors import BadSetting, BadUse
from nacre.heads import (
    ClassStatistics,
    CommonShift,
    Discriminant,
    Kernel,
    Linear,
    LinearKernel,
    Mahalanobis,
    NearestMean,
    RandomRidge,
    Ridge,
)

WIDTH, CLASSES, EACH = 6, 4, 20
EVERY = [CommonShift(), Kernel(), Kernel(width=0.5), Linear(), Linear(ridge=0.0), LinearKernel()]


def normal(*shape: int, place: str) -> Tensor:
    return torch.randn(*shape, generator=dice("drift", place), dtype=torch.float64)


def rows(place: str, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    y = torch.arange(classes).repeat_interleave(EACH)
    return normal(classes, WIDTH, place=f"centres {place}")[y] * 2 + normal(len(y), WIDTH, place=place), y


def statistics(z: Tensor, y: Tensor, **settings) -> ClassStatistics:
    kept = ClassStatistics(**settings)
    kept.add(z, y)
    return kept


MODEL = Net()
OLD, Y = rows("old")  # classes of the past, whose rows are gone
NOW, NOW_Y = rows("now")  # rows of the present task
TURN = torch.linalg.qr(normal(WIDTH, WIDTH, place="turn"))[0]
AFFINE = normal(WIDTH, WIDTH, place="affine")
AWAY = normal(WIDTH, place="away")


@pytest.mark.parametrize("drift", EVERY, ids=repr)
@pytest.mark.parametrize("kind", ["low_rank", "full", "shared", "none"])
def test_a_backbone_that_did_not_move_leaves_all_bits(drift, kind):
    kept, same = (statistics(OLD, Y, covariance=kind) for _ in range(2))
    fitted = drift.fit(NOW, NOW.clone(), NOW_Y)
    assert fitted.map.still and torch.equal(fitted.map(OLD), OLD)
    kept.transport(fitted.map, MODEL)
    for name in ("count", "mean", "scatter", "factor", "left", "pooled"):
        one, other = getattr(kept, name), getattr(same, name)
        assert (one is None and other is None) or torch.equal(one, other)


@pytest.mark.parametrize("turn", [TURN, AFFINE], ids=["orthogonal", "affine"])
def test_an_affine_drift_is_undone_exactly_without_shrinkage(turn):
    fitted = Linear(ridge=0.0).fit(NOW, NOW @ turn + AWAY, NOW_Y)
    assert (fitted.map(OLD) - (OLD @ turn + AWAY)).abs().max() < 1e-9
    assert fitted.told["explained"] > 1 - 1e-12 and fitted.told["r2"] > 1 - 1e-12
    for kind in ("full", "low_rank"):
        kept = statistics(OLD, Y, covariance=kind, rank=WIDTH)
        kept.transport(fitted.map, MODEL)
        anew = statistics(OLD @ turn + AWAY, Y, covariance=kind, rank=WIDTH)
        assert (kept.mean - anew.mean).abs().max() < 1e-9
        for c in range(CLASSES):
            assert (kept.covariance_of(c) - anew.covariance_of(c)).abs().max() < 1e-9
        assert (kept.within() - anew.within()).abs().max() < 1e-7
    kept = statistics(OLD, Y, covariance="shared")
    kept.transport(fitted.map, MODEL)
    assert (kept.pooled - statistics(OLD @ turn + AWAY, Y, covariance="shared").pooled).abs().max() < 1e-7


@pytest.mark.parametrize(
    "drift", [CommonShift(), Kernel(width=1.0), Linear(), Linear(ridge=0.0), LinearKernel()], ids=repr
)
def test_a_constant_shift_is_exact_from_one_row(drift):
    fitted = drift.fit(NOW[:1], NOW[:1] + AWAY, NOW_Y[:1])
    assert (fitted.map(OLD) - (OLD + AWAY)).abs().max() < 1e-12
    assert torch.equal(fitted.map.directions(OLD), OLD)


@pytest.mark.parametrize("head", [Ridge(ridge=0.5), Discriminant(), NearestMean(), Mahalanobis()], ids=repr)
def test_heads_made_of_transported_statistics_are_those_of_rows_taken_anew(head):
    """After an affine drift, which for ridge regression on features is what all rows would give."""
    fitted = Linear(ridge=0.0).fit(NOW, NOW @ AFFINE + AWAY, NOW_Y)
    kept = statistics(OLD, Y, rank=WIDTH)
    kept.transport(fitted.map, MODEL)
    z = OLD @ AFFINE + AWAY
    scores = head.scores(kept, z)
    head.forget()
    anew = head.scores(statistics(z, Y, rank=WIDTH), z)
    assert (scores - anew).abs().max() < 1e-7 * anew.abs().max()
    if isinstance(head, Ridge):
        weight = torch.linalg.solve(z.T @ z + 0.5 * torch.eye(WIDTH).double(), z.T @ F.one_hot(Y).double())
        assert (anew - z @ weight).abs().max() < 1e-9


def test_the_ridge_is_a_plain_ridge_regression_of_the_drift():
    after = NOW @ AFFINE + 0.3 * normal(len(NOW), WIDTH, place="noise")
    unit = NOW.square().sum(1).mean()
    x, d = NOW - NOW.mean(0), after - NOW
    for ridge in (0.1, 3.0):
        turn = torch.linalg.solve(x.T @ x + ridge * unit * torch.eye(WIDTH).double(), x.T @ (d - d.mean(0)))
        expected = OLD + d.mean(0) + (OLD - NOW.mean(0)) @ turn
        assert (Linear(ridge=ridge).fit(NOW, after, NOW_Y).map(OLD) - expected).abs().max() < 1e-10
    few = NOW[:4], after[:4], NOW_Y[:4]  # fewer rows than directions: the dual form
    x, d = few[0] - few[0].mean(0), few[1] - few[0]
    unit = few[0].square().sum(1).mean()
    turn = torch.linalg.solve(x.T @ x + unit * torch.eye(WIDTH).double(), x.T @ (d - d.mean(0)))
    expected = OLD + d.mean(0) + (OLD - few[0].mean(0)) @ turn
    assert (Linear(ridge=1.0).fit(*few).map(OLD) - expected).abs().max() < 1e-10


def test_the_shrinkage_is_chosen_on_classes_that_were_left_out():
    """Each class drifts by its own shift: rows of known classes praise a loose map, classes left out a tight one."""
    y = torch.arange(5).repeat_interleave(40)
    own = normal(5, WIDTH, place="own shifts")
    z = normal(5, WIDTH, place="own centres")[y] * 3 + 0.1 * normal(len(y), WIDTH, place="own")
    strict = Linear().fit(z, z + own[y], y)
    loose = Linear().fit(z, z + own[y], torch.zeros_like(y))  # told that all are of one class
    assert strict.told["ridge"] > 10 * loose.told["ridge"]
    assert strict.told["r2"] < 0.5 and "r2" in loose.told


def test_few_rows_are_shrunk_strongly_and_anchors_count_as_rows():
    z, y = NOW[::4], NOW_Y[::4]
    assert Linear().fit(z, z @ TURN, y).told["ridge"] >= 30
    far = normal(60, WIDTH, place="anchors")
    both = torch.cat([z, far]), torch.cat([z @ TURN, far @ TURN]), torch.cat([y, torch.full((60,), -1)])
    fitted = Linear().fit(*both)
    assert fitted.told["ridge"] < 30 and fitted.told["rows"] == len(z) + 60
    assert (fitted.map(OLD) - OLD @ TURN).norm() < 0.2 * (OLD - OLD @ TURN).norm()


def test_a_kernel_shifts_each_class_by_the_drift_near_it():
    d = normal(len(NOW), WIDTH, place="d")
    mean = statistics(OLD, Y).mean
    weight = torch.exp(-torch.cdist(mean, NOW).square() / (2 * 0.7**2)) + 1e-5
    expected = mean + (weight / weight.sum(1, keepdim=True)) @ d
    kept = statistics(OLD, Y)
    kept.transport(Kernel(width=0.7).fit(NOW, NOW + d, NOW_Y).map, MODEL)
    assert (kept.mean - expected).abs().max() < 1e-12
    assert (kept.covariance_of(1) - statistics(OLD, Y).covariance_of(1)).abs().max() == 0


def test_residuals_get_the_trace_that_the_map_gives_them():
    """A map that stretches one direction a lot: what is kept along it does not count a second time."""
    stretch = torch.diag(torch.tensor([9.0, 1.0, 1.0, 1.0, 1.0, 1.0])).double()
    for turn in (3 * TURN, stretch):
        kept = statistics(OLD, Y, rank=2)
        factor, left = kept.factor.clone(), kept.left.clone()
        kept.transport(Linear(ridge=0.0).fit(NOW, NOW @ turn, NOW_Y).map, MODEL)
        for c in range(CLASSES):
            _, _, along = torch.linalg.svd(factor[c], full_matrices=False)
            across = torch.eye(WIDTH).double() - along.T @ along
            model = factor[c].T @ factor[c] + left[c] / (WIDTH - 2) * across
            expected = turn.T @ model @ turn
            got = kept.covariance_of(c) * (kept.count[c] - 1)
            assert (got.trace() - expected.trace()).abs() < 1e-8 * expected.trace()


@pytest.mark.parametrize("normalize", [False, True])
def test_sums_of_random_features_are_made_anew_of_draws(normalize):
    """Their expectation, found with very many draws, is what they approach; it is not what a rebuild from means alone gives."""
    z = F.normalize(OLD, dim=1) if normalize else OLD
    kept = statistics(z, Y, rank=WIDTH)

    def sums(draws: int, seed: int = 0) -> RandomRidge:
        head = RandomRidge(width=30, draws=draws)
        head.rebuild(kept, seed, normalize)
        return head

    exact, few = sums(20000), sums(100)
    means = RandomRidge(width=30)
    means.add(kept.mean, torch.arange(CLASSES), CLASSES, kept.count)
    assert (few.gram - exact.gram).norm() < 0.1 * exact.gram.norm()
    assert (means.gram - exact.gram).norm() > 3 * (few.gram - exact.gram).norm(), "means alone would do"
    assert (few.cross - exact.cross).norm() < 0.1 * exact.cross.norm()
    assert torch.equal(sums(100).gram, few.gram) and not torch.equal(sums(100, 1).gram, few.gram)
    if not normalize:  # relu(z r) of a Gaussian z: E h = s phi(m / s) + m Phi(m / s), E h^2 = (m^2 + s^2) Phi + m s phi
        lift = exact.lift.projection.double()
        place = torch.distributions.Normal(torch.tensor(0.0).double(), torch.tensor(1.0).double())
        first, second = torch.zeros(30, CLASSES).double(), torch.zeros(30).double()
        for c in range(CLASSES):
            mean, factor, _ = kept.parts_of(c)
            m, s = mean @ lift, (factor @ lift).norm(dim=0)
            phi, under = place.log_prob(m / s).exp(), place.cdf(m / s)
            first[:, c] = kept.count[c] * (s * phi + m * under)
            second += kept.count[c] * ((m.square() + s.square()) * under + m * s * phi)
        assert (exact.cross - first).norm() < 0.02 * first.norm()
        assert (exact.gram.diagonal() - second).norm() < 0.02 * second.norm()


def test_statistics_in_float32_take_at_most_32_kb_a_class():
    y = torch.arange(3).repeat_interleave(40)
    kept = statistics(F.normalize(torch.randn(120, 384, generator=dice("wide")), dim=1), y, precision="float32")
    assert kept.factor.shape[1] == 20 and kept.bytes_per_class <= 32 * 1024
    exact = statistics(F.normalize(torch.randn(120, 384, generator=dice("wide")), dim=1), y)
    assert (kept.mean - exact.mean).abs().max() < 1e-7 and kept.mean.dtype == torch.float32
    assert (kept.covariance_of(0) - exact.covariance_of(0)).norm() < 1e-5 * exact.covariance_of(0).norm()


def test_transport_says_what_the_statistics_are_valid_for():
    kept = statistics(OLD, Y)
    kept.taken, kept.moves = {"0": "old", "1": "older"}, {"1": 1}
    assert kept.stale(MODEL) == [0, 1]
    kept.transport(CommonShift().fit(NOW, NOW + 1.0, NOW_Y).map, MODEL)
    assert kept.stale(MODEL) == [] and kept.moves == {"0": 1, "1": 2}


def test_what_cannot_be_done_is_refused():
    with pytest.raises(BadUse, match="the same rows before and after"):
        Linear().fit(NOW, NOW[:3], NOW_Y)
    with pytest.raises(BadUse, match="at least one of them"):
        CommonShift().fit(NOW[:0], NOW[:0], NOW_Y[:0])
    with pytest.raises(BadSetting, match="needs the covariance of each class"):
        RandomRidge().check(ClassStatistics(covariance="shared"))
    with pytest.raises(BadSetting, match="fewer rows than features"):
        Ridge(ridge=0.0).scores(statistics(OLD[:3], Y[:3]), OLD)


def test_mahalanobis_is_the_distance_under_the_shrunk_covariance():
    kept = statistics(OLD, Y, rank=2)
    got = Mahalanobis(shrinkage=0.7).scores(kept, NOW)
    for c in range(CLASSES):
        spread = kept.covariance_of(c) * (kept.count[c] - 1) / kept.count[c]
        variance = spread.trace() / WIDTH
        spread = (spread + 0.7 * variance * torch.eye(WIDTH).double()) / (1.7 * variance)
        far = NOW - kept.mean[c]
        expected = -(far @ torch.linalg.inv(spread) * far).sum(1)
        assert (got[:, c] - expected).abs().max() < 1e-9 * expected.abs().max()


def test_a_discriminant_of_low_rank_statistics_pools_them():
    kept, shared = statistics(OLD, Y, rank=WIDTH), statistics(OLD, Y, covariance="shared")
    one, other = Discriminant().scores(kept, NOW), Discriminant().scores(shared, NOW)
    assert (one - other).abs().max() < 1e-8 * other.abs().max()
