"""NaP: norms of weights hold, heads and 1-D weights do not, and inserted norms make a weight's length mean nothing."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from worlds import Net, noise, stream

from nacre.adapters import Normed, RowNorm, insert_norms
from nacre.core.dice import dice, mix
from nacre.core.drive import Drive
from nacre.core.errors import BadModel
from nacre.core.method import compose
from nacre.core.optim import MadeOptimizer
from nacre.core.rule import attached
from nacre.learner import Learner, Stage
from nacre.memory import Reservoir
from nacre.methods import ER, NaP
from nacre.rules import KeepNorm, Rest
from nacre.schedules import schedule

ADAMW = MadeOptimizer("adamw", 0.02, [], {"weight_decay": 0.5})


def invariant() -> nn.Sequential:
    """Two layers behind which norms stand, and a last one."""
    with torch.random.fork_rng():
        torch.manual_seed(mix("invariant"))
        net = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 4)).double()
    insert_norms(net, drop_biases=True)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(3)  # so that the little number in the norms counts for nothing
    return net


X = 20 * torch.randn(12, 8, generator=dice("x"), dtype=torch.float64)
Y = torch.arange(12) % 4


def steps(net: nn.Module, rule, count: int = 5, lr: float = 0.5, each=lambda: None) -> None:
    optimizer = torch.optim.SGD(net.parameters(), lr)
    with attached(rule, optimizer, net):
        for _ in range(count):
            optimizer.zero_grad()
            F.cross_entropy(net(X), Y).backward()
            optimizer.step()
            each()


@pytest.mark.parametrize("part", [NaP(), KeepNorm()])
def test_matrices_keep_their_norm_and_heads_and_one_dimensional_weights_do_not(part):
    """Known elsewhere: whatever is called a weight but not a norm is scaled, so heads are, and BatchNorm at `body.1.weight`."""
    who = Learner(Net(), (Stage(part, ADAMW, batch_size=8, augment=noise),), seed=1)
    start = {n: p.detach().norm() for n, p in who.model.named_parameters()}
    walk = who.learn(stream())
    for _ in range(3):
        next(walk)
        ratio = {n: p.detach().norm() / start[n] for n, p in who.model.named_parameters() if n in start}
        assert all(abs(ratio[n] - 1) < 1e-6 for n in ("body.0.weight", "body.4.weight")), ratio
        assert all(abs(ratio[n] - 1) > 1e-3 for n in ("body.1.weight", "body.0.bias", "body.4.bias")), ratio
    head = who.model.head.weight.detach()
    assert head.shape == (6, 16) and "head.weight" not in part.sizes


def test_a_model_that_names_no_head_keeps_its_last_matrix_free():
    net, start, ratios = invariant(), [p.detach().norm() for p in invariant().parameters()], []

    def note() -> None:
        ratios.append([abs(p.detach().norm() / s - 1) for p, s in zip(net.parameters(), start, strict=True)])

    steps(net, KeepNorm(), each=note)
    assert len(ratios) == 5 and max(max(r[:2]) for r in ratios) < 1e-12 and ratios[-1][2] > 1e-4


def test_behind_norms_the_length_of_a_weight_means_nothing_so_scaling_changes_no_answer():
    net = invariant()
    before = net(X)
    with torch.no_grad():
        net[0].weight.mul_(7.0)
        net[2].weight.mul_(0.3)
    assert torch.allclose(net(X), before, atol=1e-4)
    with torch.no_grad():
        net[4].weight.mul_(7.0)
    assert not torch.allclose(net(X), before, rtol=0.1)


def test_without_scaling_norms_grow_by_the_squares_of_the_steps():
    """|W_k|^2 = |W_0|^2 + sum lr^2 |g|^2 where the loss does not depend on the length, which is what NaP undoes."""
    net, added = invariant(), 0.0
    with torch.no_grad():
        net[0].weight.mul_(0.1)
    then, lr = net[0].weight.detach().square().sum(), 0.5

    def note() -> None:
        nonlocal added
        added = added + lr**2 * net[0].weight.grad.square().sum()

    steps(net, KeepNorm(every=0), 20, lr, note)
    now = net[0].weight.detach().square().sum()
    assert abs(now - then - added) < 1e-10 * added and added > 0.01 * then


def test_scaling_weights_that_grew_back_to_their_norm_changes_no_answer():
    net = invariant()
    with torch.no_grad():
        net[0].weight.mul_(0.1)
    optimizer = torch.optim.SGD(net.parameters(), 5.0)
    with attached(KeepNorm(every=2), optimizer, net):
        for k in range(2):
            grew, before = net[0].weight.detach().norm(), net(X).detach()
            optimizer.param_groups[0]["lr"] *= 1 - k  # the second step scales and does nothing else
            optimizer.zero_grad()
            F.cross_entropy(net(X), Y).backward()
            optimizer.step()
    assert torch.allclose(net(X), before, atol=1e-4) and grew > 1.05 * net[0].weight.norm()


def test_it_is_a_step_along_the_sphere_to_first_order():
    apart = []
    for lr in (0.2, 0.1):
        net, twin = invariant(), invariant()
        F.cross_entropy(twin(X), Y).backward()
        w, g = twin[0].weight.detach(), twin[0].weight.grad
        along = w - lr * (g - (g * w).sum() / w.square().sum() * w)
        steps(net, KeepNorm(), 1, lr)
        assert (along - w).norm() > 1e-3
        apart.append((net[0].weight.detach() - along).norm().item())
    assert apart[1] < 0.3 * apart[0], apart


def test_scales_and_offsets_are_one_vector_if_asked():
    part = NaP(scales="joint")
    who = Learner(Net(), (Stage(part, ADAMW, batch_size=8),), seed=1)
    list(who.learn(stream()))
    scale, offset = who.model.body[1].weight.detach(), who.model.body[1].bias.detach()
    assert abs((scale.norm() ** 2 + offset.norm() ** 2).sqrt() - 32**0.5) < 1e-5
    assert offset.norm() > 0.01 and set(part.sizes) == {"body.0.weight", "body.4.weight", "body.1.weight"}


def test_every_so_many_steps_what_is_left_and_what_rests():
    net, norms = invariant(), []
    then = net[0].weight.detach().norm()
    steps(net, KeepNorm(every=3), 6, 2.0, lambda: norms.append(abs(net[0].weight.detach().norm() / then - 1).item()))
    assert [n < 1e-12 for n in norms] == [False, False, True, False, False, True]
    net = invariant()
    steps(net, KeepNorm(leave=r"^0\."), 3, 2.0)
    assert abs(net[0].weight.detach().norm() / then - 1) > 1e-6
    net, rests = invariant(), torch.rand(16, 8, generator=dice("rests")) < 0.5
    before = net[0].weight.detach().clone()
    steps(net, compose(Rest({"0.weight": rests}), KeepNorm()), 3, 2.0)
    assert torch.equal(net[0].weight[rests], before[rests]) and not torch.equal(net[0].weight, before)


def test_zero_empty_tied_and_grown_tensors_and_low_precision():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.head = nn.Linear(6, 6, bias=False), nn.Linear(6, 2)
            self.again = self.a
            self.zero_weight, self.no_weight = nn.Parameter(torch.zeros(6, 6)), nn.Parameter(torch.zeros(0, 6))

        def forward(self, x):
            return self.head(self.again(self.a(x) + x @ self.zero_weight))

    net = Odd().bfloat16()
    optimizer, part = torch.optim.SGD(net.parameters(), 0.1), KeepNorm()
    then = net.a.weight.detach().float().norm()
    x = torch.randn(9, 6, generator=dice("odd")).bfloat16()
    with attached(part, optimizer, net) as site:
        for _ in range(2):
            optimizer.zero_grad()
            net(x).square().mean().backward()
            optimizer.step()
        site.params["a.weight"] = nn.Parameter(torch.cat([net.a.weight.detach(), torch.ones(1, 6).bfloat16()]))
        part.shape_grads({}, site)
        assert abs(part.sizes["a.weight"] - (then**2 + 6).sqrt()) < 0.01, "rows that came later bring their own length"
    assert part.sizes["a.weight"].dtype == torch.float32 and net.zero_weight.abs().sum() > 0
    assert abs(net.a.weight.detach().float().norm() / then - 1) < 2**-8


def test_insert_norms_keeps_names_and_is_idempotent_and_leaves_normed_places_alone():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.act, self.head = nn.Linear(8, 16), nn.GELU(), nn.Sequential(nn.Linear(16, 4), nn.ReLU())
            self.block = nn.Sequential(nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU())

        def forward(self, x):
            return self.head(self.block(self.act(self.first(x))))

    net = Named()
    names = list(dict(net.named_parameters()))
    assert insert_norms(net) == ["act"] and insert_norms(net) == []
    assert list(dict(net.named_parameters())) == names and isinstance(net.act, Normed)
    assert net(torch.randn(3, 8)).shape == (3, 4)
    learned = Named()
    assert insert_norms(learned, "layer", learned=torch.zeros(2, 8)) == ["act"]
    assert set(dict(learned.named_parameters())) - set(names) == {"act.norm.weight", "act.norm.bias"}
    assert learned.act.norm.weight.shape == (16,)


@pytest.mark.parametrize("kind", ["rms", "layer"])
def test_the_norm_of_a_row_vectors_tokens_and_pictures(kind):
    for shape, dims in (((3, 5), (1,)), ((3, 4, 5), (2,)), ((3, 2, 4, 5), (1, 2, 3))):
        x = torch.randn(shape, generator=dice("row", len(shape)))
        far = x - x.mean(dims, keepdim=True) if kind == "layer" else x
        expected = far / far.square().mean(dims, keepdim=True).sqrt()
        assert torch.allclose(RowNorm(kind)(x), expected, atol=1e-4)
        channels = shape[1] if len(shape) == 4 else shape[-1]
        assert torch.allclose(RowNorm(kind, channels)(x), expected, atol=1e-4)


def test_a_conv_net_and_what_is_refused():
    conv = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 2))
    assert insert_norms(conv, drop_biases=True) == ["1", "4"] and conv[0].bias is None and conv[3].bias is None
    x = torch.randn(2, 1, 4, 4, generator=dice("conv"))
    before = conv(x)
    with torch.no_grad():
        conv[0].weight.mul_(5)
    assert torch.allclose(conv(x), before, atol=1e-4)
    with pytest.raises(BadModel, match="called as a function"):
        insert_norms(nn.Linear(2, 2))
    one = nn.Sequential(nn.ReLU())
    twice = nn.Sequential(nn.Linear(2, 3), one, nn.Linear(3, 4), one)
    with pytest.raises(BadModel, match="at 2 widths"):
        insert_norms(twice, learned=torch.zeros(1, 2))


def test_it_says_that_norms_are_missing_and_never_puts_them_in(caplog):
    for norm, said in ((False, True), (True, False)):
        net = Net(norm=norm)
        with caplog.at_level(logging.WARNING), Drive(NaP(), net, ADAMW, stream()[0].task, seed=0):
            assert ("insert_norms" in caplog.text) is said
            assert not any(isinstance(m, Normed) for m in net.modules())
        caplog.clear()


def test_it_goes_with_replay_and_a_schedule():
    whole = compose(NaP(), ER(rows=8, memory=Reservoir(capacity=20)))
    stage = Stage(whole, ADAMW, batch_size=8, accumulate=2, clip=1.0, schedule=schedule("cosine", warmup=2))
    who = Learner(Net(), (stage,), seed=1)
    then = who.model.body[0].weight.detach().norm()
    assert len(list(who.learn(stream()))) == 3
    assert abs(who.model.body[0].weight.detach().norm() / then - 1) < 1e-6


@pytest.mark.parametrize("learned", [None, torch.zeros(2, 3)])
def test_a_nonlinearity_that_places_share_gets_a_norm_at_each(learned):
    act = nn.ReLU()
    net = nn.Sequential(nn.Linear(3, 4), act, nn.Linear(4, 5), act, nn.Linear(5, 2))
    assert insert_norms(net, learned=learned, drop_biases=True) == ["1", "3"] and insert_norms(net) == []
    assert isinstance(net[1], Normed) and isinstance(net[3], Normed) and net[1].norm is not net[3].norm
    assert net[0].bias is None and net[2].bias is None
    if learned is not None:
        assert [len(net[k].norm.weight) for k in (1, 3)] == [4, 5]


def test_a_block_that_is_there_twice_gets_one_norm():
    block = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    net = nn.Sequential(block, block, nn.Linear(3, 2))
    assert insert_norms(net) == ["0.1"] and insert_norms(net) == [] and net[1] is block
