"""EKPC-style learning: importance by hand, means that follow the features, and the host that remains without both."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from worlds import Net, noise, stream

from nacre.core.dice import dice
from nacre.core.drive import Drive
from nacre.core.errors import BadSetting
from nacre.core.method import Method, compose
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import TensorRows
from nacre.core.state import state
from nacre.core.stream import Experience, Task
from nacre.heads import Alignment, ClassStatistics, GrowingLinear, factor_of, gaussian_draws, kernel_shift
from nacre.learner import Learner, Stage
from nacre.memory import Reservoir
from nacre.methods import EKPC, ER, TaskAdapters
from nacre.metrics import score
from nacre.schedules import schedule

SGD = MadeOptimizer("sgd", 0.05)
QUICK = Alignment(epochs=2, samples=16)
NONE = Alignment(epochs=0)


def plain_net(seed: int = 0) -> Net:
    return Net(norm=False, dropout=0.0, seed=seed)


def learned(method: Method, net: nn.Module, tasks: list[Experience], made: MadeOptimizer = SGD, **settings) -> Learner:
    learner = Learner(net, (Stage(method, made, **{"batch_size": 8, "epochs": 2, **settings}),))
    list(learner.learn(tasks))
    return learner


def read(net: nn.Module, rows: TensorRows) -> Tensor:
    was = net.training
    net.eval()
    with torch.no_grad():
        z = net(rows.x).features.double()
    net.train(was)
    return z


@dataclass
class Host(Method):
    """What the method is built on, in plain words: the card's steps 3 and 4, with torch's own SGD on the head."""

    present: list[int] = state(list)
    statistics: ClassStatistics = state(lambda: ClassStatistics(covariance="full"))

    def begin_stage(self, model, task):
        self.present, self.old = list(task.classes), read(model, task.train)

    def shape_logits(self, logits, batch):
        others = torch.ones(logits.shape[1], dtype=torch.bool)
        others[self.present] = False
        return logits.masked_fill(others, -1e4)

    def end_stage(self, model, task):
        now, s = read(model, task.train), self.statistics
        if task.index:
            s.mean += kernel_shift(s.mean, self.old, now, 4.0)  # whose formula has a test of its own
        s.add(now.float(), task.train.y)
        if not task.index:
            return
        optimizer = torch.optim.SGD(model.head.parameters(), QUICK.lr, momentum=0.9, weight_decay=5e-4)
        for epoch in range(QUICK.epochs):
            optimizer.param_groups[0]["lr"] = QUICK.lr * ((1 + math.cos(math.pi * epoch / QUICK.epochs)) / 2)
            x, y = [], []
            for c in range(len(s.mean)):
                mean = (1 - 0.1 + 0.1 * (c // 2 + 1) / (task.index + 1)) * s.mean[c]
                factor = factor_of(s.covariance_of(c) + 1e-4 * torch.eye(16).double())
                place = dice(0, "align", task.index, epoch, "draws", c)
                x.append(mean.float() + gaussian_draws(torch.zeros(16), factor, QUICK.samples, place).float())
                y += [c] * QUICK.samples
            order = torch.randperm(len(y), generator=dice(0, "align", task.index, epoch, "order"))
            for rows in order.split(QUICK.samples):
                optimizer.zero_grad()
                F.cross_entropy(model.head(torch.cat(x)[rows]), torch.tensor(y)[rows]).backward()
                optimizer.step()
        optimizer.zero_grad()


def test_without_pull_and_with_the_closed_form_alone_it_is_the_host_bit_for_bit():
    ends = []
    for method in (EKPC(strength=0.0, drift_lr=0.0, alignment=QUICK), Host()):
        net = plain_net()
        learned(method, net, stream())
        ends.append({**net.state_dict(), "means": method.statistics.mean, "scatter": method.statistics.scatter})
    far = {n: (ends[0][n] - ends[1][n]).abs().max().item() for n in ends[0]}
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0]), far


class Shifted(nn.Module):
    """Features that training can only shift: all but one vector is frozen."""

    def __init__(self):
        super().__init__()
        self.net = plain_net().requires_grad_(False)
        self.shift = nn.Parameter(torch.zeros(16))
        self.head = self.net.head.requires_grad_(True)
        del self.net.head
        self.head_names = ("head",)

    def forward(self, x):
        z = self.net.body(x) + self.shift
        answer = type("Answer", (), {})()
        answer.logits, answer.features = self.head(z), z
        return answer


def test_where_features_shift_all_means_shift_by_exactly_that_also_with_shuffled_and_augmented_rows():
    method, net = EKPC(drift_lr=0.0, alignment=NONE), Shifted()
    made = MadeOptimizer("sgd", 0.5)
    walk = Learner(net, (Stage(method, made, batch_size=8, epochs=3, augment=noise),)).learn(stream())
    next(walk)
    for known in (2, 4):
        means, then = method.statistics.mean.clone(), net.shift.detach().clone()
        next(walk)
        moved = (net.shift.detach() - then).double()
        assert moved.abs().max() > 0.01
        assert (method.statistics.mean[:known] - means - moved).abs().max() < 1e-6
        assert method.drift.shape == (known, 16) and (method.drift - moved).abs().max() < 1e-6
        assert method.stale(net) == [] and method.before is None


def test_means_that_are_left_alone_are_stale():
    method, net = EKPC(start="zero", drift_lr=0.0, alignment=QUICK), plain_net()
    learned(method, net, stream())
    assert method.stale(net) == [0, 1] and method.drift is None
    moved = EKPC(start="zero", drift_lr=0.1, alignment=QUICK)
    learned(moved, plain_net(), stream())
    assert moved.drift.shape == (4, 16) and 0 < moved.drift.abs().max() < 1.0


def test_the_moves_of_old_means_are_trained_and_those_of_new_ones_are_not():
    ends = {}
    for rate in (0.0, 0.1):
        method = EKPC(drift_lr=rate, alignment=QUICK)
        learned(method, plain_net(), stream()[:2])
        ends[rate] = method.statistics.mean
    far = (ends[0.0] - ends[0.1]).abs().amax(1)
    assert (far[:2] > 1e-5).all() and (far[2:] == 0).all()


def test_the_table_is_trained_on_the_loss_of_the_draws():
    """One step by hand: the gradient for a mean is the sum over its draws of scale * W' (p - onehot) / rows."""
    statistics, head = ClassStatistics(covariance="full"), GrowingLinear(2, 2).double()
    z = torch.randn(20, 2, generator=dice("rows"), dtype=torch.float64)
    statistics.add(z, torch.tensor([0, 1] * 10))
    weight, bias = head.weight.detach().clone(), head.bias.detach().clone()
    table = torch.zeros(1, 2, dtype=torch.float64)
    how = Alignment(epochs=1, samples=8, lr=0.0)  # the head rests
    drawn = []

    def loss(logits: Tensor, y: Tensor) -> Tensor:
        drawn.append((logits.detach(), y))
        return F.cross_entropy(logits, y)

    how.train(head, statistics, {0: 1, 1: 2}, loss=loss, table=table, moving=[0], table_lr=0.1)
    assert torch.equal(head.weight, weight) and torch.equal(head.bias, bias)
    velocity, wanted = torch.zeros(2).double(), torch.zeros(2).double()
    for logits, y in drawn:
        p = logits.softmax(1) - F.one_hot(y, 2)
        velocity = 0.9 * velocity + 0.95 * (p[y == 0] @ weight).sum(0) / len(y)
        wanted -= 0.1 * velocity
    assert (table[0] - wanted).abs().max() < 1e-12 and wanted.abs().max() > 1e-3


def test_importance_is_the_mean_squared_slope_of_the_features_length_row_by_row_scaled_to_one_a_tensor():
    method, net = EKPC(alignment=NONE, rows=1000), plain_net()
    learned(method, net, stream()[:1])
    params = {n: p for n, p in net.named_parameters() if n.startswith("body")}
    total = {n: torch.zeros_like(p) for n, p in params.items()}
    rows = stream()[0].task.train
    for x in rows.x:
        grads = torch.autograd.grad(net(x[None]).features.square().sum(), list(params.values()))
        for n, g in zip(params, grads, strict=True):
            total[n] += g.square() / len(rows)
    assert method.importance.keys() == params.keys(), "the head is no part of it"
    for n, omega in method.importance.items():
        assert (omega - total[n] / total[n].max()).abs().max() < 1e-5 and omega.max() == 1.0
        assert torch.equal(method.anchor[n], params[n])
    batch = rows.take(torch.arange(8))
    with torch.no_grad():
        for p in params.values():
            p += 0.1
    wanted = sum((0.5 * omega * (params[n] - method.anchor[n]) ** 2).sum() for n, omega in method.importance.items())
    assert method.loss(net, batch, net(batch.x)).item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("how", ["max", "sum"])
def test_importance_adds_up_over_tasks_or_keeps_its_maximum(how):
    kept = []
    for tasks in (1, 2):
        method = EKPC(alignment=NONE, accumulate=how)
        learned(method, plain_net(), stream()[:tasks], MadeOptimizer("sgd", 0.0))
        kept.append(method.importance)
    alone = EKPC(alignment=NONE)
    second = Experience(Task(0, stream()[1].task.train, (2, 3)))
    learned(alone, plain_net(), [second], MadeOptimizer("sgd", 0.0))
    for n in kept[0]:
        one, two = kept[0][n], alone.importance[n]
        wanted = torch.maximum(one, two) if how == "max" else one + two
        assert (kept[1][n] - wanted).abs().max() < 1e-6, n


def test_under_a_hard_pull_only_weights_without_importance_move():
    """Column 7 of the inputs is empty in the first task, so the first layer's weights on it have none."""
    first, second = (e.task for e in stream()[:2])
    blind = first.train.x.clone()
    blind[:, 7] = 0
    tasks = [Experience(Task(0, TensorRows(blind, first.train.y), (0, 1))), Experience(second)]
    moved = {}
    for strength in (0.0, 400.0):
        method, net = EKPC(strength=strength, rows=1000, alignment=NONE), plain_net()
        walk = Learner(net, (Stage(method, MadeOptimizer("sgd", 0.003), batch_size=8, epochs=40),)).learn(tasks)
        next(walk)
        then = net.body[0].weight.detach().clone()
        if strength:
            omega = method.importance["body.0.weight"]
        next(walk)
        moved[strength] = (net.body[0].weight.detach() - then).abs()
    assert (omega[:, 7] == 0).all()
    important = omega > 0.2
    assert moved[400.0][important].mean() < 0.05 * moved[0.0][important].mean()
    assert moved[400.0][:, 7].mean() > 0.3 * moved[0.0][:, 7].mean() > 1e-4


def test_what_features_do_not_depend_on_has_no_importance():
    net, method = plain_net(), EKPC(alignment=NONE)
    net.spare = nn.Linear(3, 3)
    learned(method, net, stream()[:1])
    assert (method.importance["spare.weight"] == 0).all() and method.importance["body.0.weight"].max() == 1
    net, method = plain_net(), EKPC(alignment=NONE)
    net.spare = nn.Linear(3, 3)
    net.body.requires_grad_(False)
    learned(method, net, stream()[:1])
    assert method.importance.keys() == {"spare.weight", "spare.bias"}
    assert all((omega == 0).all() for omega in method.importance.values())


def test_over_one_shared_adapter_with_replay_and_a_schedule_only_the_adapter_is_weighed():
    adapters = TaskAdapters(rank=2, per="all")
    method = EKPC(alignment=QUICK, rows=20)
    both = compose(adapters, method, ER(rows=4, memory=Reservoir(capacity=12)))
    net = plain_net()
    before = {n: p.clone() for n, p in net.body.named_parameters()}
    settings = {"batch_size": 8, "epochs": 4, "schedule": schedule("cosine", warmup=2), "augment": noise}
    learner = learned(both, net, stream(), MadeOptimizer("adamw", 0.02), **settings)
    assert method.importance and all("lora" in n for n in method.importance)
    after = {n.replace(".base_layer", ""): p for n, p in net.body.named_parameters() if "lora" not in n}
    assert all(torch.equal(before[n], after[n]) for n in before)
    tests = [t for e in stream() for t in e.tests.values()]
    assert sum(score(learner.predict, t) for t in tests) / 3 > 0.35


def test_it_answers_better_than_fine_tuning():
    def last(make) -> float:
        found = []
        for seed in range(2):
            learner = learned(make(), plain_net(seed), stream(), epochs=6)
            found += [score(learner.predict, t) for e in stream() for t in e.tests.values()]
        return sum(found) / len(found)

    assert last(lambda: EKPC(alignment=Alignment(samples=64))) > last(Method) + 0.15


def test_told_heads_and_resumed_state():
    method = EKPC(alignment=QUICK, rows=10)
    net = Net(norm=False, dropout=0.0, heads=True)
    tasks = stream(told=True)
    learned(method, net, tasks[:1])
    assert method.before is None
    with Drive(method, net, SGD, tasks[1].task, seed=0):
        kept = copy.deepcopy(method.state_dict())
        assert kept["before"].shape == (40, 16), "features of the rows as the stage found them are state"
        again = EKPC(alignment=QUICK, rows=10)
        again.load_state_dict(kept)
        assert torch.equal(again.before, read(net, tasks[1].task.train).float())
    with pytest.raises(BadSetting, match=r'EKPC\.statistics needs covariance = "full" or "low_rank"'):
        EKPC(statistics=ClassStatistics(covariance="none"))
