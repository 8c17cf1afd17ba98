"""SI and MAS: importance against closed forms, and weights that stay nearer where it is high."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from worlds import Net, stream

from nacre.core.dice import dice
from nacre.core.drive import Drive
from nacre.core.method import Method, compose
from nacre.core.model import Outputs
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch, TensorRows
from nacre.core.stream import Task
from nacre.importance import PathIntegral, sensitivity
from nacre.learner import Learner, Stage
from nacre.methods import EWC, MAS, SI
from nacre.rules import Rest

SGD = MadeOptimizer("sgd", 0.05)


def steps(drive: Drive, epochs: int = 1, size: int = 8) -> None:
    for epoch in range(epochs):
        for batch in drive.batches(epoch, size):
            drive.optimizer.zero_grad()
            drive.loss(batch).backward()
            drive.optimizer.step()
            drive.stepped()


def test_along_small_steps_the_path_adds_up_to_the_fall_of_the_loss():
    """Full-batch gradient descent on a regression; the error is of the order of the rate."""
    x = torch.randn(20, 3, generator=dice("path"), dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64)
    task, apart = Task(0, TensorRows(x, y)), []
    for lr in (0.02, 0.01, 0.005):
        net, method = nn.Linear(3, 1).double(), SI()
        nn.init.zeros_(net.weight), nn.init.zeros_(net.bias)
        before = F.mse_loss(net(x), y).item()
        with Drive(method, net, MadeOptimizer("sgd", lr), task, seed=0) as drive:
            steps(drive, round(1 / lr), 20)
            path = sum(s.sum().item() for s in method.path.sums.values())
        apart.append(abs(path - (before - F.mse_loss(net(x), y).item())) / before)
    assert apart[0] < 0.05 and apart[2] < 0.3 * apart[0], apart


@pytest.mark.parametrize(
    "make",
    [
        SGD,
        MadeOptimizer("sgd", 0.05, [], {"momentum": 0.9, "nesterov": True}),
        MadeOptimizer("adamw", 0.01, [], {"weight_decay": 0.1}),
    ],
)
def test_the_path_is_of_the_steps_that_were_taken_whatever_the_optimizer_and_what_rests(make):
    """Twin: minus the gradient times the difference of the weights, noted outside; nesterov writes into gradients."""
    net, method = Net(norm=False, dropout=0.0), SI()
    whole, sums = compose(method, Rest(r"body\.4")), {}
    with Drive(whole, net, make, stream()[0].task, seed=0) as drive:
        for batch in drive.batches(0, 8):
            drive.optimizer.zero_grad()
            drive.loss(batch).backward()
            old = {n: (p.detach().clone(), p.grad.clone()) for n, p in net.named_parameters()}
            drive.optimizer.step()
            drive.stepped()
            for n, p in net.named_parameters():
                sums[n] = sums.get(n, 0) - old[n][1] * (p.detach() - old[n][0])
        for n, s in method.path.sums.items():
            assert torch.allclose(s, sums[n], rtol=1e-4, atol=1e-8), n
        assert (method.path.sums["body.4.weight"] == 0).all() and (method.path.sums["body.0.weight"] != 0).any()


def test_importance_is_the_path_over_the_squared_way_and_adds_up_over_tasks():
    net, method = Net(norm=False, dropout=0.0), SI(damping=0.01, signed=True)
    tasks, omegas = [e.task for e in stream()], []
    for task in tasks[:2]:
        start = {n: p.detach().clone() for n, p in net.named_parameters()}
        with Drive(method, net, SGD, task, seed=0) as drive:
            if task.index:
                start |= {n: p.detach().clone() for n, p in net.named_parameters()}
            else:
                start = {n: p.detach().clone() for n, p in net.named_parameters()}
            steps(drive)
            omega = {n: s.clone() for n, s in method.path.sums.items()}
        now = dict(net.named_parameters())
        omegas.append({n: omega[n] / ((now[n].detach() - start[n]) ** 2 + 0.01) for n in omega})
    weight = "head.weight"
    assert method.importance[weight].shape == (4, 16)
    assert torch.allclose(method.importance[weight][:2], omegas[0][weight] + omegas[1][weight][:2], rtol=1e-5)
    assert torch.allclose(method.importance[weight][2:], omegas[1][weight][2:], rtol=1e-5)
    assert all(torch.equal(method.anchor[n], p.detach()) for n, p in net.named_parameters())


def test_importance_is_not_negative_unless_asked():
    for signed in (False, True):
        net, method = Net(norm=False, dropout=0.0), SI(signed=signed)
        decays = MadeOptimizer("adamw", 0.02, [], {"weight_decay": 5.0})  # moves against the gradient
        with Drive(method, net, decays, stream()[0].task, seed=0) as drive:
            steps(drive, 3)
        lowest = min(f.min().item() for f in method.importance.values())
        assert (lowest < 0) is signed, lowest


@pytest.mark.parametrize("gradient", ["loss", "total"])
def test_the_penalty_reaches_the_weights_and_the_path_contains_it_only_if_asked(gradient):
    net, method = Net(norm=False, dropout=0.0), SI(strength=3.0, gradient=gradient)
    tasks = [e.task for e in stream()]
    with Drive(method, net, SGD, tasks[0], seed=0) as drive:
        steps(drive)
    with torch.no_grad():
        net.body[0].weight.add_(0.05)
    with Drive(method, net, SGD, tasks[1], seed=0) as drive:
        batch = next(drive.batches(0, 8))
        drive.loss(batch).backward()
        weight, alone = net.body[0].weight, net.body[0].weight.grad.clone()
        old = weight.detach().clone()
        drive.optimizer.step()
        drive.stepped()
        pull = 2 * 3.0 * method.importance["body.0.weight"] * (old - method.anchor["body.0.weight"])
        assert pull.abs().max() > 1e-3
        assert torch.allclose(old - weight.detach(), 0.05 * (alone + pull), atol=1e-6), "an SI that is fine-tuning"
        seen = alone + pull if gradient == "total" else alone
        assert torch.allclose(method.path.sums["body.0.weight"], seen * (old - weight.detach()), atol=1e-7)


def test_a_step_that_took_no_effect_leaves_the_path_alone():
    net, method = Net(norm=False, dropout=0.0), SI()
    with Drive(method, net, MadeOptimizer("sgd", 0.05, [], {"fused": True}), stream()[0].task, seed=0) as drive:
        steps(drive)
        before = {n: s.clone() for n, s in method.path.sums.items()}
        drive.loss(next(drive.batches(1, 8))).backward()
        drive.optimizer.found_inf = torch.tensor(1.0)
        drive.optimizer.step()
        drive.stepped()
        assert all(torch.equal(s, before[n]) for n, s in method.path.sums.items())


def test_the_sensitivity_of_a_linear_layer_has_its_closed_form_row_by_row():
    layer = nn.Linear(4, 3, bias=False).double()
    x = torch.randn(30, 4, generator=dice("mas"), dtype=torch.float64)

    def outputs(batch: Batch) -> Outputs:
        return Outputs(layer(batch.x), layer(batch.x))

    found = sensitivity(outputs, {"weight": layer.weight}, TensorRows(x, torch.zeros(30)), torch.arange(30))["weight"]
    rows = 2 * layer(x).detach()[:, :, None] * x[:, None]
    assert (found - rows.abs().mean(0)).abs().max() < 1e-12
    assert (found - rows.mean(0).abs()).abs().max() > 0.1, "the size of the mean is another thing"


def test_mas_penalty_is_strength_omega_far_squared_and_omega_adds_up():
    net, method = Net(norm=False, dropout=0.0), MAS(strength=2.0, rows=16)
    tasks, then = [e.task for e in stream()], {}
    for task in tasks[:2]:
        with Drive(method, net, SGD, task, seed=0) as drive:
            steps(drive)
            then = then or {}
        then[task.index] = method.importance["body.0.weight"].clone()
    assert (then[1] >= then[0]).all() and then[1].sum() > then[0].sum()
    assert method.loss(net, None, None).item() == 0.0
    with torch.no_grad():
        net.body[0].weight.add_(0.1)
    expected = 2.0 * (method.importance["body.0.weight"] * 0.1**2).sum()
    assert method.loss(net, None, None).item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("kind", [EWC, MAS])
def test_decay_multiplies_the_importance_of_earlier_tasks_at_each_new_one(kind):
    found = {}
    for decay in (1.0, 0.5, 0.0):
        net, method = Net(norm=False, dropout=0.0), kind(strength=0.0, rows=16, decay=decay)
        for met in stream():
            with Drive(method, net, SGD, met.task, seed=0) as drive:
                steps(drive)
            found.setdefault(decay, []).append(method.importance["body.0.weight"].clone())
    one, both, all_of_them = found[1.0]
    fresh = [one, both - one, all_of_them - both]
    assert torch.allclose(found[0.0][2], fresh[2], rtol=1e-4, atol=1e-6) and all(f.sum() > 0 for f in fresh)
    assert torch.allclose(found[0.5][2], fresh[0] / 4 + fresh[1] / 2 + fresh[2], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("kind", "hard"), [(SI, 30.0), (MAS, 3.0)])
def test_they_end_nearer_the_anchor_on_important_weights_than_fine_tuning(kind, hard):
    far = {}
    for strength in (0.0, hard):
        method = kind(strength=strength)
        stage = Stage(method, SGD, batch_size=8, epochs=6)
        learner = Learner(Net(norm=False, dropout=0.0), (stage,))
        walk = learner.learn(stream())
        next(walk)
        then = {n: p.detach().clone() for n, p in learner.model.named_parameters() if n.startswith("body")}
        heavy = {n: f > f.flatten().quantile(0.9) for n, f in method.importance.items() if n in then}
        next(walk)
        now = dict(learner.model.named_parameters())
        far[strength] = torch.cat([(now[n] - then[n]).detach()[heavy[n]].abs() for n in then]).mean().item()
    assert far[hard] < 0.7 * far[0.0], far


def test_the_form_as_a_gradient_is_that_of_the_loss():
    """EWC both ways under plain SGD without a clip; SI has the second form only."""
    ends = {}
    for how in ("loss", "gradient"):
        learner = Learner(Net(norm=False, dropout=0.0), (Stage(EWC(rows=16, how=how), SGD, batch_size=8),))
        list(learner.learn(stream()))
        ends[how] = torch.cat([p.detach().flatten() for p in learner.model.parameters()])
    plain = Learner(Net(norm=False, dropout=0.0), (Stage(Method(), SGD, batch_size=8),))
    list(plain.learn(stream()))
    other = torch.cat([p.detach().flatten() for p in plain.model.parameters()])
    assert (ends["loss"] - ends["gradient"]).abs().max() < 1e-5 < 1e-3 < (ends["loss"] - other).abs().max()


def test_a_path_is_a_part_of_its_own():
    layer, path = nn.Linear(2, 1), PathIntegral()
    params = dict(layer.named_parameters())
    path.begin(params)
    total = torch.zeros(1, 2)
    for k in range(3):
        grad = {"weight": torch.full((1, 2), float(k + 1))}
        path.gradient(grad)
        path.before({n: p.detach() for n, p in params.items()})
        with torch.no_grad():
            layer.weight.sub_(0.1 * grad["weight"])
        total += 0.1 * grad["weight"] ** 2
        path.moved(params)
    assert torch.allclose(path.sums["weight"], total) and (path.sums["bias"] == 0).all()
    assert torch.allclose(path.importance(params, 0.5)["weight"], total / (0.6**2 + 0.5))
