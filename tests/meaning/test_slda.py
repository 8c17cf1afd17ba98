"""SLDA over any stream is the batch analysis on all rows; and what its head keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from worlds import Net, rows, stream

from nacre.core.dice import dice
from nacre.core.errors import BadSetting
from nacre.core.rows import Batch, TensorRows
from nacre.core.stream import Experience, Task
from nacre.heads import ClassStatistics, discriminant
from nacre.learner import Learner, Stage
from nacre.methods import SLDA

EVERY = rows((0, 1, 2, 3, 4, 5), 30, "slda")
TESTS = rows((0, 1, 2, 3, 4, 5), 20, "slda tests").x


def answered(method: SLDA, parts: list[torch.Tensor]) -> torch.Tensor:
    """Scores after a stream in which each experience brings these rows."""
    learner = Learner(Net(norm=False, dropout=0.0).double(), (Stage(method),))
    tasks = [
        Experience(Task(i, TensorRows(EVERY.x[p].double(), EVERY.y[p]), tuple(EVERY.y[p].unique().tolist())))
        for i, p in enumerate(parts)
    ]
    list(learner.learn(tasks))
    return learner.predict(Batch(TESTS.double(), torch.zeros(len(TESTS))))


def features() -> tuple[torch.Tensor, torch.Tensor]:
    net = Net(norm=False, dropout=0.0).double().eval()
    with torch.no_grad():
        return net.body(EVERY.x.double()), net.body(TESTS.double())


ORDER = torch.randperm(180, generator=dice("slda order"))
CUTS = {
    "at once": [torch.arange(180)],
    "by class": [(EVERY.y == c).nonzero().flatten() for c in range(6)],
    "one by one": [*ORDER[:60, None], ORDER[60:]],
    "pieces": [*ORDER.split(17)],
}


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("normalize", [False, True])
def test_over_any_cut_of_the_rows_it_is_one_analysis_of_all(cut, normalize):
    got = answered(SLDA(shrinkage=0.01, normalize=normalize), CUTS[cut])
    z, t = features()
    if normalize:
        z, t = F.normalize(z, dim=1), F.normalize(t, dim=1)
    means = torch.stack([z[EVERY.y == c].mean(0) for c in range(6)])
    centred = z - means[EVERY.y]
    spread = 0.99 * centred.T @ centred / 180 + 0.01 * torch.eye(16, dtype=torch.float64)
    inverse = torch.linalg.inv(spread)
    expected = t @ inverse @ means.T - (means @ inverse @ means.T).diagonal() / 2
    assert (got - expected).abs().max() < 1e-8 * expected.abs().max()


def test_it_ranks_as_sklearns_analysis_does():
    """There shrinkage goes toward the mean variance, on features scaled to variance 1: none of either here."""
    z, t = features()
    theirs = LinearDiscriminantAnalysis(solver="lsqr", priors=[1 / 6] * 6).fit(z.numpy(), EVERY.y.numpy())
    statistics = ClassStatistics(covariance="shared")
    statistics.add(z, EVERY.y)
    weight, bias = discriminant(statistics, 1e-10)
    ours = (t @ weight + bias).log_softmax(1)
    assert np.abs(ours.numpy() - theirs.predict_log_proba(t.numpy())).max() < 1e-4


def test_the_published_recursion_differs_by_one_over_n_and_depends_on_the_order():
    z, _ = features()

    def published(order: torch.Tensor) -> torch.Tensor:
        mean, count, spread = torch.zeros(6, 16).double(), torch.zeros(6), torch.ones(16, 16).double()
        for n, i in enumerate(order.tolist()):
            c = EVERY.y[i]
            far = z[i] - mean[c]
            spread = (n * spread + n / (n + 1) * torch.outer(far, far)) / (n + 1)
            mean[c] += far / (count[c] + 1)
            count[c] += 1
        return spread

    statistics = ClassStatistics(covariance="shared")
    statistics.add(z, EVERY.y)
    ours = statistics.pooled / 180
    one, other = published(ORDER), published(ORDER.flip(0))
    size = ours.norm()
    assert 1e-3 < (one - other).norm() / size < 0.2 and (one - ours).norm() / size < 0.3
    again = ClassStatistics(covariance="shared")
    for i in ORDER.flip(0).split(7):
        again.add(z[i], EVERY.y[i])
    assert (again.pooled / 180 - ours).abs().max() < 1e-10


def test_with_full_shrinkage_it_is_the_nearest_class_mean():
    got = answered(SLDA(shrinkage=1.0), CUTS["by class"])
    z, t = features()
    means = torch.stack([z[EVERY.y == c].mean(0) for c in range(6)])
    assert torch.equal(got.argmax(1), torch.cdist(t, means).argmin(1))


def test_no_weight_moves_and_told_tasks_shut_other_classes():
    net = Net(norm=False, dropout=0.0, heads=True)
    before = {n: p.clone() for n, p in net.named_parameters() if n.startswith("body")}
    learner = Learner(net, (Stage(SLDA()),))
    list(learner.learn(stream(told=True)))
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters() if n in before)
    scores = learner.predict(Batch(TESTS[:4], torch.zeros(4), task=torch.tensor([0, 1, 2, -1])))
    assert (scores > -torch.inf).sum(1).tolist() == [2, 2, 2, 6]


def test_other_statistics_are_refused():
    with pytest.raises(BadSetting, match='covariance = "shared"'):
        SLDA(statistics=ClassStatistics(covariance="full"))
    with pytest.raises(BadSetting, match="no covariance is kept"):
        discriminant(ClassStatistics(covariance="none"), 0.1)
