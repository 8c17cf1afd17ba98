"""EMA, LCIA, FastSlow: averages against closed forms, the paces that gradients set, and who answers."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from worlds import Net, noise, stream

from nacre.core.dice import dice
from nacre.core.drive import Drive
from nacre.core.errors import BadSetting
from nacre.core.method import Method, compose
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch, TensorRows
from nacre.core.stream import Task
from nacre.learner import Learner, Stage
from nacre.memory import Reservoir
from nacre.methods import EMA, ER, LCIA, FastSlow, SimpleCIL
from nacre.rules import Average, Rest
from nacre.schedules import schedule

SGD = MadeOptimizer("sgd", 0.05, [], {"momentum": 0.9})


def run(method, model, tasks: int = 1, make=SGD, each=lambda drive: None, size: int = 8) -> None:
    for met in stream()[:tasks]:
        with Drive(method, model, make, met.task, seed=0) as drive:
            for batch in drive.batches(0, size):
                drive.optimizer.zero_grad()
                drive.loss(batch).backward()
                drive.optimizer.step()
                drive.stepped()
                each(drive)


def copied(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t.detach().clone() for n, t in model.state_dict().items() if t.is_floating_point()}


# ------------------------------------------------------------------------------------------------------------------ EMA


@pytest.mark.parametrize("every", [1, 2])
def test_the_average_is_its_closed_form_over_the_weights_and_buffers_that_were_met(every):
    net, way = Net(dropout=0.0), []
    method = EMA(decay=0.7, every=every)
    with Drive(EMA(), net, SGD, stream()[0].task, seed=0):
        pass  # the head grows
    start = copied(net)
    run(method, net, each=lambda drive: way.append(copied(net)))
    met = way[every - 1 :: every]
    for n, mean in method.average.mean.items():
        expected = 0.7 ** len(met) * start[n]
        for k, w in enumerate(met):
            expected = expected + 0.3 * 0.7 ** (len(met) - 1 - k) * w[n]
        assert torch.allclose(mean, expected, atol=1e-6), n
    assert {"body.1.running_mean", "head.weight", "body.1.weight"} <= method.average.mean.keys()


def test_of_weights_that_rest_the_average_goes_the_rest_of_the_way_by_powers():
    layer, mean = nn.Linear(3, 2), Average()
    mean.meet(mean.live(layer))
    start = mean.mean["weight"].clone()
    with torch.no_grad():
        layer.weight.add_(1.0)
    for _ in range(20):
        mean.follow(mean.live(layer), 0.1)
    assert torch.allclose(layer.weight - mean.mean["weight"], torch.full((2, 3), 0.9**20), atol=1e-6)
    assert torch.equal(start + 1, layer.weight)


def test_answers_are_those_of_a_model_with_the_average_and_the_live_one_stays():
    who = Learner(Net(), (Stage(EMA(decay=0.8), SGD, batch_size=8, augment=noise),), seed=1)
    for met in who.learn(stream()):
        twin, method = copy.deepcopy(who.model).eval(), who.stages[0].method
        before = copied(who.model)
        twin.load_state_dict(method.average.mean, strict=False)
        batch = met.tests[f"task{met.task.index}"].take(torch.arange(20))
        assert torch.equal(who.predict(batch), twin(batch.x).logits)
        assert not torch.equal(who.predict(batch), who.model.eval()(batch.x).logits)
        assert all(torch.equal(t, before[n]) for n, t in copied(who.model).items())
        assert all(isinstance(p, nn.Parameter) and p.is_leaf for p in who.model.parameters())


def test_rows_of_a_head_that_grew_begin_at_their_own_values():
    net, method = Net(dropout=0.0), EMA(decay=0.9)
    for met in stream()[:2]:
        with Drive(method, net, SGD, met.task, seed=0) as drive:
            start = copied(net)["head.weight"]
            old = method.average.mean["head.weight"].clone()
            batch = next(drive.batches(0, 8))
            drive.loss(batch).backward()
            drive.optimizer.step()
            drive.stepped()
            expected = old + 0.1 * (copied(net)["head.weight"] - old)
            assert torch.allclose(method.average.mean["head.weight"], expected, atol=1e-7)
            assert torch.equal(old[-2:], start[-2:])
    assert method.average.mean["head.weight"].shape == (4, 16)


def test_with_replace_the_weights_become_the_average_and_what_rests_or_is_frozen_stays():
    net, method = Net(dropout=0.0), EMA(decay=0.6, use="replace")
    net.body[4].bias.requires_grad_(False)
    held = {}

    def note(drive) -> None:
        held.update({n: m.clone() for n, m in method.average.mean.items()}, live=net.head.weight.detach().clone())

    start = copied(net)
    run(compose(method, Rest(r"body\.0")), net, each=note)
    assert torch.equal(net.head.weight, held["head.weight"]) and not torch.equal(net.head.weight, held["live"])
    assert torch.equal(net.body[1].running_mean, held["body.1.running_mean"])
    for name in ("body.0.weight", "body.0.bias", "body.4.bias"):
        assert torch.equal(copied(net)[name], start[name])
    assert method.average.mean == {} and not method.overrides("predict")


class Tied(nn.Module):
    """One weight in two places, one module under two names, a tensor without entries, and a frozen one."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.b.weight = self.a.weight
        self.again = self.head
        self.empty = nn.Parameter(torch.zeros(0, 3))
        self.frozen = nn.Parameter(torch.ones(8), requires_grad=False)

    def forward(self, x):
        return self.again(self.b(self.a(x) * self.frozen))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tied_weights_are_lent_in_all_their_places_and_low_precision_has_its_average_in_full(dtype):
    net, method = Tied().to(dtype), EMA(decay=0.9)
    x = torch.randn(16, 8, generator=dice("tied")).to(dtype)
    with Drive(method, net, SGD, Task(0, TensorRows(x, torch.arange(16) % 2), (0, 1)), seed=0) as drive:
        for _ in range(3):
            drive.optimizer.zero_grad()
            drive.loss(next(drive.batches(0, 8))).backward()
            drive.optimizer.step()
            drive.stepped()
    mean = method.average.mean
    assert (
        {t.dtype for t in mean.values()} == {torch.float32} and "frozen" not in mean and mean["empty"].shape == (0, 3)
    )
    w = {n: t.to(dtype) for n, t in mean.items()}
    hidden = F.linear(F.linear(x, w["a.weight"], w["a.bias"]), w["a.weight"], w["b.bias"])
    expected = F.linear(hidden, w["head.weight"], w["head.bias"])
    assert torch.equal(method.predict(net, Batch(x, torch.zeros(16))), expected)
    assert net.b.weight is net.a.weight and isinstance(net.head.weight, nn.Parameter)
    assert not torch.equal(net(x), expected)


def test_an_average_that_answers_needs_the_last_word_alone():
    with pytest.raises(BadSetting, match="only one part may define predict"):
        compose(EMA(), SimpleCIL())
    compose(EMA(use="replace"), SimpleCIL())


# ----------------------------------------------------------------------------------------------------------------- LCIA


def state_of(form: str, mean, last, seen, move: float = 0.0) -> LCIA:
    method = LCIA(form=form)
    method.average.mean, method.seen = {"w": mean.clone()}, {"w": seen.clone()}
    method.last = {} if last is None else {"w": last.clone()}
    method.way = {"w": torch.tensor(move)} if move else {}
    return method


W, MEAN, G, BEFORE = (torch.randn(6, 5, generator=dice("lcia", k)) for k in range(4))


def test_the_published_pace_is_that_of_whole_tensors():
    w, mean = 40 * W, MEAN
    pace = state_of("published", mean, BEFORE, G).paces({"w": w})["w"]
    expected = 2 * (1 + G.abs().sum()) / ((w - mean).abs().sum() * (G - BEFORE).abs().sum())
    assert 0 < expected < 1 and pace.item() == pytest.approx(expected.item(), rel=1e-5)


@pytest.mark.parametrize("form", ["published", "scaled"])
def test_every_pace_lies_inside_0_and_1_whatever_the_sizes(form):
    found = []
    for k in range(200):
        sizes = 10 ** (8 * torch.rand(4, generator=dice("sizes", k)) - 4)
        mean, last, seen, w = (s * torch.randn(6, 5, generator=dice("pace", k, i)) for i, s in enumerate(sizes))
        found.append(state_of(form, mean, last, seen, 0.5).paces({"w": w})["w"].item())
    assert 0 < min(found) < max(found) < 1 and 20 < sum(pace == pytest.approx(0.01) for pace in found) < 180


@pytest.mark.parametrize("form", ["published", "scaled"])
@pytest.mark.parametrize(
    "case",
    {
        "the gradient stays the same": (MEAN, G, G, 40 * W),
        "the first step": (MEAN, None, G, 40 * W),
        "the weights are the average": (W, BEFORE, G, W),
        "a pace above 1": (MEAN, G + 1e-6, G, MEAN + 1e-6),
    }.items(),
    ids=lambda c: c[0],
)
def test_a_pace_outside_0_and_1_is_the_fallback(form, case):
    mean, last, seen, w = case[1]
    assert state_of(form, mean, last, seen, 0.5).paces({"w": w})["w"].item() == pytest.approx(0.01)


def test_the_scaled_pace_has_no_unit_and_does_not_know_how_a_layer_is_cut():
    def pace(form, loss=1.0, tiles=1):
        mean, last, seen, w = (t.repeat(tiles, 1) for t in (MEAN, loss * BEFORE, loss * G, 40 * W))
        return state_of(form, mean, last, seen, 2.0 * tiles).paces({"w": w})["w"].item()

    expected = 2 * G.abs().sum() * 2.0 / ((40 * W - MEAN).abs().sum() * (G - BEFORE).abs().sum())
    assert 0 < pace("scaled") < 1 and pace("scaled") == pytest.approx(expected.item(), rel=1e-5)
    assert pace("scaled", loss=100.0) == pytest.approx(pace("scaled"), rel=1e-4)
    assert pace("scaled", tiles=4) == pytest.approx(pace("scaled"), rel=1e-4)
    assert pace("published", tiles=4) < 0.5 * pace("published") and pace("published", loss=100.0) != pace("published")


@pytest.mark.parametrize("form", ["published", "scaled", "fixed"])
def test_a_whole_task_follows_a_plain_twin_and_ends_at_the_average(form):
    """Twin: one loop over the tensors, its own copies of weights and gradients."""
    net, method = Net(norm=False, dropout=0.0), LCIA(form=form, fallback=0.02)
    run(method, net, 1)
    first = copied(net)
    assert method.average.mean == {}, "the first task is not averaged"
    mean, last, way, w = {}, {}, {}, {}
    task = stream()[1].task
    with Drive(method, net, SGD, task, seed=0) as drive:
        w = {n: p.detach().clone() for n, p in net.named_parameters()}
        mean = dict(w)
        for k, batch in enumerate(drive.batches(0, 8)):
            drive.optimizer.zero_grad()
            drive.loss(batch).backward()
            g = {n: p.grad.clone() for n, p in net.named_parameters()}
            drive.optimizer.step()
            drive.stepped()
            for n, p in net.named_parameters():
                now, pace = p.detach().clone(), 0.02
                if k and form != "fixed":
                    a, b, c = (now - mean[n]).abs().sum(), g[n].abs().sum(), (g[n] - last[n]).abs().sum()
                    pace = 2 * (1 + b) / (a * c) if form == "published" else 2 * b * way[n] / (a * c)
                    pace = pace if 0 < pace < 1 else 0.02
                mean[n] = mean[n] + pace * (now - mean[n])
                way[n], w[n], last[n] = (now - w[n]).abs().sum(), now, g[n]
                assert torch.allclose(method.average.mean[n], mean[n], atol=2e-6), (k, n)
        live = copied(net)
    assert all(torch.allclose(copied(net)[n], mean[n], atol=2e-6) for n in mean)
    assert any(not torch.allclose(live[n], mean[n], atol=1e-4) for n in mean), "it ends where it trained"
    assert not torch.equal(first["body.0.weight"], net.body[0].weight) and method.last == {}


def test_a_pace_of_1_is_fine_tuning_bit_for_bit_and_of_0_stays_where_it_was():
    ends = {}
    for name, method in {"plain": Method(), "all": LCIA("fixed", 1.0), "none": LCIA("fixed", 0.0, first=True)}.items():
        net = Net(dropout=0.0)
        run(method, net, 2)
        ends[name] = copied(net)
    assert all(torch.equal(t, ends["plain"][n]) for n, t in ends["all"].items())
    assert torch.equal(ends["none"]["body.0.weight"], Net(dropout=0.0).body[0].weight)


# ------------------------------------------------------------------------------------------------------------- FastSlow


def test_slow_weights_that_go_the_whole_way_are_the_fast_ones_and_those_that_do_not_go_stay():
    for tau in (1.0, 0.0):
        net, method = Net(dropout=0.0), FastSlow(tau=tau, strength=0.0, rows=8)
        with Drive(FastSlow(rows=8), net, SGD, stream()[0].task, seed=0):
            pass
        start = copied(net)
        run(method, net)
        expected = copied(net) if tau else start
        assert all(torch.equal(m, expected[n]) for n, m in method.slow.mean.items())
        assert not torch.equal(net.head.weight, start["head.weight"])


@pytest.mark.parametrize("every", [1, 2])
def test_slow_weights_go_their_share_of_the_way_every_so_many_steps(every):
    net, method, way, seen = Net(dropout=0.0), FastSlow(tau=0.3, every=every, strength=0.0, rows=8), [], []
    with Drive(FastSlow(rows=8), net, SGD, stream()[0].task, seed=0):
        pass
    expected = copied(net)["body.0.weight"]

    def note(drive) -> None:
        way.append(copied(net)["body.0.weight"])
        seen.append(method.slow.mean["body.0.weight"].clone())

    run(method, net, each=note)
    for k, (w, mean) in enumerate(zip(way, seen, strict=True)):
        if (k + 1) % every == 0:
            expected = expected + 0.3 * (w - expected)
        assert torch.allclose(mean, expected, atol=1e-6), k
    assert len(way) == 5 and not torch.allclose(seen[-1], way[-1], atol=1e-3)


def test_a_task_starts_from_the_slow_weights_and_new_rows_as_they_are():
    net, method = Net(dropout=0.0), FastSlow(tau=0.2, rows=8)
    run(method, net)
    fast, slow = copied(net), {n: t.clone() for n, t in method.slow.mean.items()}
    assert torch.equal(method.anchor["head.weight"], fast["head.weight"])
    with Drive(method, net, SGD, stream()[1].task, seed=0):
        now = copied(net)
        assert torch.equal(now["head.weight"][:2], slow["head.weight"]) and torch.equal(
            now["body.0.weight"], slow["body.0.weight"]
        )
        assert not torch.equal(now["body.0.weight"], fast["body.0.weight"])
        assert torch.equal(method.slow.mean["head.weight"], now["head.weight"])
        then = method.importance["body.0.weight"].clone()
    assert (method.importance["body.0.weight"] >= then).all() and method.importance["head.weight"].shape == (4, 16)


def test_the_fixed_point_lies_between_the_task_and_the_anchor():
    """(h w* + lambda Omega a) / (h + lambda Omega) on a quadratic with curvature h."""
    h, goal, omega, anchor, strength = 2.0, 3.0, 0.7, -1.0, 1.5

    class Bowl(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.tensor([[0.0]]))

        def forward(self, x):
            return (h / 2) ** 0.5 * (self.w - goal).expand(len(x), 1)

    net, method = Bowl(), FastSlow(tau=0.5, strength=strength)
    method.importance, method.anchor = {"w": torch.tensor([[omega]])}, {"w": torch.tensor([[anchor]])}
    task = Task(0, TensorRows(torch.zeros(2, 1), torch.zeros(2, 1)))
    with Drive(method, net, MadeOptimizer("sgd", 0.1), task, seed=0) as drive:
        for k in range(200):
            drive.optimizer.zero_grad()
            drive.loss(next(drive.batches(k, 2))).backward()
            drive.optimizer.step()
            drive.stepped()
        expected = (h * goal + strength * omega * anchor) / (h + strength * omega)
        assert net.w.item() == pytest.approx(expected, abs=1e-4)
        assert method.slow.mean["w"].item() == pytest.approx(expected, abs=1e-4)


def test_important_entries_follow_more_slowly():
    net, method = Net(norm=False, dropout=0.0), FastSlow(tau=0.4, strength=0.0, plastic=True, rows=8)
    run(method, net)
    with Drive(method, net, SGD, stream()[1].task, seed=0) as drive:
        before = {n: t.clone() for n, t in method.slow.mean.items()}
        drive.loss(next(drive.batches(0, 8))).backward()
        drive.optimizer.step()
        drive.stepped()
        for n, p in net.named_parameters():
            omega = torch.zeros_like(p)
            omega[: len(method.importance[n])] = method.importance[n]
            expected = before[n] + 0.4 / (1 + omega) * (p.detach() - before[n])
            assert torch.allclose(method.slow.mean[n], expected, atol=1e-6), n
        assert method.importance["head.weight"].max() > 0.1


def test_who_answers():
    met, scores = stream()[0], {}
    batch = met.tests["task0"].take(torch.arange(30))
    for answers in ("slow", "fast", "means"):
        who = Learner(Net(dropout=0.0), (Stage(FastSlow(tau=0.3, answers=answers, rows=8), SGD, batch_size=8),), seed=1)
        next(who.learn(stream()))
        scores[answers], method = who.predict(batch), who.stages[0].method
        slow = copy.deepcopy(who.model).eval()
        slow.load_state_dict(method.slow.mean, strict=False)
        if answers == "fast":
            expected = who.model.eval()(batch.x).logits
        elif answers == "slow":
            expected = slow(batch.x).logits
        else:
            train = met.task.train.take(torch.arange(40))
            z = slow(train.x).features.double()
            means = torch.stack([z[train.y == c].mean(0) for c in (0, 1)])
            expected = F.cosine_similarity(slow(batch.x).features.double()[:, None], means[None], dim=2)
            assert method.stale(who.model) == [] and torch.allclose(scores[answers], expected)
            with torch.no_grad():
                method.slow.mean["body.0.weight"].add_(1.0)
            assert method.stale(who.model) == [0]
            continue
        assert torch.equal(scores[answers], expected)
    assert not torch.equal(scores["slow"], scores["fast"])


# ------------------------------------------------------------------------------------------------------------- together


@pytest.mark.parametrize(
    "part",
    [EMA(decay=0.9), EMA(decay=0.9, use="replace"), LCIA(form="scaled"), FastSlow(tau=0.1, rows=8, plastic=True)],
    ids=lambda p: type(p).__name__,
)
def test_they_go_with_replay_rest_and_a_schedule(part):
    ends = []
    for parts in ((part,), ()):
        whole = compose(*parts, ER(rows=8, memory=Reservoir(capacity=20)), Rest(r"body\.0"))
        falls = schedule("cosine", warmup=2)
        stage = Stage(whole, SGD, epochs=3, batch_size=8, accumulate=2, clip=1.0, augment=noise, schedule=falls)
        who = Learner(Net(dropout=0.0), (stage,), seed=1)
        start = who.model.body[0].weight.detach().clone()
        list(who.learn(stream()))
        batch = stream()[0].tests["task0"].take(torch.arange(100))
        ends.append(who.predict(batch))
        assert torch.equal(who.model.body[0].weight, start)
    assert ends[0].isfinite().all() and not torch.allclose(*ends, atol=1e-3)
