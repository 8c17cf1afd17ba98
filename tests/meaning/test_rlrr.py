"""RLRR: starts at the answers of before, rescales by the formula, merges bit for bit."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from worlds import Net, steps, stream

from nacre.adapters import effective, merge_rescaling, put_in_rescaling
from nacre.adapters.rescaled import Rescaled
from nacre.core.drive import Drive
from nacre.core.optim import MadeOptimizer
from nacre.learner import Learner, Stage
from nacre.methods import RLRR
from nacre.metrics import score

ADAMW = MadeOptimizer("adamw", 0.02, [], {"weight_decay": 0.01})


def layer(bias: bool = True) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 4, bias=bias))


def moved(net: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if "rescale" in name:
                p.normal_()
    return net


@pytest.mark.parametrize("bias", [True, False])
def test_it_starts_at_the_answers_of_before_bit_for_bit(bias):
    net, x = layer(bias), torch.randn(5, 6)
    answer, state = net(x), {n: t.clone() for n, t in net.state_dict().items()}
    put_in_rescaling(net, ["0"])
    assert torch.equal(net(x), answer)
    assert all(torch.equal(t, net.state_dict()[n]) for n, t in state.items())


def test_the_published_start_is_none():
    net, x = nn.Sequential(nn.Linear(768, 300)), torch.randn(5, 768)
    answer = net(x)
    put_in_rescaling(net, ["0"], identity=False)
    one, other = net[0].rescale_out.detach(), net[0].rescale_in.detach()
    assert 2.3 < one.abs().max() <= math.sqrt(6) and 0.08 < other.abs().max() <= math.sqrt(6 / 768)
    assert not torch.allclose(net(x), answer, rtol=1e-3)


@pytest.mark.parametrize("bias", [True, False])
def test_the_formula_and_its_gradient(bias):
    net, x = layer(bias), torch.randn(5, 6)
    w, b = net[0].weight.detach().clone(), net[0].bias
    put_in_rescaling(net, ["0"])
    moved(net)
    out, inside = net[0].rescale_out, net[0].rescale_in
    shift = net[0].rescale_shift if bias else torch.zeros(4)
    factorised = ((x * inside) @ w.T) * out + x @ w.T + (b if bias else 0) + shift
    torch.testing.assert_close(net(x), factorised)
    upstream = torch.randn(5, 4)
    (slope,) = torch.autograd.grad((net(x) * upstream).sum(), out)
    torch.testing.assert_close(slope, ((upstream.T @ x) * w * inside).sum(1))


@pytest.mark.parametrize("bias", [True, False])
def test_merging_changes_no_answer_by_a_bit(bias):
    net, x = layer(bias), torch.randn(5, 6)
    put_in_rescaling(net, ["0"])
    moved(net)
    answer = net(x)
    merge_rescaling(net)
    assert torch.equal(net(x), answer)
    assert type(net[0]) is nn.Linear and list(net.state_dict()) == (["0.weight", "0.bias"] if bias else ["0.weight"])
    assert all(p.requires_grad for p in net.parameters())


def test_it_is_hira_of_rank_one():
    peft = pytest.importorskip("peft")
    if not hasattr(peft, "HiraConfig"):
        pytest.skip("this PEFT has no HiRA")
    net, x = layer(), torch.randn(5, 6)
    twin = peft.inject_adapter_in_model(
        peft.HiraConfig(r=1, target_modules=["0"], hira_dropout=0.0), copy.deepcopy(net)
    )
    put_in_rescaling(net, ["0"])
    with torch.no_grad():
        moved(net)[0].rescale_shift.zero_()
        for name, p in twin.named_parameters():
            if "hira_" in name.lower():
                p.copy_((net[0].rescale_in if p.shape[0] == 1 else net[0].rescale_out).view(p.shape))
    torch.testing.assert_close(net(x), twin(x))


def run(method: RLRR, look=None) -> Net:
    net = Net(dropout=0.0)
    with Drive(method, net, ADAMW, stream()[0].task, seed=0) as drive:
        steps(drive)
        if look is not None:
            look(drive)
    return net


def test_vectors_norms_and_the_head_train_and_nothing_else():
    def look(drive):
        names = set(drive.site.params)
        vectors = {f"body.{i}.rescale_{v}" for i in (0, 4) for v in ("out", "in", "shift")}
        assert names == vectors | {"body.1.weight", "body.1.bias", "head.weight", "head.bias"}

    net = run(RLRR(), look)
    first = Net(dropout=0.0)
    ratio = (net.body[0].weight / first.body[0].weight - 1).detach()
    assert torch.linalg.matrix_rank(ratio, rtol=1e-3) == 1 and ratio.norm() > 0.01, "W' / W - 1 = l r'"
    assert all(p.requires_grad for p in net.parameters()) and not any(isinstance(m, Rescaled) for m in net.modules())
    still = run(RLRR(norms=False))
    assert torch.equal(still.body[1].weight, first.body[1].weight)


def test_each_task_rescales_what_the_last_one_left_and_learns():
    learner = Learner(Net(dropout=0.0), (Stage(RLRR(), ADAMW, batch_size=8, epochs=6),))
    weights = []
    for i, met in enumerate(learner.learn(stream())):
        weights.append(learner.model.body[0].weight.detach().clone())
        assert score(learner.predict, met.tests[f"task{i}"]) > 0.7
    assert not torch.equal(weights[0], weights[1])
    ratio = weights[1] / weights[0] - 1
    assert torch.linalg.matrix_rank(ratio, rtol=1e-2) == 1


def test_weights_that_answer_are_told_under_their_own_names():
    net = Net(dropout=0.0)
    net.head.grow(2)
    names = net.state_dict().keys()
    with Drive(RLRR(start="published"), net, MadeOptimizer("sgd", 0.1), stream()[0].task, seed=0):
        told = {n: t.clone() for n, t in effective(net).items()}
    assert told.keys() == names and all(torch.equal(t, told[n]) for n, t in net.state_dict().items())
    assert not torch.equal(told["body.0.weight"], Net().body[0].weight)
