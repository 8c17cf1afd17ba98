"""FPF: what a phase moves and what it leaves alone, how often it comes, and a twin by torch's own SGD."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from worlds import Net, stream

from nacre.core.drive import Drive
from nacre.core.errors import BadSetting
from nacre.core.method import Method, compose
from nacre.core.optim import MadeOptimizer
from nacre.learner import Learner, Stage
from nacre.memory import ClassBalanced, Reservoir
from nacre.methods import ER, FPF
from nacre.metrics import score
from nacre.rules import Rest
from nacre.schedules import schedule

SGD = MadeOptimizer("sgd", 0.05, [], {"momentum": 0.9, "weight_decay": 0.01})


def steps(drive: Drive, count: int = 99) -> None:
    for batch in list(drive.batches(0, 8))[:count]:
        drive.optimizer.zero_grad()
        drive.loss(batch).backward()
        drive.optimizer.step()
        drive.stepped()


def before_and_after(method: FPF, *partners) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], Net]:
    """The model's tensors right before and after the phase at the end of a stage."""
    net = Net()
    with Drive(compose(method, *partners), net, SGD, stream()[0].task, seed=0) as drive:
        steps(drive)
        before = {n: t.clone() for n, t in net.state_dict().items()}
    return before, net.state_dict(), net


def test_a_phase_moves_the_chosen_modules_alone_and_statistics_of_chosen_norms_follow():
    before, after, net = before_and_after(FPF(iters=5, batch=8))
    moved = {n for n, t in after.items() if not torch.equal(t, before[n])}
    norm = {f"body.1.{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")}
    assert moved == {"head.weight", "head.bias", *norm}
    assert after["body.1.num_batches_tracked"] == before["body.1.num_batches_tracked"] + 5
    assert net.training, "modes are left as they were found"
    before, after, _ = before_and_after(FPF(iters=5, modules=r"body\.4"))
    assert {n for n, t in after.items() if not torch.equal(t, before[n])} == {"body.4.weight", "body.4.bias"}


def test_what_rests_in_the_composition_rests_in_a_phase():
    before, after, _ = before_and_after(FPF(iters=5), Rest("head.weight"))
    assert torch.equal(before["head.weight"], after["head.weight"])
    assert not torch.equal(before["head.bias"], after["head.bias"])


def test_a_phase_is_torchs_sgd_on_the_memory():
    """Features fixed, all of the memory in each step: the head's own fit by cross-entropy."""
    method, net = FPF(iters=30, batch=500, modules="head", rate=0.1, memory=ClassBalanced(capacity=30)), Net(norm=False)
    with Drive(method, net, SGD, stream()[0].task, seed=0) as drive:
        steps(drive)
        twin = copy.deepcopy(net)
    held = method.memory.take(torch.arange(len(method.memory)))
    twin.eval()
    optimizer = torch.optim.SGD(twin.head.parameters(), 0.1, momentum=0.9)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(twin(held.x).logits, held.y).backward()
        optimizer.step()
    assert torch.allclose(net.head.weight, twin.head.weight, atol=1e-6)
    assert torch.bincount(held.y).tolist() == [15, 15], "the memory is balanced"


def test_phases_come_every_so_many_steps_and_leave_the_streams_momentum_alone(monkeypatch):
    drawn = []
    real = ClassBalanced.sample
    monkeypatch.setattr(ClassBalanced, "sample", lambda self, *a: drawn.append(a) or real(self, *a))
    nets, momenta = {}, {}
    for name, method in (("plain", Method()), ("k-FPF", FPF(iters=3, every=5, batch=8))):
        nets[name] = Net(dropout=0.0)
        with Drive(method, nets[name], SGD, stream()[0].task, seed=0) as drive:
            steps(drive, 5)
            momenta[name] = [own["momentum_buffer"].clone() for own in drive.optimizer.state.values()]
            if name == "plain":
                continue
            assert len(drawn) == 3 and method.phases == 1, "40 rows are five steps of 8"
            assert not torch.equal(nets["plain"].head.weight, nets[name].head.weight)
    assert all(map(torch.equal, momenta["plain"], momenta["k-FPF"]))
    drawn.clear()
    method = FPF(iters=4, every=3, batch=8)
    list(Learner(Net(), (Stage(method, SGD, batch_size=8),)).learn(stream()))
    assert method.steps == 15 and method.phases == 5 and len(drawn) == 5 * 4, "over borders of tasks: total = k * iters"
    assert len({a[2:] for a in drawn}) == 20, "each draw at a place of its own"


def test_without_phases_it_is_fine_tuning():
    ends = []
    for method in (Method(), FPF(iters=0), FPF(iters=0, every=2)):
        learner = Learner(Net(), (Stage(method, SGD, batch_size=8),))
        list(learner.learn(stream()))
        ends.append(learner.model.state_dict())
    assert all(torch.equal(t, end[n]) for end in ends[1:] for n, t in ends[0].items())


def test_pieces_of_a_step_count_as_one():
    method = FPF(iters=1, every=2)
    list(Learner(Net(norm=False), (Stage(method, SGD, batch_size=8, accumulate=4),)).learn(stream()[:1]))
    assert method.steps == 5 and method.phases == 2 and method.memory.seen == 40


def test_it_remembers_more_than_fine_tuning_also_beside_replay_under_a_schedule():
    means = {}
    for name, method in {
        "plain": Method(),
        "FPF": FPF(iters=60, batch=32, rate=0.1, memory=ClassBalanced(capacity=60)),
        "both": compose(
            FPF(iters=60, batch=32, rate=0.1, memory=ClassBalanced(capacity=60)),
            ER(rows=4, memory=Reservoir(capacity=20)),
        ),
    }.items():
        stage = Stage(method, SGD, batch_size=8, epochs=2, schedule=schedule("cosine", warmup=2))
        learner = Learner(Net(dropout=0.0), (stage,))
        list(learner.learn(stream()))
        scores = [score(learner.predict, e.tests[f"task{i}"]) for i, e in enumerate(stream())]
        means[name] = sum(scores) / len(scores)
    assert means["FPF"] > means["plain"] + 0.15 and means["both"] > means["plain"] + 0.1, means


def test_modules_that_are_not_there_are_refused():
    with pytest.raises(BadSetting, match="modules = 'attention' finds nothing that trains"):
        before_and_after(FPF(modules="attention"))
