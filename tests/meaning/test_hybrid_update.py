"""HybridUpdate: its limits bit for bit, its estimators against closed forms, and moves that are scaled as they were taken."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from worlds import Net, rows, steps, stream

from nacre.core.dice import dice
from nacre.core.drive import Drive
from nacre.core.errors import BadSetting
from nacre.core.method import Method, compose
from nacre.core.model import Outputs
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch, TensorRows
from nacre.core.stream import Task
from nacre.heads import warm_rows
from nacre.learner import Learner, Stage
from nacre.memory import Reservoir
from nacre.methods import ER, EWC, HybridUpdate
from nacre.rules.gates import step_gates
from nacre.rules.levels import group_sums
from nacre.rules.retention import along, far_from, go_back, lowest, parabola, part_way
from nacre.schedules import schedule

ADAMW = MadeOptimizer("adamw", 0.01, [], {"weight_decay": 0.1})
SGD = MadeOptimizer("sgd", 0.05, [], {"momentum": 0.9})
SMALL = {"probe": 3, "batch": 8, "warmup": 5}


def end(method: Method, tasks: int = 2, make=ADAMW, net: Net | None = None, **settings) -> dict[str, torch.Tensor]:
    learner = Learner(net or Net(), (Stage(method, make, batch_size=8, **settings),), seed=1)
    list(learner.learn(stream()[:tasks]))
    return {n: t.detach().clone() for n, t in learner.model.state_dict().items()}


class Reload(Method):
    """The twin of initialised training: treated weights are put back where the stream began."""

    def begin_stage(self, model, task):
        inner = {n: p for n, p in model.named_parameters() if not n.startswith(("head", "body.1"))}
        if not task.index:
            self.first = {n: p.detach().clone() for n, p in inner.items()}
        for n, p in inner.items():
            p.data.copy_(self.first[n])


def test_the_limits_are_fine_tuning_reloading_and_no_motion_bit_for_bit():
    plain, twin = end(Method()), end(Reload())
    for method in (HybridUpdate("continue"), HybridUpdate(retention=1.0, gate=1.0)):
        assert all(torch.equal(t, plain[n]) for n, t in end(method).items())
    for method in (HybridUpdate("initialised"), HybridUpdate(retention=0.0)):
        assert all(torch.equal(t, twin[n]) for n, t in end(method).items())
    first = end(Method(), tasks=1)
    for method in (HybridUpdate("frozen"), HybridUpdate(retention=1.0, gate=0.0)):
        for n, t in end(method).items():
            inner = n.startswith(("body.0", "body.4"))
            assert torch.equal(t[: len(first[n])] if t.ndim else t, first[n]) is inner or "running" in n, n
    assert not torch.equal(plain["body.0.weight"], first["body.0.weight"])
    assert not torch.equal(plain["body.0.weight"], twin["body.0.weight"])


@pytest.mark.parametrize("make", [ADAMW, SGD], ids=["adamw", "sgd"])
def test_a_fixed_gate_scales_the_move_that_was_taken_whatever_the_optimizer(make):
    net, method = Net(norm=False, dropout=0.0), HybridUpdate(retention=1.0, gate=0.25)
    with Drive(method, net, make, stream()[0].task, seed=0) as drive:
        steps(drive)
    other, task = copy.deepcopy(net), stream()[1].task
    whole = {}
    for model, rule in ((other, Method()), (net, method)):
        with Drive(rule, model, make, task, seed=0) as drive:
            start = {n: p.detach().clone() for n, p in model.named_parameters()}
            drive.optimizer.zero_grad()
            drive.loss(next(drive.batches(0, 8))).backward()
            drive.optimizer.step()
            far = {n: p.detach() - start[n] for n, p in model.named_parameters()}
            if not whole:
                whole = far
                continue
            assert torch.allclose(far["body.0.weight"], 0.25 * whole["body.0.weight"], atol=1e-7)
            assert torch.equal(far["head.weight"], whole["head.weight"])


class Free(nn.Module):
    """Two weights that are answered with."""

    def __init__(self, *values: float):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values[:2], dtype=torch.float64))
        self.v = nn.Parameter(torch.tensor(values[2:], dtype=torch.float64))

    def forward(self, x):
        return torch.cat([self.w, self.v]).expand(len(x), -1)


class Bowl(Method):
    """(w - best) H (w - best) / 2; every task has its own."""

    hessian: torch.Tensor
    best: list[torch.Tensor]
    task: int = 0

    def begin_stage(self, model, task):
        self.task = task.index

    def objective(self, model, batch: Batch, out: Outputs):
        far = torch.cat([model.w, model.v]) - self.best[self.task]
        return far @ self.hessian @ far / 2


def bowl(hessian: torch.Tensor, *best: list[float]) -> Bowl:
    made = Bowl()
    made.hessian, made.best = hessian.double(), [torch.tensor(b, dtype=torch.float64) for b in best]
    return made


def one_row(index: int) -> Task:
    return Task(index, TensorRows(torch.zeros(1, 1), torch.zeros(1, 2)))


def test_the_example_by_hand():
    """From (0, 0) to (1, 1); the next task sees the first coordinate only and wants -1 there: (-1, alpha)."""
    for alpha in (0.0, 0.3, 1.0):
        net, method = Free(0.0, 0.0), HybridUpdate(retention=alpha)
        both = bowl(torch.eye(2), [1.0, 1.0], [-1.0, 3.0])
        for index in (0, 1):
            with Drive(compose(both, method), net, MadeOptimizer("sgd", 1.0), one_row(index), seed=0) as drive:
                if index:
                    assert torch.allclose(net.w, torch.full((2,), alpha).double())
                    both.hessian = torch.tensor([[1.0, 0.0], [0.0, 0.0]]).double()
                steps(drive)
        assert torch.allclose(net.w.detach(), torch.tensor([-1.0, alpha]).double()), alpha


ROOT = torch.tensor([[1.0, 0.2, 0.0, 0.3], [0.0, 0.8, 0.1, 0.0], [0.2, 0.0, 0.7, 0.1], [0.0, 0.1, 0.0, 0.9]]).double()
START, END, BEST = [0.1, -0.2, 0.3, 0.0], [0.9, 0.4, -0.5, 0.7], [0.5, 0.4, 0.2, 0.3]


def on_the_quadratic(tasks: int = 1, **settings) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where a task begins, of a quadratic H, after so many tasks that ended at END; and H and D."""
    hessian = ROOT @ ROOT.T
    net, method = Free(*START), HybridUpdate(**settings)
    both = bowl(hessian, END, BEST)
    with Drive(compose(both, method), net, MadeOptimizer("sgd", 1e-9), one_row(0), seed=0):
        pass
    way = torch.tensor(END).double() - torch.tensor(START).double()
    with torch.no_grad():
        net.w.copy_(torch.tensor(END)[:2]), net.v.copy_(torch.tensor(END)[2:])
    both.hessian, method.tasks = hessian, tasks
    with Drive(compose(both, method), net, MadeOptimizer("sgd", 1e-9), one_row(1), seed=0):
        return torch.cat([net.w, net.v]).detach(), hessian, way


@pytest.mark.parametrize("tasks", [1, 4])
@pytest.mark.parametrize("estimator", ["newton", "line"])
def test_on_a_quadratic_newton_and_line_find_its_minimum_along_the_way_in_one_call(estimator, tasks):
    found, hessian, way = on_the_quadratic(tasks, estimator=estimator, level="global")
    slope = hessian @ (torch.tensor(END).double() - torch.tensor(BEST).double())
    alpha = 1 - (slope @ way) / (way @ hessian @ way)
    assert 0.05 < alpha < 0.95
    at = torch.tensor(START).double() + (tasks + alpha) / (tasks + 1) * way  # each of the old tasks wishes 1
    assert (found - at).abs().max() < 1e-6


def test_newton_of_each_tensor_has_the_curvature_of_the_whole_way():
    found, hessian, way = on_the_quadratic(estimator="newton", level="tensor")
    slope, bend = hessian @ (torch.tensor(END).double() - torch.tensor(BEST).double()), hessian @ way
    for part in (slice(0, 2), slice(2, 4)):
        alpha = (1 - (slope[part] @ way[part]) / (bend[part] @ way[part])).clamp(0, 1)
        at = torch.tensor(START).double()[part] + (1 + alpha) / 2 * way[part]
        assert (found[part] - at).abs().max() < 1e-6


def test_what_bends_down_goes_to_the_end_toward_which_the_loss_falls():
    rise, bend = {"a": torch.tensor([1.0, -1.0, 0.0])}, {"a": torch.tensor([-1.0, 0.0, -2.0])}
    assert lowest(rise, bend)["a"].tolist() == [0.0, 1.0, 1.0]
    assert parabola(torch.tensor([0.0, -1.0, -4.0])).item() == 1.0
    assert parabola(torch.tensor([9.0, 4.0, 1.0])).item() == 1.0, "the minimum lies beyond: clipped"


@pytest.mark.parametrize("estimator", ["cosine", "sign"])
@pytest.mark.parametrize("level", ["entry", "channel", "tensor", "layer", "group", "global"])
def test_directions_alone_count_and_the_order_of_groups_does_not(estimator, level):
    groups = r"\.w$|\.b$" if level == "group" else None
    way = {n: torch.randn(s, generator=dice("way", n)) for n, s in {"a.w": (3, 4), "a.b": (3,), "c.w": (2, 2)}.items()}
    slope = {n: torch.randn(t.shape, generator=dice("slope", n)) for n, t in way.items()}
    found = along(slope, way, estimator, level, groups=groups)
    for c in (1e-4, 37.0):
        scaled = along(
            {n: c * g for n, g in slope.items()}, {n: t / c for n, t in way.items()}, estimator, level, groups=groups
        )
        assert all(torch.allclose(scaled[n], found[n], atol=1e-5) for n in way)
    turned = along(dict(reversed(slope.items())), dict(reversed(way.items())), estimator, level, groups=groups)
    assert all(torch.allclose(turned[n], found[n], atol=1e-6) for n in way)
    kept = along({n: -t for n, t in way.items()}, way, estimator, level, groups=groups)
    gone = along(way, way, estimator, level, groups=groups)
    assert all(torch.allclose(kept[n], torch.ones(())) and gone[n].abs().max() < 1e-6 for n in way)
    assert all(a.max() <= 1 and a.min() >= 0 for a in found.values())
    assert {n: (a * torch.ones_like(way[n])).shape for n, a in found.items()} == {n: w.shape for n, w in way.items()}
    silent = along({n: torch.zeros_like(t) for n, t in way.items()}, way, estimator, level, groups=groups)
    assert all((a == 1).all() for a in silent.values()), "who says nothing keeps all"


def test_sums_of_groups_against_loops():
    terms = {n: torch.randn(s, generator=dice(n)) for n, s in {"a.w": (3, 2, 2), "a.b": (3,), "c.w": (2, 2)}.items()}
    layer = terms["a.w"].sum() + terms["a.b"].sum()
    assert torch.allclose(group_sums(terms, "layer")["a.b"], layer) and torch.allclose(
        group_sums(terms, "layer")["a.w"], layer
    )
    assert torch.allclose(group_sums(terms, "global")["c.w"], layer + terms["c.w"].sum())
    assert torch.allclose(group_sums(terms, "channel")["a.w"].flatten(), torch.stack([r.sum() for r in terms["a.w"]]))
    assert torch.equal(group_sums(terms, "channel")["a.b"], terms["a.b"])
    assert group_sums({"w": torch.full((4096,), 0.01, dtype=torch.bfloat16)}, "tensor")["w"].dtype == torch.float32


def test_the_step_gate_by_hand():
    g, r = {"w": torch.tensor([2.0, 0.0])}, {"w": torch.tensor([1.0, 5.0])}
    assert step_gates(r, g, "tensor", 1)["w"].item() == 0.75, "(1 * 2 / 4 + 1) / 2"
    assert step_gates({"w": -r["w"]}, g, "tensor", 3)["w"].item() == 0.25, (
        "a conflict: the new task's own share is left"
    )
    assert step_gates({"w": 9 * r["w"]}, g, "tensor", 3)["w"].item() == 1.0
    assert step_gates({"w": 0 * r["w"]}, g, "tensor", 3)["w"].item() == 1.0, "no reference to speak of"
    assert step_gates({}, g, "tensor", 3)["w"].item() == 1.0
    assert step_gates(r, g, "entry", 1)["w"].tolist() == [0.75, 0.5]


def after_a_task(net: Net, method: HybridUpdate) -> None:
    with Drive(method, net, SGD, stream()[0].task, seed=0) as drive:
        steps(drive, 2)


def test_the_replay_gate_is_taken_of_rows_of_earlier_tasks_and_scales_the_move():
    net = Net(norm=False, dropout=0.0)
    method = HybridUpdate(old="replay", retention=1.0, level="tensor", batch=500, memory=Reservoir(capacity=500))
    after_a_task(net, method)
    old, other = stream()[0].task.train.take(torch.arange(40)), copy.deepcopy(net)
    with Drive(method, net, SGD, stream()[1].task, seed=0) as drive:
        batches = list(drive.batches(0, 8))
        other.head.grow(4)
        other.load_state_dict(net.state_dict())
        for batch in batches[:2]:  # at the second step the memory holds rows of the present task, too
            names, params = zip(*((n, p) for n, p in net.named_parameters() if n.startswith("body")), strict=True)
            r = torch.autograd.grad(nn.functional.cross_entropy(net(old.x).logits, old.y), params)
            g = torch.autograd.grad(nn.functional.cross_entropy(net(batch.x).logits, batch.y), params)
            drive.optimizer.zero_grad()
            drive.loss(batch).backward()
            drive.optimizer.step()
            drive.stepped()
            for n, a, b in zip(names, r, g, strict=True):
                beta = (((a * b).sum() / (b * b).sum()).clamp(0, 1) + 1) / 2
                assert method.gates[n].item() == pytest.approx(beta.item(), abs=1e-5), n
    assert len({round(float(b), 4) for b in method.gates.values()}) > 1
    assert any(0.5 <= float(b) < 1 for b in method.gates.values())


def test_a_stored_fisher_speaks_for_the_old_tasks_like_the_quadratic_that_ewc_keeps():
    net, twin = Net(norm=False, dropout=0.0), Net(norm=False, dropout=0.0)
    method, ewc = HybridUpdate(old="fisher", level="layer", estimator="sign", **SMALL), EWC(strength=0.0)
    for model, rule in ((net, method), (twin, ewc)):
        with Drive(rule, model, SGD, stream()[0].task, seed=0) as drive:
            steps(drive, 2)
    assert all(
        torch.equal(f, ewc.importance[n]) and torch.equal(method.anchor[n], ewc.anchor[n])
        for n, f in method.importance.items()
    )
    assert set(method.importance) == {n for n, _ in net.named_parameters() if not n.startswith("head")}
    with Drive(method, net, SGD, stream()[1].task, seed=0):
        wanted = {n: float(a) for n, a in method.kept.items()}
    assert all(0.5 <= a <= 1 for a in wanted.values()), (
        "right after one task its quadratic wants all of the way: (1 + a) / 2"
    )


def test_the_heads_new_rows_are_warmed_up_and_nothing_else_moves():
    net = Net()
    net.head.grow(4)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    x = rows((2, 3), 20, "warm")
    warm_rows(net, (2, 3), lambda k: nn.functional.cross_entropy(net(x.x).logits, x.y), 60, 0.5)
    after = net.state_dict()
    assert all(torch.equal(t, after[n]) for n, t in before.items() if not n.startswith("head"))
    assert torch.equal(before["head.weight"][:2], after["head.weight"][:2]) and net.training
    net.eval()
    assert (net(x.x).logits.argmax(1) == x.y).float().mean() > 0.9
    method = HybridUpdate(warmup=5, probe=2, batch=8)
    trained = Net(norm=False, dropout=0.0)
    after_a_task(trained, method)
    old = trained.head.weight.detach().clone()
    other = Net(norm=False, dropout=0.0)
    other.head.grow(4)
    with Drive(method, trained, SGD, stream()[1].task, seed=0):
        assert torch.equal(trained.head.weight[:2], old) and not torch.equal(
            trained.head.weight[2:], other.head.weight[2:]
        )
        assert set(method.kept) == {"body.0.weight", "body.0.bias", "body.4.weight", "body.4.bias"}
        assert method.kept["body.0.weight"] == method.kept["body.0.bias"] < 1
        assert method.kept["body.0.weight"] != method.kept["body.4.weight"]


def test_norms_heads_and_what_select_leaves_out_are_kept():
    net, method = Net(), HybridUpdate("initialised", select=r"\.weight")
    first = copy.deepcopy(net)
    after_a_task(net, method)
    then = {n: t.clone() for n, t in net.state_dict().items()}
    with Drive(method, net, SGD, stream()[1].task, seed=0):
        now = net.state_dict()
        assert torch.equal(now["body.0.weight"], first.body[0].weight)
        for n in ("body.0.bias", "body.1.weight", "body.1.running_mean", "head.bias"):
            assert torch.equal(now[n][: len(then[n])], then[n]), n
    assert not torch.equal(then["body.0.weight"], first.body[0].weight)
    net, method = Net(), HybridUpdate("initialised", norms=True, head=True)
    after_a_task(net, method)
    with Drive(method, net, SGD, stream()[1].task, seed=0):
        fresh = Net()
        fresh.head.grow(2)
        assert torch.equal(net.body[1].weight, fresh.body[1].weight) and torch.equal(
            net.head.weight[:2], fresh.head.weight
        )


def test_a_frozen_head_lets_rows_of_new_classes_move():
    net, method = Net(norm=False), HybridUpdate("frozen", head=True)
    after_a_task(net, method)
    old = net.head.weight.detach().clone()
    with Drive(method, net, ADAMW, stream()[1].task, seed=0) as drive:
        new = net.head.weight.detach()[2:].clone()
        steps(drive)
    assert torch.equal(net.head.weight[:2], old) and not torch.equal(net.head.weight[2:], new)


def test_one_loss_cannot_tell_layers_apart():
    with pytest.raises(BadSetting, match='set level = "global", not "layer"'):
        HybridUpdate(estimator="line")


def test_with_replay_and_a_schedule_it_lies_between_its_limits():
    first, far = Net(norm=False), {}
    for strategy in ("initialised", "hybrid", "continue"):
        net = Net(norm=False)
        small = SMALL if strategy == "hybrid" else {}
        method = compose(HybridUpdate(strategy, **small), ER(rows=4, memory=Reservoir(capacity=20)))
        stage = Stage(method, SGD, batch_size=8, epochs=2, schedule=schedule("cosine", warmup=2))
        walk = Learner(net, (stage,), seed=0).learn(stream()[:2])
        next(walk)
        list(walk)
        far[strategy] = (net.body[0].weight - first.body[0].weight).norm().item()
    assert far["initialised"] < far["hybrid"] < far["continue"], far


def test_what_it_is_made_of_gives_figures_by_hand():
    assert far_from(torch.ones(1), torch.tensor([3.0, 7.0])).tolist() == [2.0, 0.0]
    w = torch.tensor([3.0, 3.0])
    assert go_back(w, torch.tensor([1.0]), 0.5) == 0.5 and w.tolist() == [2.0, 3.0]
    way, slope = {"w": torch.tensor([1.0, 1.0])}, {"w": torch.tensor([-3.0, 0.0])}
    assert along(slope, way, "cosine", "tensor")["w"].item() == pytest.approx(0.8536, abs=1e-4)
    assert along(slope, way, "sign", "tensor")["w"] == 1
    rise, bend = {"a": torch.tensor(1.0), "b": torch.tensor(1.0)}, {"a": torch.tensor(4.0), "b": torch.tensor(-1.0)}
    assert lowest(rise, bend) == {"a": torch.tensor(0.75), "b": torch.tensor(0.0)}
    assert parabola(torch.tensor([0.09, 0.0025, 0.04, 0.2025, 0.49])).item() == pytest.approx(0.3, abs=1e-3)
    p = nn.Parameter(torch.tensor([3.0]))
    with part_way({"w": p}, {"w": torch.tensor([2.0])}, 0.25):
        assert p.item() == 1.5
    assert p.item() == 3.0
    terms = {"fc.weight": torch.ones(2, 3), "fc.bias": torch.ones(2)}
    found = {
        level: group_sums(terms, level)["fc.weight"].flatten().tolist() for level in ("channel", "tensor", "layer")
    }
    assert found == {"channel": [3.0, 3.0], "tensor": [6.0], "layer": [8.0]}
    terms = {n: torch.tensor([float(k)]) for k, n in enumerate(("0.attn.w", "0.mlp.w", "1.attn.w", "1.mlp.w", "norm"))}
    assert [s.item() for s in group_sums(terms, "group", "attn|mlp").values()] == [2.0, 4.0, 2.0, 4.0, 4.0]


def test_groups_by_name_share_one_retention_and_one_gate():
    method = HybridUpdate(level="group", groups="weight|bias", old="fisher", estimator="cosine", **SMALL)
    learner = Learner(Net(norm=False), (Stage(method, SGD, batch_size=8, epochs=1),))
    list(learner.learn(stream(per_class=8)[:2]))
    kept = {n: a.item() for n, a in method.kept.items()}
    assert kept["body.0.weight"] == kept["body.4.weight"] != kept["body.0.bias"] == kept["body.4.bias"]
    gates = {n: b.unique().item() for n, b in method.gates.items()}
    assert gates["body.0.weight"] == gates["body.4.weight"] != gates["body.0.bias"] == gates["body.4.bias"]
    with pytest.raises(BadSetting, match="groups = 'attn' finds none"):
        list(Learner(Net(), (Stage(HybridUpdate(level="group", groups="attn"), SGD),)).learn(stream()[:1]))
