"""OSFT: starts at the answers of before, and no optimizer moves what is protected; the published form does."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from worlds import Answer, Net, Past, rows, steps, stream

from nacre.adapters import decomposed, describe, effective, merge_osf, put_in_osf
from nacre.core.drive import Drive
from nacre.core.method import Method, compose
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch
from nacre.core.stream import Task
from nacre.heads import GrowingLinear
from nacre.importance import turned_least
from nacre.learner import Learner, Listener, Stage
from nacre.methods import MIST, OSFT, RLRR
from nacre.metrics import Motion, score
from nacre.rules import Rest

ADAMW = MadeOptimizer("adamw", 0.02, [], {"weight_decay": 0.1})
SGD = MadeOptimizer("sgd", 0.05, [], {"momentum": 0.9, "weight_decay": 0.01})
NAMES = ("body.0", "body.4")


def run(method: Method, made: MadeOptimizer = ADAMW, epochs: int = 10, look=None, net: nn.Module | None = None, **how):
    """A model after one task, and what of its weights was protected."""
    net = net or Net(dropout=0.0)
    with Drive(method, net, made, stream()[0].task, seed=0, **how) as drive:
        splits = getattr(method, "splits", {})
        steps(drive, epochs)
        if look is not None:
            look(drive)
    return net, splits


def leaks(net: nn.Module, splits) -> list[float]:
    """The shares of each layer's change that lie in its protected directions, left and right."""
    first, found = Net(dropout=0.0), []
    for name, cut in splits.items():
        move = (net.get_submodule(name).weight - first.get_submodule(name).weight).detach()
        assert move.norm() > 0.5, "it trains"
        found += [
            float((cut["U_high"].T @ move).norm() / move.norm()),
            float((move @ cut["V_high"].T).norm() / move.norm()),
        ]
    assert len(found) == 2 * len(splits) == 4
    return found


@pytest.mark.parametrize(("out", "width"), [(6, 4), (4, 6), (5, 5)])
def test_factors_start_at_the_answers_of_before_and_are_those_of_peft(out, width):
    peft = pytest.importorskip("peft")
    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(width, out)), torch.randn(7, width)
    answer, weight = net(x), net[0].weight
    twin = peft.inject_adapter_in_model(peft.OSFConfig(target_modules=["0"], effective_rank=2), nn.Sequential(net[0]))
    cut = decomposed(weight, 2)
    put_in_osf(net, {"0": cut})
    torch.testing.assert_close(net(x), answer)
    assert [n for n, _ in net.named_buffers()] == [n.replace("default", "nacre_osft") for n, _ in twin.named_buffers()]
    for mine, theirs in zip(net.buffers(), twin.buffers(), strict=True):
        torch.testing.assert_close(mine, theirs)
    s = torch.linalg.svdvals(weight.detach())[:2]
    torch.testing.assert_close(
        cut["U_high"] * s @ cut["V_high"] + cut["U_low"] * cut["S_low"] @ cut["V_low"], weight.detach()
    )
    merge_osf(net)
    assert type(net[0]) is nn.Linear and net[0].weight is weight


@pytest.mark.parametrize("form", ["factors", "weights"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("made", [ADAMW, SGD], ids=["AdamW", "SGD"])
def test_nothing_moves_in_protected_directions(form, made, precision):
    assert max(leaks(*run(OSFT(form=form), made, precision=precision))) < 1e-5


@pytest.mark.parametrize("form", ["factors", "weights"])
def test_the_published_form_leaks(form):
    assert min(leaks(*run(OSFT(form=form, where="grads")))) > 0.05


@pytest.mark.parametrize("form", ["factors", "weights"])
def test_without_decay_and_scaling_by_entries_the_published_form_does_not_leak(form):
    plain = MadeOptimizer("sgd", 0.05, [], {"momentum": 0.9})
    assert max(leaks(*run(OSFT(form=form, where="grads"), plain))) < 1e-5


def test_the_largest_singular_triplets_stay():
    net = Net(dropout=0.0)
    with torch.no_grad():
        for name in NAMES:
            layer = net.get_submodule(name)
            u, s, v = torch.linalg.svd(layer.weight, full_matrices=False)
            s[: len(s) // 2] += 20.0  # far above what training makes of the rest
            layer.weight.copy_(u * s @ v)
    before = {name: net.get_submodule(name).weight.detach().clone() for name in NAMES}
    run(OSFT(), net=net)
    for name, weight in before.items():
        k = min(weight.shape) // 2
        (u, s, v), now = torch.linalg.svd(weight, full_matrices=False), net.get_submodule(name).weight.detach()
        other = torch.linalg.svdvals(now)
        torch.testing.assert_close(other[:k], s[:k])
        torch.testing.assert_close(now @ v[:k].T, u[:, :k] * s[:k], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(u[:, :k].T @ now, s[:k, None] * v[:k], atol=1e-4, rtol=1e-4)
        assert not torch.allclose(other[k:], s[k:], rtol=1e-2)


@pytest.mark.parametrize("form", ["factors", "weights"])
def test_where_all_is_protected_nothing_but_the_head_moves(form):
    net, splits = run(OSFT(rank=1.0, form=form))
    first = dict(Net(dropout=0.0).named_parameters())
    assert not splits
    moved = {n for n, p in net.named_parameters() if len(first[n]) != len(p) or not torch.equal(first[n], p)}
    assert moved == {"head.weight", "head.bias"}


def test_what_trains_and_what_is_left_of_it():
    def look(drive):
        now, motion = effective(drive.model), Motion()
        motion.begin(first)
        assert describe(drive.model) is None, "none that a model that is saved would have"
        assert now.keys() == first.keys() and motion.since(now)["body.0.weight"]["moved"] > 0.9
        seen.update(names=set(drive.site.params), answer=drive.model.body(x).detach(), weight=now["body.0.weight"])

    first, seen, x = Net(dropout=0.0), {}, torch.randn(5, 8)
    first.head.grow(2)
    first = {n: t.clone() for n, t in first.state_dict().items()}
    net, _ = run(OSFT(), look=look)
    factors = {f"{name}.osf_svd_params.nacre_osft.{leaf}" for name in NAMES for leaf in ("U_low", "S_low", "V_low")}
    assert seen["names"] == factors | {"head.weight", "head.bias"}
    assert net.state_dict().keys() == first.keys() and [type(m) for m in net.body] == [type(m) for m in Net().body]
    assert all(p.requires_grad for p in net.parameters()) and torch.equal(net.body[0].weight, seen["weight"])
    with torch.no_grad():
        torch.testing.assert_close(net.eval().body(x), seen["answer"], atol=1e-4, rtol=1e-4)
    run(OSFT(form="weights", others="train"), look=lambda d: seen.update(names=set(d.site.params)))
    assert seen["names"] == {n for n, _ in net.named_parameters()}


class Turning(nn.Module):
    """A layer that answers with its input, one that turns it by 60 degrees, and one that is narrower."""

    def __init__(self) -> None:
        super().__init__()
        self.same, self.turn, self.narrow = (
            nn.Linear(20, 20, bias=False),
            nn.Linear(20, 20, bias=False),
            nn.Linear(20, 10),
        )
        self.head = GrowingLinear(10)
        with torch.no_grad():
            self.same.weight.copy_(torch.eye(20))
            c, s = 0.5, math.sqrt(0.75)
            self.turn.weight.copy_(torch.block_diag(*[torch.tensor([[c, -s], [s, c]])] * 10))

    def forward(self, x: torch.Tensor) -> Answer:
        z = self.narrow(self.turn(self.same(torch.cat([x, x, x], 1)[:, :20])))
        return Answer(self.head(z), z)


@pytest.mark.parametrize("count", [None, 3])
def test_important_layers_protect_more(count):
    method = OSFT(rank=0.5, least=0.1, by="importance", batch=4, rows=count)
    method.begin_stage(Turning(), Task(0, rows((0, 1), 5, "turning")))
    kept = {name: cut["U_high"].shape[1] for name, cut in method.splits.items()}
    # cosines 1 and 0.5, mean 0.75: I = 4/3 and 2/3, r = 0.1 + 0.4 I = 0.633 and 0.367 of 20; no cosine: 0.5 of 10
    assert kept == {"same": 12, "turn": 7, "narrow": 5}


def test_a_budget_protects_a_tasks_part_more_at_each_task():
    method, net, kept = OSFT(budget=4), Turning(), []
    for met in stream(splits=((0,), (1,), (2,), (3,), (4,))):
        method.begin_stage(net, met.task)  # of a stage that fails
        method.begin_stage(net, met.task)
        kept.append([cut["U_high"].shape[1] for cut in method.splits.values()])
        method.end_stage(net, met.task)
    assert kept == [[], [5, 5, 2], [10, 10, 5], [15, 15, 7], [15, 15, 7]]


@pytest.mark.parametrize("form", ["factors", "weights"])
def test_each_task_decomposes_what_the_last_one_left_and_learns(form):
    method = OSFT(rank=0.25, form=form)
    learner = Learner(Net(dropout=0.0), (Stage(method, ADAMW, batch_size=8, epochs=6),))
    left, cuts = [learner.model.body[0].weight.detach().clone()], []
    begin = method.begin_stage
    method.begin_stage = lambda model, task: (begin(model, task), cuts.append(method.splits["body.0"]))[0]
    for i, met in enumerate(learner.learn(stream())):
        left.append(learner.model.body[0].weight.detach().clone())
        assert score(learner.predict, met.tests[f"task{i}"]) > 0.7
        assert torch.equal(cuts[i]["V_high"], decomposed(left[i], 2)["V_high"])
        torch.testing.assert_close(
            left[i + 1] @ cuts[i]["V_high"].T, left[i] @ cuts[i]["V_high"].T, atol=1e-5, rtol=1e-4
        )
    assert not torch.allclose(cuts[0]["V_high"], cuts[1]["V_high"], atol=1e-2)


def test_a_resumed_stage_holds_the_same_bits_whatever_the_weights_were():
    method, net = OSFT(), Net(dropout=0.0)
    method.begin_stage(net, stream()[0].task)
    method.prepare(net)
    other, twin = OSFT(), Net(dropout=0.0, seed=1)
    other.load_state_dict(method.state_dict())
    for _ in range(2):
        other.prepare(twin)
    for (n, mine), (m, theirs) in zip(net.named_buffers(), twin.named_buffers(), strict=True):
        assert n == m and ("osf" not in n or torch.equal(mine, theirs))
    twin.load_state_dict(net.state_dict())
    x = torch.randn(5, 8)
    assert torch.equal(net.eval().body(x), twin.eval().body(x))
    assert [p.requires_grad for p in net.parameters()] == [p.requires_grad for p in twin.parameters()]


@pytest.mark.parametrize(("method", "said"), [(OSFT(), [True]), (OSFT(form="weights"), []), (RLRR(), [True])])
def test_a_fused_path_answers_with_what_trains(method, said, caplog):
    def look(drive):
        model = drive.model.eval()
        slow = model(x).logits.detach()
        with torch.no_grad():
            torch.testing.assert_close(model(x).logits, slow, atol=1e-4, rtol=1e-4)
        seen.update(drive.site.params)

    x, seen = torch.randn(5, 8), {}
    net = Past(fused=True)
    run(method, look=look, net=net)
    assert any(n.startswith("a.") for n in seen) and not net.a.weight.equal(Past(fused=True).a.weight)
    assert ["encoder.linear1" in r.message for r in caplog.records] == said


@pytest.mark.parametrize("form", ["factors", "weights"])
def test_a_weight_that_is_read_past_its_layer_trains_and_is_protected(form, caplog):
    net, splits = run(OSFT(form=form), net=Past())
    first = Past()
    assert splits.keys() == {"a", "b"}
    for name, cut in splits.items():
        move = (net.get_submodule(name).weight - first.get_submodule(name).weight).detach()
        assert move.norm() > 0.5
        assert (cut["U_high"].T @ move).norm() < 1e-5 * move.norm() > (move @ cut["V_high"].T).norm()
    assert ["that of b" in r.message for r in caplog.records] == [True] * (form == "factors")


class Reading(nn.Module):
    """A layer over positions of which a mask tells the real ones."""

    def __init__(self) -> None:
        super().__init__()
        self.turn, self.same, self.head = nn.Linear(6, 6), nn.Linear(6, 6), GrowingLinear(6)
        with torch.no_grad():
            self.same.weight.copy_(torch.eye(6))

    def forward(self, x: torch.Tensor, attention_mask: torch.Tensor) -> Answer:
        z = self.turn(self.same(x))
        z = (z * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)
        return Answer(self.head(z), z)


class Sentences:
    """Rows of like content whose padding goes by the longest row of a batch."""

    columns = ("x", "attention_mask")

    def __init__(self) -> None:
        self.lengths, self.x = torch.tensor([1, 9, 2, 3]), torch.randn(4, 9, 6)

    def __len__(self) -> int:
        return len(self.lengths)

    def take(self, index: torch.Tensor) -> Batch:
        lengths = self.lengths[index]
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        x = torch.where(mask[..., None], self.x[index, : mask.shape[1]], 3.0)  # padding is not 0 in real models either
        return Batch({"x": x, "attention_mask": mask.long()}, torch.zeros(len(index), dtype=torch.long))


def test_padding_has_no_say_in_importance():
    net, task, layers = Reading(), Task(0, Sentences(), (0,)), ["turn", "same"]
    found = [turned_least(net, task, layers, size=size) for size in (1, 4)]
    assert found[0] == pytest.approx(found[1]) and found[0]["turn"] != pytest.approx(found[0]["same"], abs=0.05)


def test_a_budgets_first_task_protects_nothing_however_important_its_layers():
    method, net, kept = OSFT(budget=4, by="importance", batch=4, least=0.5), Turning(), []
    for met in stream(splits=((0,), (1,))):
        method.begin_stage(net, met.task)
        kept.append({name: cut["U_high"].shape[1] for name, cut in method.splits.items()})
        method.end_stage(net, met.task)
    assert kept == [{}, {"same": 5, "turn": 5, "narrow": 2}]


@pytest.mark.parametrize("form", ["factors", "weights"])
def test_copies_of_schedule_free_keep_out_of_protected_directions(form):
    schedulefree = pytest.importorskip("schedulefree")

    def made(named):
        optimizer = schedulefree.AdamWScheduleFree([*named.values()], lr=0.02, weight_decay=0.1)
        optimizer.train()
        return optimizer

    assert max(leaks(*run(OSFT(form=form), made))) < 1e-5


@pytest.mark.parametrize("other", [MIST(objective_of="stage", batch=16), Rest({"body.0.weight": torch.eye(32, 8) > 0})])
def test_it_says_where_rest_breaks_its_promise(other, caplog):
    run(compose(OSFT(form="weights"), other), epochs=1)
    assert [r.message for r in caplog.records if "OSFT" in r.message] == [
        f"{type(other).__name__} lets entries of body.0.weight rest, so that its moves enter the directions that OSFT "
        "protects: give it a stage of its own"
    ]


def test_a_layer_that_is_called_base_layer_is_frozen_as_any(caplog):
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.head = nn.ModuleDict({"base_layer": nn.Linear(8, 8)}), GrowingLinear(8)

        def forward(self, x: torch.Tensor) -> Answer:
            z = self.body["base_layer"](x)
            return Answer(self.head(z), z)

    names = set()
    net, _ = run(OSFT(), epochs=1, net=Odd(), look=lambda drive: names.update(drive.site.params))
    factors = {f"body.base_layer.osf_svd_params.nacre_osft.{leaf}" for leaf in ("U_low", "S_low", "V_low")}
    assert names == factors | {"head.weight", "head.bias"} and all(p.requires_grad for p in net.parameters())


def test_an_optimizer_whose_state_is_kept_knows_nothing_of_new_factors():
    seen = []

    class Watching(Listener):
        def stepped(self, learner, loss):
            if learner.step == 1:
                held = learner.optimizer.state
                named = dict(learner.model.named_parameters())
                seen.append({n: int(held[named[n]]["step"]) for n in named if named[n] in held})

    stage = Stage(OSFT(budget=3), ADAMW, batch_size=8, epochs=1, optimizer_state="kept")
    for _ in Learner(Net(dropout=0.0), (stage,)).learn(stream(), Watching()):
        pass
    assert [max(steps.values()) for steps in seen] == [1, 6, 11]
    assert {steps[n] for steps in seen for n in steps if "osf" in n} == {1}


def test_what_others_put_in_by_pefts_osf_stays():
    peft = pytest.importorskip("peft")
    net = Net(dropout=0.0)
    peft.inject_adapter_in_model(peft.OSFConfig(target_modules=["body.4"], effective_rank=4), net, "osft")
    net.requires_grad_(True)
    run(OSFT(), epochs=1, net=net)
    assert isinstance(net.body[4], peft.tuners.osf.Linear) and type(net.body[0]) is nn.Linear
