"""ECO: the exact form goes the way of master weights, the published one stays near it, and what it does to the momentum."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from worlds import Net, stream

from nacre.core.dice import dice, uniform
from nacre.core.drive import Drive
from nacre.core.errors import BadSetting
from nacre.core.method import Method, compose
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import TensorRows
from nacre.core.rule import attached
from nacre.core.stream import Task
from nacre.learner import Learner, Stage
from nacre.memory import Reservoir
from nacre.methods import ECO, ER
from nacre.rules import Quantise, Rest, quantised
from nacre.schedules import schedule

CURVE = 0.3 + torch.rand(50, 1, generator=dice("curve"), dtype=torch.float64)
GOAL = 1.5 * torch.randn(50, 1, generator=dice("goal"), dtype=torch.float64)
START = torch.randn(50, 1, generator=dice("start"), dtype=torch.float64)


class Bowl(nn.Module):
    """Half the sum of CURVE (w - GOAL)^2, whatever the rows."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(START.clone())

    def forward(self, x):
        return (CURVE / 2).sqrt().T * (self.w - GOAL).T.expand(len(x), 50)


class Summed(Method):
    def objective(self, model, batch, out):
        return out.competing.square().sum(1).mean()


def slope(w: torch.Tensor) -> torch.Tensor:
    return CURVE * (w - GOAL)


def bowl(method, make, steps: int = 20, rate=lambda k: 1.0, each=lambda drive: None) -> list[torch.Tensor]:
    net, way = Bowl(), []
    task = Task(0, TensorRows(torch.zeros(2, 1), torch.zeros(2, 50, dtype=torch.float64)))
    with Drive(compose(Summed(), method), net, make, task) as drive:
        peaks = [group["lr"] for group in drive.optimizer.param_groups]
        for k in range(steps):
            for group, peak in zip(drive.optimizer.param_groups, peaks, strict=True):
                group["lr"] = peak * rate(k)
            batch = next(drive.batches(0, 2))
            drive.optimizer.zero_grad()
            drive.loss(batch).backward()
            drive.optimizer.step()
            drive.stepped()
            each(drive)
            way.append(net.w.detach().clone())
    return way


OPTIMIZERS = {
    "sgd": MadeOptimizer("sgd", 0.1, [], {"momentum": 0.9}),
    "sgd-decay-dampening": MadeOptimizer("sgd", 0.1, [], {"momentum": 0.8, "weight_decay": 0.1, "dampening": 0.3}),
    "nesterov": MadeOptimizer("sgd", 0.1, [], {"momentum": 0.9, "nesterov": True}),
    "adam": MadeOptimizer("adam", 0.05, [], {"weight_decay": 0.1}),
    "amsgrad": MadeOptimizer("adam", 0.05, [], {"amsgrad": True}),
    "adamw": MadeOptimizer("adamw", 0.05, [], {"weight_decay": 0.5}),
}


@pytest.mark.parametrize("store", ["grid", "int8", "fp16"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_exact_form_goes_the_way_of_master_weights(name, store):
    """Twin: torch's optimizer on master weights, with gradients (coupled decay too) taken at what the store holds."""
    made, rate = OPTIMIZERS[name], lambda k: 1.0 - k / 60
    found = bowl(ECO(store=store, form="exact"), made, rate=rate)
    coupled = 0.0 if made.name == "adamw" else made.options.get("weight_decay", 0.0)
    master, held = nn.Parameter(START.clone()), START.clone()
    own = made({"w": master})
    for group in own.param_groups:
        group["weight_decay"] -= coupled
    for k, w in enumerate(found):
        own.param_groups[0]["lr"] = made.lr * rate(k)
        master.grad = slope(held) + coupled * held
        own.step()
        held = quantised(master.detach(), store)
        assert (held - w).abs().max() < 1e-9, (k, "the store holds something else")
    assert (master.detach() - held).abs().max() > 1e-6, "nothing was rounded"


def test_the_exact_form_is_that_of_the_card_which_corrects_the_momentum():
    """The momentum m <- m + e_k / lr - e_{k+1} / (lr mu) by hand, in torch's convention m <- mu m + g."""
    found = bowl(ECO(store="grid", form="exact"), OPTIMIZERS["sgd"])
    w, m, e = START.clone(), None, torch.zeros_like(START)
    for seen in found:
        m = slope(w) if m is None else 0.9 * m + slope(w)
        wanted = w - 0.1 * m
        w = quantised(wanted, "grid")
        m, e = m + e / 0.1 - (wanted - w) / (0.1 * 0.9), wanted - w
        assert torch.equal(w, seen)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_published_form_corrects_the_momentum_by_its_formula(name):
    made, held = OPTIMIZERS[name], []
    key = "momentum_buffer" if made.name == "sgd" else "exp_avg"

    class Before(Quantise):
        """Sees what the optimizer made."""

        def shape_weights(self, new, old, site):
            own = site.optimizer.state[site.params["w"]]
            held.append({"w": new["w"].clone(), **{k: v.clone() for k, v in own.items()}})
            return new

    def check(drive) -> None:
        was, own = held[-1], drive.optimizer.state[drive.site.params["w"]]
        e, group = was["w"] - drive.site.params["w"].detach(), drive.optimizer.param_groups[0]
        if made.name == "sgd":
            mu = group["momentum"]
            give = (1 - 1 / mu) * e / (group["lr"] * (mu if group["nesterov"] else 1))
        else:
            second = was["max_exp_avg_sq"] if group["amsgrad"] else was["exp_avg_sq"]
            step = was["step"].item()
            root = (second / (1 - 0.999**step)).sqrt() + 1e-8
            stays = 1 - group["lr"] * 0.5 if made.name == "adamw" else 1.0
            give = stays * (1 - 0.9**step) / group["lr"] * root * (1 - 1 / 0.9) * e
        assert e.abs().max() > 0.01 and torch.allclose(own[key], was[key] + give, rtol=1e-9, atol=1e-12)

    bowl(compose(Before(), ECO(store="grid")), made, 5, lambda k: 1 - 0.1 * k, check)


@pytest.mark.parametrize("name", ["sgd", "adam"])
def test_moves_too_small_for_the_grid_are_lost_by_rounding_and_not_by_the_published_form(name):
    made, ends = OPTIMIZERS[name], {}
    made = MadeOptimizer(made.name, 0.008, [], made.options)
    for kind, part in (("plain", Quantise("none")), ("naive", Quantise("grid")), ("eco", ECO(store="grid"))):
        way = bowl(part, made, 300)
        ends[kind] = torch.stack([(CURVE / 2 * (w - GOAL) ** 2).sum() for w in way[-50:]]).mean().item()
    assert ends["naive"] > 5 * ends["plain"]
    assert ends["eco"] - ends["plain"] < 0.05 * (ends["naive"] - ends["plain"]), ends


def test_the_two_forms_differ_by_no_more_than_the_change_of_the_error():
    """The exact momentum less the published one is (e_k - e_{k+1}) / lr, where both come from the same weights."""
    net, way = Bowl(), []
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    with attached(ECO(store="grid"), optimizer, net):
        before = torch.zeros_like(START)
        for _ in range(10):
            was = optimizer.state[net.w].get("momentum_buffer")
            made = slope(net.w.detach()) + (0.9 * was if was is not None else 0)
            wanted = net.w.detach() - 0.1 * made
            net.w.grad = slope(net.w.detach())
            optimizer.step()
            e = wanted - net.w.detach()
            exact = made + before / 0.1 - e / (0.1 * 0.9)
            way.append((exact - optimizer.state[net.w]["momentum_buffer"] - (before - e) / 0.1).abs().max().item())
            before = e
    assert max(way) < 1e-12


def test_a_first_step_at_a_rate_near_nothing_makes_no_leap():
    """The weights do not lie on the grid yet: the first error is large, whatever the rate."""
    made, far = OPTIMIZERS["sgd"], {}
    for floor in (0.0, 0.01):
        way = bowl(ECO(store="grid", floor=floor), lambda p: peaked(made(p)), 12, lambda k: 1e-9 if k == 0 else 1.0)
        far[floor] = max((w - GOAL).abs().max().item() for w in way)
    assert far[0.01] < 20 < 1e4 < far[0.0], far
    assert all(w.isfinite().all() for w in bowl(ECO(store="grid"), made, 6, lambda k: 0.0))


def peaked(optimizer):
    """As a schedule leaves it: with its peak rate noted."""
    optimizer.param_groups[0]["initial_lr"] = optimizer.param_groups[0]["lr"]
    return optimizer


@pytest.mark.parametrize(("store", "kind"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_the_nearest_value_of_a_type_is_that_of_a_cast(store, kind):
    w = torch.cat([torch.randn(4000, generator=dice(store)) * 10.0**k for k in (-7, -4, 0, 3)])
    w = torch.cat([w, torch.tensor([0.0, 1.0, 1.00390625, 65504.0, -2.0, 6e-8])])
    assert torch.equal(quantised(w, store), w.to(kind).float())


@pytest.mark.parametrize("store", ["bf16", "fp16", "int8", "int4", "grid"])
def test_chance_rounds_to_one_of_the_two_neighbours_and_loses_nothing_in_the_mean(store):
    w = torch.randn(20, generator=dice("chance"))
    draws = [quantised(w, store, 0.1, uniform(20, "cpu", 1, k)) for k in range(2000)]
    seen = torch.stack(draws)
    width = (seen.max(0).values - seen.min(0).values).clamp_min(1e-6)
    assert ((seen.mean(0) - w).abs() < 0.06 * width + 1e-6).all(), "4 standard errors are 0.045 of the spacing"
    assert all(len(seen[:, k].unique()) <= 2 for k in range(20))
    assert (seen.min(0).values <= w + 1e-6).all() and (seen.max(0).values >= w - 1e-6).all()


def test_the_values_of_the_integer_stores():
    w = torch.randn(3, 40, generator=dice("ints"))
    for store, levels in (("int8", 127), ("int4", 7)):
        held = quantised(w, store) / (w.abs().max() / levels)
        assert (held - held.round()).abs().max() < 1e-4 and held.round().abs().max() == levels
        assert (quantised(w, store) - w).abs().max() <= 0.5001 * w.abs().max() / levels
    assert (quantised(torch.zeros(2, 2), "int8") == 0).all() and quantised(torch.zeros(0, 2), "int8").shape == (0, 2)


def test_it_refuses_what_it_does_not_know_and_says_the_cure():
    with pytest.raises(BadSetting, match="RMSprop is: take one of these, or the rule Quantise"):
        bowl(ECO(store="grid"), MadeOptimizer("rmsprop", 0.1), 1)
    with pytest.raises(BadSetting, match="momentum = 0 for w: set it"):
        bowl(ECO(store="grid"), MadeOptimizer("sgd", 0.1), 1)
    with pytest.raises(BadSetting, match=r"betas\[0\] = 0"):
        bowl(ECO(store="grid"), MadeOptimizer("adam", 0.1, [], {"betas": (0.0, 0.9)}), 1)
    bowl(ECO(store="grid", form="exact"), MadeOptimizer("sgd", 0.1), 1)
    bowl(ECO(store="none"), MadeOptimizer("rmsprop", 0.1), 1)


@pytest.mark.parametrize("form", ["published", "exact"])
def test_heads_grow_vectors_and_what_rests_stay_and_it_goes_with_replay(form):
    part = ECO(store="int8", form=form)
    whole = compose(part, ER(rows=8, memory=Reservoir(capacity=20)), Rest(r"body\.4"))
    made = MadeOptimizer("adamw", 0.01, [], {"weight_decay": 0.05})
    stage = Stage(whole, made, batch_size=8, accumulate=2, clip=1.0, schedule=schedule("cosine", warmup=2))
    who = Learner(Net(), (stage,), seed=1)
    start = who.model.body[4].weight.detach().clone()
    list(who.learn(stream()))
    for name, p in who.model.named_parameters():
        assert p.isfinite().all()
        off = (p.detach() / (p.detach().abs().max() / 127) + 0.5).remainder(1).sub(0.5).abs().max()
        if name in ("body.0.weight", "head.weight"):
            assert off < 1e-3, name
        elif name in ("body.0.bias", "body.1.weight"):
            assert off > 1e-3, name
    assert torch.equal(who.model.body[4].weight, start)
    assert ("head.weight" in part.error) is (form == "exact")
    assert all(e.dtype == torch.float32 for e in part.error.values())


def test_low_precision_weights_keep_their_error_in_full_precision():
    part = ECO(store="grid", form="exact", step=0.5)
    net = nn.Linear(4, 3).bfloat16()
    task = Task(0, TensorRows(torch.randn(6, 4, generator=dice("low")).bfloat16(), torch.arange(6) % 3))
    with Drive(part, net, MadeOptimizer("sgd", 0.1, [], {"momentum": 0.9}), task) as drive:
        for batch in drive.batches(0, 3):
            drive.optimizer.zero_grad()
            drive.loss(batch).backward()
            drive.optimizer.step()
            drive.stepped()
    assert part.error["weight"].dtype == torch.float32 and (net.weight * 2 == (net.weight * 2).round()).all()


def test_a_weight_without_a_gradient_keeps_its_value_and_its_error():
    part, net = ECO(store="grid", form="exact"), nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3))
    task = Task(0, TensorRows(torch.randn(6, 4, generator=dice("none")), torch.arange(6) % 3))
    made = MadeOptimizer("adamw", 0.01, [], {"weight_decay": 0.5})
    with Drive(part, net, made, task) as drive:
        for k, batch in enumerate(drive.batches(0, 2)):
            drive.optimizer.zero_grad()
            drive.loss(batch).backward()
            if k:
                net[0].weight.grad = None
            before = net[0].weight.detach().clone(), {n: e.clone() for n, e in part.error.items()}
            drive.optimizer.step()
            drive.stepped()
            if k:
                assert torch.equal(net[0].weight, before[0])
                assert torch.equal(part.error["0.weight"], before[1]["0.weight"])
                assert not torch.equal(part.error["1.weight"], before[1]["1.weight"])


def test_what_has_no_gradient_is_not_rounded():
    net = nn.ModuleDict({"used": nn.Linear(3, 2), "idle": nn.Linear(3, 2)})
    before, made = net["idle"].weight.detach().clone(), torch.optim.SGD(net.parameters(), lr=0.1)
    with attached(Quantise("int4"), made, net):
        net["used"](torch.ones(1, 3)).sum().backward()
        made.step()
    assert torch.equal(net["idle"].weight, before)
    assert torch.equal(net["used"].weight, quantised(net["used"].weight.detach(), "int4"))
