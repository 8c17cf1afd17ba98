"""Rest: bit for bit, under every optimizer, in every order of composition."""

from __future__ import annotations

import copy
import itertools
from dataclasses import dataclass

import pytest
import schedulefree
import torch
from torch import nn
from worlds import Net, noise, stream

from nacre.core.dice import dice, keep
from nacre.core.drive import Drive
from nacre.core.errors import BadSetting
from nacre.core.kept import integers, select
from nacre.core.method import compose
from nacre.core.model import grow
from nacre.core.optim import OPTIMIZERS, MadeOptimizer
from nacre.core.rule import Rule, attached
from nacre.methods import ER, EWC, MIST
from nacre.rules import Rest

HARD = {
    "sgd": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
    "adamw": {"lr": 0.05, "weight_decay": 0.1},
}


def bits(t: torch.Tensor) -> torch.Tensor:
    return t.detach().contiguous().view(torch.int32 if t.element_size() == 4 else torch.int16)


def model() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        net[0].weight[0, 0] = -0.0
    return net


def masks(net: nn.Module) -> dict[str, torch.Tensor]:
    return {n: keep(0.5, p.numel(), "cpu", "mask", n).view_as(p) for n, p in net.named_parameters()}


@dataclass
class Drift(Rule):
    """A rough partner: pushes every weight after the step."""

    def shape_weights(self, new, old, site):
        return {n: w + 0.1 for n, w in new.items()}


@pytest.mark.parametrize("name", sorted(set(OPTIMIZERS) - {"muon"}))
@pytest.mark.parametrize("foreach", [False, True])
def test_resting_entries_keep_their_bits_under_every_torch_optimizer(name, foreach):
    net = model()
    rests, before = masks(net), copy.deepcopy(net.state_dict())
    options = {"foreach": foreach}
    optimizer = OPTIMIZERS[name](net.parameters(), **{"lr": 0.05, **options})
    with attached(compose(Drift(), Rest(rests)), optimizer, net):
        for k in range(10):
            optimizer.zero_grad()
            net(torch.randn(5, 6, generator=dice(k))).square().sum().backward()
            optimizer.step()
    for n, p in net.named_parameters():
        assert torch.equal(bits(p)[rests[n]], bits(before[n])[rests[n]]), f"{name}: resting entries of {n} moved"
        assert (p.detach() != before[n])[~rests[n]].float().mean() > 0.9, f"{name}: nothing else moved in {n}"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", [(7, 9), (1 << 10, 700)])
def test_old_values_are_put_back_bit_for_bit(dtype, shape):
    new, old = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    old.view(-1)[:3] = torch.tensor([-0.0, float("nan"), float("inf")], dtype=dtype)
    rests = torch.rand(shape) < 0.5
    rests.view(-1)[:3] = True
    expected = torch.where(rests, old, new)
    select(*integers(new, old.clone(), rests))
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[new.element_size()]
    assert torch.equal(new.view(kind), expected.view(kind))


def test_a_mask_on_gradients_leaks_where_rest_does_not():
    """The mistake of published code: weight decay and momentum move what is masked."""
    net = model()
    rests, before = masks(net), copy.deepcopy(net.state_dict())
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=0.1)
    for k in range(5):
        optimizer.zero_grad()
        net(torch.randn(5, 6, generator=dice(k))).square().sum().backward()
        for n, p in net.named_parameters():
            p.grad[rests[n]] = 0.0
        optimizer.step()
    moved = [(p != before[n])[rests[n] & (before[n] != 0)].float().mean() for n, p in net.named_parameters()]
    assert min(moved) == 1.0


def test_copies_of_weights_in_the_optimizer_rest_too_and_unknown_ones_are_refused():
    class Slow(torch.optim.SGD):
        def __init__(self, params, key):
            super().__init__(params, lr=0.1)
            self.key = key

        def step(self, closure=None):
            super().step(closure)
            for group in self.param_groups:
                for p in group["params"]:
                    own = self.state[p].setdefault(self.key, p.detach().clone())
                    own.lerp_(p.detach(), 0.5)

    for key, refused in (("z", False), ("slow", True)):
        net = model()
        before = copy.deepcopy(net.state_dict())
        optimizer = Slow(net.parameters(), key)
        rule = Rest({"0.weight": torch.ones(8, 6, dtype=torch.bool)})

        def steps(net=net, optimizer=optimizer, rule=rule):
            with attached(rule, optimizer, net) as site:
                for _ in range(3):
                    optimizer.zero_grad()
                    net(torch.ones(2, 6)).square().sum().backward()
                    optimizer.step()
                return site.step

        if refused:
            with pytest.raises(RuntimeError, match=r"Slow keeps a copy of the weights in state\['slow'\]"):
                steps()
        else:
            assert steps() == 3, "an optimizer that calls super().step() counts once"
            assert torch.equal(optimizer.state[net[0].weight]["z"], before["0.weight"])


@pytest.mark.parametrize(
    "kind", [schedulefree.SGDScheduleFree, schedulefree.AdamWScheduleFree], ids=lambda k: k.__name__
)
def test_what_rests_keeps_its_bits_under_the_package_schedulefree_after_its_eval_too(kind):
    net = model()
    rests, before = masks(net), copy.deepcopy(net.state_dict())
    optimizer = kind(net.parameters(), lr=0.05, weight_decay=0.1)
    optimizer.train()
    with attached(compose(Drift(), Rest(rests)), optimizer, net):
        for k in range(10):
            optimizer.zero_grad()
            net(torch.randn(5, 6, generator=dice(k))).square().sum().backward()
            optimizer.step()
    for turn in (optimizer.eval, optimizer.train, optimizer.eval):
        turn()
        for n, p in net.named_parameters():
            assert torch.equal(bits(p)[rests[n]], bits(before[n])[rests[n]]), f"resting entries of {n} moved"
            assert (p.detach() != before[n])[~rests[n]].float().mean() > 0.9, f"nothing else moved in {n}"


def test_nothing_is_silently_unheard_or_attached_twice():
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with (
        pytest.raises(TypeError, match=r"EWC also speaks loss, end_stage.*use nacre\.Drive"),
        attached(EWC(), optimizer, net),
    ):
        pass
    with (
        attached(Rest("0"), optimizer, net),
        pytest.raises(TypeError, match="compose"),
        attached(Rest("2"), optimizer, net),
    ):
        pass
    with attached(Rest("0"), optimizer, net):  # the block before detached cleanly
        pass
    stranger = torch.optim.SGD(model().parameters(), lr=0.1)
    with pytest.raises(ValueError, match="does not name"), attached(Rest("0"), stranger, net):
        pass
    with pytest.raises(BadSetting, match="bool masks"), attached(Rest({"0.weight": torch.ones(8, 6)}), optimizer, net):
        net(torch.ones(1, 6)).sum().backward()
        optimizer.step()


def test_an_optimizer_is_left_as_it_was_even_after_an_error():
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(ZeroDivisionError), attached(Rest("0"), optimizer, net):
        raise ZeroDivisionError
    assert not optimizer._optimizer_step_pre_hooks and not optimizer._optimizer_step_post_hooks


def test_steps_that_take_no_effect_call_no_hook_and_scaled_gradients_are_refused():
    net = model()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, fused=True)
    net(torch.ones(1, 6)).sum().backward()
    with attached(compose(Drift(), Rest("0")), optimizer, net) as site:
        optimizer.found_inf = torch.tensor(1.0)
        optimizer.step()
        assert site.step == 0 and not site.took_effect
        optimizer.found_inf = torch.tensor(0.0)
        optimizer.step()
        assert site.step == 1
        optimizer.grad_scale = torch.tensor(4.0)
        with pytest.raises(RuntimeError, match="unscale_"):
            optimizer.step()


@pytest.mark.parametrize("optimizer", sorted(HARD))
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))), ids=str)
def test_what_mist_asks_to_rest_keeps_its_bits_beside_ewc_and_er_in_every_order(optimizer, order):
    mist = MIST(select=0.2, drop=0.5, objective_of="stage")
    parts = [mist, EWC(how="pull", strength=1e4, rows=8), ER(rows=4)]
    net, method = Net(), compose(*[parts[i] for i in order])
    options = {k: v for k, v in HARD[optimizer].items() if k != "lr"}
    make = MadeOptimizer(optimizer, HARD[optimizer]["lr"], [], options)
    for met in stream():
        grow(net, max(met.task.classes) + 1)
        before = {n: p.detach().clone() for n, p in net.named_parameters()}
        with Drive(method, net, make, met.task, augment=noise, seed=0) as drive:
            for batch in drive.batches(epoch=0, size=8):
                drive.optimizer.zero_grad()
                drive.loss(batch).backward()
                drive.optimizer.step()
                drive.stepped()
            chosen = {n: c.clone() for n, c in mist.chosen.items()}
        assert chosen and all(0 < c.float().mean() < 0.3 for c in chosen.values())
        now = dict(net.named_parameters())
        for n, c in chosen.items():
            assert torch.equal(bits(now[n])[~c], bits(before[n])[~c]), f"{n} moved off MIST's choice"
        assert any((now[n] != before[n]).any() for n in chosen), "MIST's choice did not move at all"


def test_batchnorm_features_do_not_change_where_all_weights_rest():
    for frozen in (True, False):
        net = Net(dropout=0.0)
        grow(net, 2)
        x = torch.randn(40, 8, generator=dice("probe"))
        features = net.eval()(x).features
        make = MadeOptimizer("sgd", 0.1, [], {"momentum": 0.9, "weight_decay": 0.01})
        with Drive(Rest("body"), net, make, stream()[0].task, seed=0, frozen_norms=frozen) as drive:
            for batch in drive.batches(epoch=0, size=8):
                net.train()  # as loops of others do before every step
                drive.optimizer.zero_grad()
                drive.loss(batch).backward()
                drive.optimizer.step()
                drive.stepped()
        same = torch.equal(net.eval()(x).features, features)
        assert same if frozen else not same, "the control must see statistics move"
