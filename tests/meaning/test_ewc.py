"""EWC: its estimators against closed forms, its penalty, its folding, and that it does what it says."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from worlds import Net, stream

from nacre.core.dice import dice
from nacre.core.drive import Drive
from nacre.core.method import Method, compose
from nacre.core.model import Outputs
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch, TensorRows
from nacre.core.stream import Task
from nacre.importance import fisher
from nacre.learner import Learner, Stage
from nacre.methods import ERACE, EWC


def softmax_regression() -> tuple[nn.Linear, TensorRows]:
    x = torch.randn(30, 4, generator=dice("x"), dtype=torch.float64)
    y = torch.randint(3, (30,), generator=dice("y"))
    layer = nn.Linear(4, 3).double()
    with torch.no_grad():
        for i, p in enumerate(layer.parameters()):
            p.copy_(torch.randn(p.shape, generator=dice("w", i)))
    return layer, TensorRows(x, y)


def scored(layer: nn.Linear, rows: TensorRows, labels: str, seed: int = 0) -> torch.Tensor:
    def outputs(batch: Batch) -> Outputs:
        z = layer(batch.x)
        return Outputs(z, z)

    def objective(batch: Batch) -> torch.Tensor:
        return nn.functional.cross_entropy(layer(batch.x), batch.y)

    params = dict(layer.named_parameters())
    return fisher(objective, outputs, params, rows, torch.arange(len(rows)), labels=labels, seed=(seed,))["weight"]


def test_the_exact_fisher_of_softmax_regression_has_its_closed_form():
    layer, rows = softmax_regression()
    p = layer(rows.x).softmax(1).detach()
    expected = torch.einsum("ni,nc->ci", rows.x.square(), p * (1 - p)) / len(rows)
    assert (scored(layer, rows, "exact") - expected).abs().max() < 1e-12


def test_sampled_labels_are_unbiased_and_empirical_ones_are_the_rows_own():
    layer, rows = softmax_regression()
    exact = scored(layer, rows, "exact")
    draws = torch.stack([scored(layer, rows, "sampled", seed) for seed in range(200)])
    error = (draws.mean(0) - exact).abs() / (draws.std(0) / 200**0.5)
    assert error.max() < 4.5, "the mean of sampled estimates is off by more than its standard error allows"
    g = layer(rows.x).softmax(1).detach() - nn.functional.one_hot(rows.y, 3)
    assert (scored(layer, rows, "empirical") - torch.einsum("ni,nc->ci", rows.x**2, g**2) / 30).abs().max() < 1e-12


def consolidated(**settings) -> tuple[EWC, Net, Task]:
    """EWC after task 0 of the toy stream, and the model that learned it."""
    net, ewc, task = Net(norm=False, dropout=0.0), EWC(rows=16, **settings), stream()[0].task
    with Drive(ewc, net, MadeOptimizer("sgd", 0.1), task, seed=0) as drive:
        for batch in drive.batches(epoch=0, size=8):
            drive.optimizer.zero_grad()
            drive.loss(batch).backward()
            drive.optimizer.step()
            drive.stepped()
    return ewc, net, task


def test_rows_that_importance_is_taken_of_compete_among_all_classes_beside_er_ace_too():
    """One row alone is the only class of its batch: among that class the loss and its slope are 0."""
    taken = []
    for partners in ((), (ERACE(rows=0),)):
        ewc = EWC(rows=16, labels="exact")
        with Drive(compose(ewc, *partners), Net(norm=False, dropout=0.0), MadeOptimizer("sgd", 0.1), stream()[0].task):
            pass
        taken.append(ewc.importance)
    assert taken[0]["body.0.weight"].sum() > 0
    assert all(torch.equal(f, taken[1][n]) for n, f in taken[0].items())


def test_the_penalty_is_zero_at_the_anchor_and_half_strength_f_far_squared_away_from_it():
    """A penalty that is always zero shipped twice elsewhere; this would have seen it."""
    ewc, net, task = consolidated(strength=10.0)
    batch = task.train.take(torch.arange(4))
    assert ewc.loss(net, batch, None).item() == 0.0
    weight = net.body[0].weight
    assert ewc.importance["body.0.weight"].sum() > 0
    with torch.no_grad():
        weight.add_(0.1)
    expected = 10.0 / 2 * (ewc.importance["body.0.weight"] * 0.1**2).sum()
    penalty = ewc.loss(net, batch, None)
    assert penalty.item() == pytest.approx(expected.item(), rel=1e-4) and penalty.item() > 0
    (slope,) = torch.autograd.grad(penalty, weight)
    assert torch.allclose(slope, 10.0 * ewc.importance["body.0.weight"] * 0.1, rtol=1e-4)


def test_all_tasks_in_one_quadratic_pull_as_their_sum_does():
    """Twin: one term a task, kept apart."""
    net, ewc = nn.Linear(3, 2).double(), EWC(rows=20, strength=7.0, labels="exact")
    twin: list[tuple[dict, dict]] = []
    make = MadeOptimizer("sgd", 0.5)
    for i in range(3):
        x = torch.randn(20, 3, generator=dice("fold", i), dtype=torch.float64)
        task = Task(i, TensorRows(x, (x[:, i] > 0).long()), (0, 1))
        with Drive(ewc, net, make, task, seed=0) as drive:
            for batch in drive.batches(epoch=0, size=5):
                drive.optimizer.zero_grad()
                drive.loss(batch).backward()
                drive.optimizer.step()
                drive.stepped()
        before = {n: sum(f[n] for f, _ in twin) if twin else 0 for n, _ in net.named_parameters()}
        fresh = {n: ewc.importance[n] - before[n] for n in ewc.importance}
        twin.append((fresh, {n: p.detach().clone() for n, p in net.named_parameters()}))
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3)
    apart = sum(7.0 / 2 * (f[n] * (p - a[n]) ** 2).sum() for f, a in twin for n, p in net.named_parameters())
    slopes = torch.autograd.grad(apart, list(net.parameters()))
    folded = torch.autograd.grad(ewc.loss(net, None, None), list(net.parameters()))
    assert max((a - b).abs().max() for a, b in zip(slopes, folded, strict=True)) < 1e-12


def test_the_pull_is_the_proximal_step_and_stays_finite():
    ewc, net, task = consolidated(strength=1e12, how="pull")
    anchor = {n: a.clone() for n, a in ewc.anchor.items()}
    with Drive(ewc, net, MadeOptimizer("sgd", 0.1), task, seed=0) as drive:
        drive.loss(task.train.take(torch.arange(8))).backward()
        drive.optimizer.step()
    for n, p in net.named_parameters():
        held = ewc.importance[n] > 1e-8
        assert torch.allclose(p[held], anchor[n][held], atol=1e-5), f"{n} left its anchor against a pull of 1e12"
    new, f, a = torch.tensor([3.0]), torch.tensor([2.0]), torch.tensor([1.0])
    part, step = EWC(strength=5.0, how="pull"), 0.1
    part.importance, part.anchor = {"w": f}, {"w": a.clone()}
    site = type("Site", (), {"lr": lambda self, name: step})()
    moved = part.shape_weights({"w": new.clone()}, {}, site)["w"]
    assert moved.item() == pytest.approx((3.0 + step * 5 * 2 * 1.0) / (1 + step * 5 * 2), rel=1e-6)


def test_the_minimum_of_two_quadratic_tasks_is_their_precision_weighted_mean():
    part = EWC(strength=1.0)
    f1, a1, f2, a2 = torch.tensor([4.0]), torch.tensor([1.0]), torch.tensor([1.0]), torch.tensor([6.0])
    total = f1 + f2
    part.importance, part.anchor = {"weight": total[None]}, {"weight": torch.lerp(a1, a2, f2 / total)[None]}
    net = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(200):
        optimizer.zero_grad()
        part.loss(net, None, None).backward()
        optimizer.step()
    assert net.weight.item() == pytest.approx((4 * 1 + 1 * 6) / 5, rel=1e-5)


@pytest.mark.parametrize("how", ["loss", "pull"])
def test_ewc_ends_nearer_its_anchor_on_important_weights_than_fine_tuning(how):
    """Measured on weights whose importance is in the top tenth, after a second task."""
    far = {}
    for strength in (0.0, 100.0):
        method = EWC(strength=strength, how=how, rows=40)
        stage = Stage(method, MadeOptimizer("sgd", 0.05), batch_size=8, epochs=10)
        learner = Learner(Net(norm=False, dropout=0.0), (stage,))
        run = learner.learn(stream())
        next(run)
        ewc = learner.stages[0].method
        then = {n: p.detach().clone() for n, p in learner.model.named_parameters() if n.startswith("body")}
        heavy = {n: f > f.flatten().quantile(0.9) for n, f in ewc.importance.items() if n in then}
        next(run)
        now = dict(learner.model.named_parameters())
        moved = torch.cat([(now[n] - then[n]).detach()[heavy[n]].abs() for n in then])
        far[strength] = moved.mean().item()
    assert far[100.0] < 0.7 * far[0.0], far


def test_at_strength_zero_it_is_fine_tuning_bit_for_bit():
    def end(method):
        learner = Learner(Net(), (Stage(method, MadeOptimizer("adamw", 0.01), batch_size=8),))
        list(learner.learn(stream()))
        return learner.model.state_dict()

    plain, off = end(Method()), end(EWC(**EWC.off))
    assert all(torch.equal(plain[n], off[n]) for n in plain)
