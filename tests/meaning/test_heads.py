"""Closed-form heads equal one fit on all rows at once, however the rows were cut into tasks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestCentroid
from torch import nn
from worlds import CENTRES, Net, noise, rows, stream

from nacre.core.dice import dice
from nacre.core.drive import Drive
from nacre.core.errors import BadSetting
from nacre.core.model import fingerprint, grow
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch, TensorRows
from nacre.core.stream import Experience, Task
from nacre.heads import ClassStatistics, GrowingLinear, MultiHead, RandomRidge, choose_ridge
from nacre.learner import Learner, Stage
from nacre.methods import MIST, RanPAC, SimpleCIL

ALL = TensorRows(torch.cat([e.task.train.x for e in stream(30)]), torch.cat([e.task.train.y for e in stream(30)]))
TESTS = torch.cat([e.tests[f"task{i}"].x for i, e in enumerate(stream())])
CUTS = {
    "by class": [[0, 1], [2, 3], [4, 5]],
    "one": [[0, 1, 2, 3, 4, 5]],
    "uneven": [[5], [0, 3, 4], [1], [2]],
    "rows at random": None,
}


def cut(name: str, double: bool) -> list[Experience]:
    x = ALL.x.double() if double else ALL.x
    if CUTS[name] is None:
        order = torch.randperm(len(ALL), generator=dice("cut"))
        index = [order[:7], order[7:100], order[100:]]
    else:
        index = [torch.cat([(ALL.y == c).nonzero().flatten() for c in classes]) for classes in CUTS[name]]
    return [
        Experience(Task(i, TensorRows(x[at], ALL.y[at]), tuple(ALL.y[at].unique().tolist())))
        for i, at in enumerate(index)
    ]


def logits(method, name: str, double: bool) -> torch.Tensor:
    net = Net(dropout=0.0).double() if double else Net(dropout=0.0)
    learner = Learner(net, (Stage(method),))
    list(learner.learn(cut(name, double)))
    return learner.predict(Batch(TESTS.double() if double else TESTS, torch.zeros(len(TESTS), dtype=torch.long)))


def features(double: bool) -> tuple[torch.Tensor, torch.Tensor]:
    net = (Net(dropout=0.0).double() if double else Net(dropout=0.0)).eval()
    with torch.no_grad():
        return tuple(net.body(x.double() if double else x) for x in (ALL.x, TESTS))


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("double, within", [(True, 1e-9), (False, 1e-3)])
def test_ranpac_over_any_task_split_equals_one_ridge_on_all_rows(name, double, within):
    method = RanPAC(width=60, ridge=10.0, precision="float64" if double else "float32")
    got = logits(method, name, double)
    z, t = features(double)
    lift = torch.randn(16, 60, generator=dice(0, "project", 16, 60), dtype=torch.float64).to(z)
    h, test = (z @ lift).relu().double(), (t @ lift).relu().double()
    y = nn.functional.one_hot(ALL.y).double()
    expected = test @ torch.linalg.solve(h.T @ h + 10.0 * torch.eye(60, dtype=torch.float64), h.T @ y)
    assert (got.double() - expected).abs().max() < within
    sklearn = Ridge(alpha=10.0, fit_intercept=False).fit(h.numpy(), y.numpy()).predict(test.numpy())
    assert np.abs(got.double().numpy() - sklearn).max() < max(within, 1e-8)


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("double, within", [(True, 1e-9), (False, 1e-3)])
def test_simplecil_over_any_task_split_equals_one_nearest_mean_on_all_rows(name, double, within):
    got = logits(SimpleCIL(), name, double)
    z, t = features(double)
    means = torch.stack([z[ALL.y == c].double().mean(0) for c in range(6)])
    expected = nn.functional.cosine_similarity(t.double()[:, None], means[None], dim=2)
    assert (got.double() - expected).abs().max() < within


def test_the_nearest_mean_of_normalised_features_ranks_as_sklearns_does():
    z = nn.functional.normalize(ALL.x.double(), dim=1)
    statistics = ClassStatistics()
    statistics.add(z, ALL.y)
    theirs = NearestCentroid().fit(z.numpy(), ALL.y.numpy())
    assert np.abs(statistics.mean.numpy() - theirs.centroids_).max() < 1e-12
    t = nn.functional.normalize(TESTS.double(), dim=1)
    ours = (t @ statistics.mean.T - statistics.mean.square().sum(1) / 2).argmax(1)  # nearest, as a product
    assert np.array_equal(ours.numpy(), theirs.predict(t.numpy()))


def test_one_row_a_class_is_the_nearest_neighbour_and_later_tasks_change_no_earlier_mean_by_a_bit():
    net, method = Net(norm=False, dropout=0.0), SimpleCIL()
    learner, x, known, means = Learner(net, (Stage(method),)), ALL.x[::30], [], torch.zeros(6, 16)
    tasks = [Experience(Task(i, TensorRows(x[c], torch.tensor(c)))) for i, c in enumerate(CUTS["uneven"])]
    for met in learner.learn(tasks):
        assert torch.equal(method.statistics.mean[known], means[known])
        known, means = [*known, *met.task.train.y.tolist()], method.statistics.mean.clone()
    z, t = net.eval().body(x).detach(), net.body(TESTS).detach()
    nearest = nn.functional.cosine_similarity(t[:, None], z[None], dim=2).argmax(1)
    assert torch.equal(learner.predict(Batch(TESTS, torch.zeros(300))).argmax(1), nearest)
    assert len(known) == len(nearest.unique()) == 6


def test_one_factorisation_serves_the_grid_and_chooses_as_brute_force_does():
    for count, width in ((40, 90), (90, 20)):
        h = torch.randn(count, width, generator=dice("h"), dtype=torch.float64)
        y = nn.functional.one_hot(torch.randint(4, (count,), generator=dice("y"))).double()
        y += 0.3 * h[:, :4]
        got = choose_ridge(h, y, 0.2, dice("held"))
        order = torch.randperm(count, generator=dice("held"))
        test, fit = order[: round(0.2 * count)], order[round(0.2 * count) :]
        best = {}
        for ridge in (10.0**e for e in range(-8, 9)):
            w = torch.linalg.solve(h[fit].T @ h[fit] + ridge * torch.eye(width, dtype=h.dtype), h[fit].T @ y[fit])
            best[ridge] = (h[test] @ w - y[test]).square().mean().item()
        assert best[got] <= min(best.values()) * (1 + 1e-6)
    assert choose_ridge(h[:2], y[:2], 0.2, dice("held")) is None


def test_the_ridge_is_chosen_on_the_tasks_own_training_rows_only():
    """Later tasks, test rows and earlier rows change nothing."""

    def chosen(n: int, spoil: bool = False) -> float:
        learner = Learner(Net(dropout=0.0), (Stage(RanPAC(width=60)),))
        tasks = stream(30)[:n]
        if spoil:
            tasks = [Experience(e.task, {"t": rows((0,), 5, "spoiled")}) for e in tasks]
        list(learner.learn(tasks))
        return learner.stages[0].method.head.chosen

    first, second = chosen(1), chosen(2)
    assert first == chosen(1, spoil=True) and second == chosen(2, spoil=True)
    assert first in [10.0**e for e in range(-8, 9)]


@pytest.mark.parametrize("kind", ["full", "low_rank"])
def test_class_statistics_merge_exactly_in_any_order(kind):
    z = torch.randn(200, 6, generator=dice("z"), dtype=torch.float64) @ torch.randn(
        6, 6, generator=dice("a"), dtype=torch.float64
    )
    y = torch.randint(3, (200,), generator=dice("y"))
    for parts in ((200,), (50, 1, 149), (10,) * 20):
        statistics = ClassStatistics(covariance=kind, rank=6)
        for rows_z, rows_y in zip(z.split(parts), y.split(parts), strict=True):
            statistics.add(rows_z, rows_y)
        for c in range(3):
            assert statistics.count[c] == (y == c).sum()
            assert (statistics.mean[c] - z[y == c].mean(0)).abs().max() < 1e-12
            assert (statistics.covariance_of(c) - z[y == c].T.cov()).abs().max() < 1e-10


def test_low_rank_statistics_keep_the_leading_directions_and_the_trace():
    scale = torch.tensor([5.0, 4.0, 3.0, 0.1, 0.1, 0.1, 0.1, 0.1], dtype=torch.float64)
    z = torch.randn(400, 8, generator=dice("z"), dtype=torch.float64) * scale
    full = z.T.cov()
    statistics = ClassStatistics(rank=3)
    for part in z.split(37):
        statistics.add(part, torch.zeros(len(part), dtype=torch.long))
    low = statistics.covariance_of(0)
    assert (low.trace() - full.trace()).abs() < 1e-9 * full.trace()
    assert (low[:3, :3] - full[:3, :3]).norm() / full[:3, :3].norm() < 0.02


def test_statistics_know_the_backbone_they_were_taken_with():
    make = MadeOptimizer("adamw", 0.01)
    tuned = (Stage(MIST(width=8, batch=16), make, batch_size=8, augment=noise), Stage(RanPAC(width=24)))
    learner, stale = Learner(Net(), tuned), []
    for _ in learner.learn(stream()):
        stale.append(learner.answering().stale(learner.model))
    assert stale == [[], [0], [0, 1]]
    frozen = Learner(Net(), (Stage(SimpleCIL()),))
    assert [frozen.answering().stale(frozen.model) for _ in frozen.learn(stream())] == [[], [], []]
    net = Net()
    grow(net, 2)
    before = fingerprint(net)
    grow(net, 5)
    assert fingerprint(net) == before, "the head is no part of the backbone"
    net.body[1].running_mean += 1
    assert fingerprint(net) != before, "a buffer is"


def test_a_told_task_answers_among_its_own_classes_and_unmet_classes_never():
    for method in (SimpleCIL(), RanPAC(width=24)):
        learner = Learner(Net(heads=True), (Stage(method),))
        list(learner.learn(stream(told=True)))
        told = Batch(TESTS, torch.zeros(300, dtype=torch.long), task=torch.arange(3).repeat_interleave(100))
        right = learner.predict(told).argmax(1) // 2
        assert torch.equal(right, told.task)
        gap = Learner(Net(), (Stage(type(method)()),))
        list(gap.learn([Experience(Task(0, rows((0, 3), 10, "gap"), (0, 3)))]))
        scores = gap.predict(Batch(CENTRES[:4], torch.zeros(4, dtype=torch.long)))
        assert scores.isinf().all(0).tolist() == [False, True, True, False]


def test_a_ridge_that_cannot_be_solved_says_the_cure():
    learner = Learner(Net(dropout=0.0), (Stage(RanPAC(width=200, ridge=0.0)),))
    list(learner.learn(stream()))
    with pytest.raises(BadSetting, match="larger ridge"):
        learner.predict(Batch(TESTS, torch.zeros(300, dtype=torch.long)))


def test_a_growing_head_keeps_old_rows_and_does_not_depend_on_how_it_grew():
    at_once, slowly = GrowingLinear(5, 6, seed=2), GrowingLinear(5, seed=2)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for classes in (2, 4, 6):
        before = slowly.weight.detach().clone()
        slowly.grow(classes)
        assert torch.equal(slowly.weight[: len(before)], before) and slowly.weight.shape == (classes, 5)
    assert torch.equal(slowly.weight, at_once.weight) and torch.equal(slowly.bias, at_once.bias)
    assert torch.equal(torch.get_rng_state(), state) and not slowly.grow(3)


def test_a_multi_head_told_the_task_answers_among_its_classes():
    head = MultiHead(4)
    for task, classes in enumerate((2, 5)):
        grow(head, classes, task, range(*((0, 2) if not task else (2, 5))))
    z = torch.randn(6, 4, generator=dice("z"))
    told = head(z, torch.tensor([0, 0, 0, 1, 1, -1]))
    assert (told[:3].argmax(1) < 2).all() and (told[3:5].argmax(1) >= 2).all()
    assert torch.equal(told[5], head(z)[5]) and told.isfinite().all()


def test_task_ids_reach_prediction_only_where_they_are_told():
    def accuracy(told: bool) -> float:
        make = MadeOptimizer("adamw", 0.01)
        learner = Learner(Net(heads=True, dropout=0.0), (Stage(optimizer=make, batch_size=8, epochs=5),))
        tests = {}
        for met in learner.learn(stream(told=told)):
            tests |= met.tests
        found = [learner.predict(r.take(torch.arange(100))).argmax(1) == r.y for r in tests.values()]
        return torch.cat(found).float().mean().item()

    assert accuracy(told=True) > 0.7 > 0.45 > accuracy(told=False)


def test_statistics_are_the_same_through_the_driver_in_an_own_loop():
    one, two = SimpleCIL(), SimpleCIL()
    list(Learner(Net(), (Stage(one),)).learn(stream()))
    net = Net()
    for met, _ in zip(stream(), itertools.count(), strict=False):
        with Drive(two, net, None, met.task):
            pass
    assert torch.equal(one.statistics.mean, two.statistics.mean)


def test_the_ridge_by_all_that_was_seen_is_the_best_of_half_decades():
    """Rows held out of the present task, answered among all classes by all rows before and the others of it."""
    head, h, y = RandomRidge(width=40, ridge="seen"), torch.empty(0, 40).double(), torch.empty(0, dtype=torch.long)
    centres = torch.randn(9, 6, generator=dice("centres"))
    for task in range(3):
        new = torch.arange(3 * task, 3 * task + 3).repeat(7)
        z = centres[new] + 0.7 * torch.randn(21, 6, generator=dice("noise", task))
        head.learn(ClassStatistics(), z, new, 3 * task + 3, False, task, False)
        out = torch.randperm(21, generator=dice(0, task, "ridge"))[:4]
        rest = torch.ones(21, dtype=torch.bool).index_fill_(0, out, False)
        fit, of = torch.cat([h, head.project(z[rest])]), torch.cat([y, new[rest]])
        errors = {}
        for ridge in (10 ** (e / 2) for e in range(-8, 9)):
            gram = fit.T @ fit + ridge * torch.eye(40).double()
            readout = torch.linalg.solve(gram, fit.T @ nn.functional.one_hot(of, 3 * task + 3).double())
            wanted = nn.functional.one_hot(new[out], 3 * task + 3)
            errors[ridge] = (head.project(z[out]) @ readout - wanted).square().mean().item()
        assert head.chosen == pytest.approx(min(errors, key=errors.__getitem__)), task
        h, y = torch.cat([h, head.project(z)]), torch.cat([y, new])
    assert torch.allclose(head.gram, h.T @ h)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_a_ridge_that_cannot_be_solved_with_grows_and_what_says_nothing_leaves_it(precision):
    head = RandomRidge(width=100, ridge="seen", precision=precision)
    y = torch.arange(3).repeat(20)
    z = 100 * (torch.eye(8)[y] + 0.3 * torch.randn(60, 8, generator=dice("long rows")))
    head.learn(ClassStatistics(), z, y, 3, False, 0, False)
    assert head.chosen > 1 and (head.scores(ClassStatistics(), z).argmax(1) == y).float().mean() > 0.9
    for silent in (torch.zeros(60, 8), z[:9], torch.full((60, 8), float("nan"))):
        other, start = RandomRidge(width=100, ridge="seen", precision=precision, seed=1), 1.0
        other.choose(silent, y[: len(silent)], 1, 3)
        assert other.chosen == start
