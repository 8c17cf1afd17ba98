"""SLCA: what moves below the head moves slowly, and the head is aligned on draws; oracles of both."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from worlds import Net, noise, stream

from nacre.core.dice import dice
from nacre.core.drive import Drive
from nacre.core.errors import BadModel, BadSetting, NonFinite
from nacre.core.method import Method, compose
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch
from nacre.heads import (
    Alignment,
    ClassStatistics,
    GrowingLinear,
    draws,
    factor_of,
    features_of,
    gaussian_draws,
    head_of,
)
from nacre.learner import Learner, Stage
from nacre.memory import Reservoir
from nacre.methods import ER, SLCA
from nacre.metrics import Matrix, score
from nacre.schedules import schedule

SGD = MadeOptimizer("sgd", 0.05)
QUICK = Alignment(epochs=2, samples=16)
NONE = Alignment(epochs=0)


def ends(method: Method, made: MadeOptimizer = SGD, tasks: int = 3, **net) -> list[dict[str, Tensor]]:
    """The model after each task."""
    learner = Learner(Net(**{"norm": False, "dropout": 0.0, **net}), (Stage(method, made, batch_size=8, epochs=2),))
    return [copy.deepcopy(learner.model.state_dict()) for _ in learner.learn(stream()[:tasks])]


def accuracy(method: Method, seed: int) -> float:
    learner = Learner(Net(norm=False, dropout=0.0, seed=seed), (Stage(method, SGD, batch_size=8, epochs=6),))
    matrix, tests = Matrix(), {}
    for met in learner.learn(stream()):
        tests |= met.tests
        for test, held in tests.items():
            matrix.add(f"task{met.task.index}", test, score(learner.predict, held), len(held), test in met.tests)
    return matrix.last()


@pytest.mark.parametrize(
    "made",
    [("sgd", 0.05, {"momentum": 0.9, "weight_decay": 0.01}), ("adamw", 0.01, {"weight_decay": 0.1})],
    ids=lambda m: m[0],
)
def test_scaled_moves_are_a_lower_rate_below_the_head_under_any_optimizer(made):
    name, lr, options = made
    slow = ends(SLCA(slow=0.01, alignment=NONE), MadeOptimizer(name, lr, [], options))[-1]
    groups = MadeOptimizer(name, lr, [{"match": "^body", "lr": 0.01 * lr}], options)
    grouped = ends(SLCA(alignment=NONE), groups)[-1]
    plain = ends(SLCA(alignment=NONE), MadeOptimizer(name, lr, [], options))[-1]
    for n in slow:
        assert (slow[n] - grouped[n]).abs().max() < 2e-5, n
    assert (slow["body.0.weight"] - plain["body.0.weight"]).abs().max() > 0.02


def test_rows_of_the_task_compete_among_its_classes_and_replayed_ones_among_all():
    method = SLCA(alignment=NONE)
    net = Net(norm=False, dropout=0.0)
    with Drive(method, net, SGD, stream()[1].task, seed=0) as drive:
        batch = next(iter(drive.batches(0, size=8)))
        logits = net(batch.x).logits
        assert drive.loss(batch).item() == pytest.approx(F.cross_entropy(logits[:, 2:], batch.y - 2).item(), rel=1e-5)
        old = torch.tensor([0, 1] * 4)
        shaped = method.shape_logits(logits, Batch(batch.x, old))
        assert torch.equal(shaped, logits), "a replayed row of an earlier class competes among all"
    assert torch.equal(SLCA(classes="all").shape_logits(logits, batch), logits)


def twin(
    head: nn.Linear, statistics: ClassStatistics, since: dict[int, int], how: Alignment, tau: float | None, task: int
):
    """The alignment in plain words: torch's SGD on the layer itself, row by row of the card."""
    optimizer = torch.optim.SGD(head.parameters(), how.lr, momentum=how.momentum, weight_decay=how.weight_decay)
    fall = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=how.epochs)
    t = max(since.values())
    for epoch in range(how.epochs):
        x, y = [], []
        for c, t_c in since.items():
            mean = (1 - how.decay + how.decay * t_c / t) * statistics.mean[c]
            spread = statistics.covariance_of(c) + how.spread * torch.eye(len(mean))
            place = dice(0, "align", task, epoch, "draws", c)
            around = gaussian_draws(torch.zeros_like(mean), factor_of(spread), how.samples, place)
            x.append(mean.to(head.weight) + around.to(head.weight))
            y += [c] * how.samples
        x, y = torch.cat(x), torch.tensor(y)
        for rows in torch.randperm(len(y), generator=dice(0, "align", task, epoch, "order")).split(how.samples):
            logits = head(x[rows])
            if tau is not None:
                blocks = [[c for c in since if since[c] == k] for k in sorted(set(since.values()))]
                lengths = torch.stack([logits[:, b].norm(dim=1) for b in blocks]).mean(0)
                logits = logits / lengths[:, None] / tau
            optimizer.zero_grad()
            F.cross_entropy(logits, y[rows]).backward()
            optimizer.step()
        fall.step()


@pytest.mark.parametrize("tau", [0.1, None])
@pytest.mark.parametrize("decay", [0.1, 0.0])
def test_the_alignment_is_the_published_one_with_each_switch(tau, decay):
    how = Alignment(epochs=3, samples=16, decay=decay)
    method, net = SLCA(temperature=tau, alignment=how), Net(norm=False, dropout=0.0).double()
    tasks = stream(double=True)
    for task in (e.task for e in tasks[:2]):
        with Drive(method, net, SGD, task, seed=0) as drive:
            for batch in drive.batches(0, size=8):
                drive.optimizer.zero_grad()
                drive.loss(batch).backward()
                drive.optimizer.step()
                drive.stepped()
            before = copy.deepcopy(net)
    statistics = ClassStatistics(covariance="full")
    statistics.load_state_dict(method.statistics.state_dict())  # of the old task as they were taken
    twin(before.head, statistics, {0: 1, 1: 1, 2: 2, 3: 2}, how, tau, 1)
    assert (before.head.weight - net.head.weight).abs().max() < 1e-8
    assert (before.head.bias - net.head.bias).abs().max() < 1e-8
    assert torch.equal(before.body[0].weight, net.body[0].weight)


def test_old_classes_are_drawn_nearer_to_zero_and_without_decay_none_is():
    scales = Alignment().scales({0: 1, 1: 1, 2: 2, 3: 4})
    assert [round(s, 6) for s in scales.values()] == [0.925, 0.925, 0.95, 1.0]
    assert set(Alignment(decay=0.0).scales({0: 1, 2: 4}).values()) == {1.0}


def test_alignment_leaves_all_below_the_head_bit_identical_buffers_too_and_moves_the_head_from_the_second_task_on():
    plain = SLCA(alignment=NONE)
    aligned = SLCA(alignment=QUICK)
    one, two = (ends(m, tasks=2, norm=True, dropout=0.2) for m in (plain, aligned))
    assert all(torch.equal(one[0][n], two[0][n]) for n in one[0]), "nothing to align after the first task"
    for n in one[1]:
        assert torch.equal(one[1][n], two[1][n]) is not n.startswith("head"), n


def test_with_equal_round_normals_it_finds_the_boundaries_of_the_nearest_mean():
    means = torch.tensor([[0.0, 2.0], [2.0, -1.0], [-2.0, -1.0]], dtype=torch.float64)
    statistics = ClassStatistics(covariance="full")
    for c in range(3):
        around = draws(means[c], torch.eye(2, dtype=torch.float64), 200, dice("round", c))
        statistics.add(around, torch.full((200,), c))
    head = GrowingLinear(2, 3)
    Alignment(epochs=20, samples=400, lr=0.2, drawn="matched", decay=0.0).train(head, statistics, {0: 1, 1: 1, 2: 1})
    grid = torch.cartesian_prod(torch.linspace(-3, 3, 41), torch.linspace(-3, 3, 41)).double()
    nearest = torch.cdist(grid, means).topk(2, largest=False)
    clear = nearest.values[:, 1] - nearest.values[:, 0] > 0.3  # rows on the boundary itself are nobody's
    got = head(grid.float()).argmax(1)
    assert clear.double().mean() > 0.8 and torch.equal(got[clear], nearest.indices[clear, 0])


def test_full_covariances_take_classes_times_width_squared_and_old_ones_are_stale():
    method = SLCA(alignment=QUICK)
    learner, stale = Learner(Net(norm=False, dropout=0.0), (Stage(method, SGD, batch_size=8),)), []
    for _ in learner.learn(stream()):
        stale.append(method.stale(learner.model))
    assert method.statistics.scatter.numel() == 6 * 16**2 and method.since == {
        "0": 1,
        "1": 1,
        "2": 2,
        "3": 2,
        "4": 3,
        "5": 3,
    }
    assert stale == [[], [0], [0, 1]]
    low = SLCA(alignment=QUICK, statistics=ClassStatistics(rank=3))
    list(Learner(Net(norm=False, dropout=0.0), (Stage(low, SGD, batch_size=8),)).learn(stream()))
    assert low.statistics.scatter is None and low.statistics.factor.shape == (6, 3, 16)


def test_statistics_are_of_features_in_eval_mode_without_augmentation():
    method, net = SLCA(alignment=NONE), Net()
    task = stream()[0].task
    list(Learner(net, (Stage(method, SGD, batch_size=8, augment=noise),)).learn(stream()[:1]))
    z, y = features_of(net.eval(), task.train, "the test")
    assert (method.statistics.mean[1] - z[y == 1].double().mean(0)).abs().max() < 1e-12
    assert (method.statistics.covariance_of(1) - z[y == 1].double().T.cov()).abs().max() < 1e-12


def test_it_answers_better_than_fine_tuning_and_than_a_slow_learner_alone():
    aligned = [accuracy(SLCA(slow=0.1, alignment=Alignment(samples=64)), s) for s in range(2)]
    slow = [accuracy(SLCA(slow=0.1, classes="all", alignment=NONE), s) for s in range(2)]
    plain = [accuracy(Method(), s) for s in range(2)]
    assert sum(aligned) > sum(slow) + 0.1 and sum(aligned) > sum(plain) + 0.4, (aligned, slow, plain)


def test_with_replay_and_a_schedule_and_told_heads_it_learns():
    both = compose(SLCA(slow=0.5, alignment=QUICK), ER(rows=4, memory=Reservoir(capacity=12)))
    made = MadeOptimizer("adamw", 0.01)
    settings = {"batch_size": 8, "epochs": 2, "schedule": schedule("cosine", warmup=2), "augment": noise}
    for told, least in ((False, 0.7), (True, 0.85)):
        net = Net(norm=False, dropout=0.0, heads=told)
        learner, tests = Learner(net, (Stage(copy.deepcopy(both), made, **settings),)), []
        for met in learner.learn(stream(told=told)):
            tests += met.tests.values()
        assert sum(score(learner.predict, t) for t in tests) / 3 > least


def test_rows_that_come_back_count_for_the_task_that_brought_them_last():
    method = SLCA(alignment=QUICK)
    tasks = stream(splits=((0, 1), (2, 3), (1, 4)))
    list(Learner(Net(norm=False, dropout=0.0), (Stage(method, SGD, batch_size=8),)).learn(tasks))
    assert method.since == {"0": 1, "1": 3, "2": 2, "3": 2, "4": 3}


class Bent(nn.Module):
    """Its logits are not what its head makes of its features."""

    def __init__(self):
        super().__init__()
        self.inner = Net(norm=False, dropout=0.0)

    def forward(self, x):
        answer = self.inner(x)
        answer.logits = answer.logits + x.sum(1, keepdim=True)
        return answer


def test_what_it_cannot_do_is_refused():
    with pytest.raises(BadSetting, match='covariance = "full" or "low_rank"'):
        SLCA(statistics=ClassStatistics(covariance="shared"))
    with pytest.raises(BadModel, match="no single module"):
        list(Learner(Bent(), (Stage(SLCA(alignment=QUICK), SGD, batch_size=8),)).learn(stream()))
    net, batch = Net(), stream()[0].task.train.take(torch.arange(4))
    net.head.grow(2)
    assert head_of(net, batch, "the test") is net.head and net.training
    statistics = ClassStatistics(covariance="full")
    statistics.add(torch.tensor([[0.0], [1.0], [4.0], [5.0]]), torch.tensor([0, 0, 1, 1]))
    with pytest.raises(NonFinite, match="lower it"):
        Alignment(lr=1e30).train(GrowingLinear(1, 2), statistics, {0: 1, 1: 1})


def test_a_head_in_bf16_is_aligned_in_fp32_and_nothing_else_is_touched():
    statistics = ClassStatistics(covariance="full")
    statistics.add(torch.tensor([[0.0], [1.0], [4.0], [5.0]]), torch.tensor([0, 0, 1, 1]))
    head = GrowingLinear(1, 2).bfloat16()
    head.weight.requires_grad_(False)
    before = head.weight.clone()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    with torch.no_grad():
        Alignment(samples=30, lr=0.5).train(head, statistics, {0: 1, 1: 1})
    assert head.weight.dtype == torch.bfloat16 and not torch.equal(head.weight, before)
    assert head(torch.tensor([[0.5], [4.5]]).bfloat16()).argmax(1).tolist() == [0, 1]
    assert not head.weight.requires_grad and head.weight.grad is None and head.bias.grad is None
    assert torch.equal(torch.get_rng_state(), state) and math.isfinite(head.bias.sum().item())
