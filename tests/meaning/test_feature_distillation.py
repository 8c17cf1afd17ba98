"""Feature distillation: the distance of features from those of the model that began the stage, and what it protects."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from worlds import Net, noise, rows, stream

from nacre import checkpoint
from nacre.core.dice import dice
from nacre.core.drive import Drive
from nacre.core.errors import BadSetting
from nacre.core.method import Method, compose
from nacre.core.model import forward
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import TensorRows
from nacre.heads import GrowingLinear
from nacre.learner import Learner, Listener, Stage
from nacre.memory import Reservoir
from nacre.methods import ER, FeatureDistillation, SimpleCIL
from nacre.schedules import schedule

SGD = MadeOptimizer("sgd", 0.1)


def taught(method: Method, tasks: int = 2, told: bool = False, **net) -> tuple[nn.Module, Drive]:
    """A model that has learned all tasks but the last, and a driver of the last after one epoch."""
    model = Net(**{"norm": False, "dropout": 0.0, **net}, heads=told)
    for task in [e.task for e in stream(told=told)][:tasks]:
        drive = Drive(method, model, SGD, task, seed=0)
        drive.__enter__()
        for batch in drive.batches(0, size=8):
            drive.optimizer.zero_grad()
            drive.loss(batch).backward()
            drive.optimizer.step()
            drive.stepped()
        if task.index < tasks - 1:
            drive.__exit__(None, None, None)
    return model, drive


def stale_and_fresh(method: Method, seed: int = 0) -> tuple[float, float]:
    """Accuracy by class means that were taken after each task, stale at the end; and how well the present task is learned."""
    net = Net(norm=False, dropout=0.0, seed=seed)
    stages = (Stage(method, MadeOptimizer("sgd", 0.05), batch_size=8, epochs=20), Stage(SimpleCIL()))
    learner, tests = Learner(net, stages), {}
    for met in learner.learn(stream()):
        tests |= met.tests
    hits = [(learner.predict(t.take(torch.arange(len(t)))).argmax(1) == t.y).double().mean() for t in tests.values()]
    last = [*tests.values()][-1]
    own = forward(net, last.take(torch.arange(len(last)))).logits[:, 4:].argmax(1) + 4
    return torch.stack(hits).mean().item(), (own == last.y).double().mean().item()


@pytest.mark.parametrize("normalize", [True, False])
def test_its_term_is_the_mean_squared_distance_from_the_model_that_began_the_stage(normalize):
    method = FeatureDistillation(strength=3.0, normalize=normalize)
    net, drive = taught(method)
    then = Net(norm=False, dropout=0.0)
    then.head.grow(4)
    then.load_state_dict(method.teacher.tensors)
    batch = next(iter(drive.batches(0, size=8)))
    out, old = forward(net, batch), forward(then, batch).features.detach()
    pair = [F.normalize(z, dim=1) if normalize else z for z in (out.features, old)]
    wanted = 3.0 * sum(((a - b) ** 2).sum() for a, b in zip(*pair, strict=True)) / 8
    term = method.loss(net, batch, out)
    assert term.item() == pytest.approx(wanted.item(), rel=1e-5) and term > 1e-4
    plain = F.cross_entropy(out.logits, batch.y).item()
    assert drive.loss(batch).item() == pytest.approx(plain + wanted.item(), rel=1e-5)
    half = replace(batch, weight=torch.tensor([1.0] * 4 + [0.0] * 4))
    alone = batch.pick(slice(0, 4))
    got, expected = method.loss(net, half, out).item(), method.loss(net, alone, forward(net, alone)).item()
    assert got == pytest.approx(expected, rel=1e-5), "rows without weight do not count"
    slopes = torch.autograd.grad(term, list(net.parameters()), allow_unused=True)
    named = dict(zip([n for n, _ in net.named_parameters()], slopes, strict=True))
    assert named["head.weight"] is None and named["body.0.weight"].abs().max() > 0, "the head is free"


def test_the_teacher_is_the_model_that_began_the_stage_it_never_moves_and_has_the_grown_head():
    class Watches(Listener):
        def __init__(self):
            self.apart, self.then = [], None

        def stage_begins(self, learner, stage, total):
            self.then = {n: t.clone() for n, t in learner.model.state_dict().items()}

        def stepped(self, learner, loss):
            held = learner.stages[0].method.teacher.tensors
            if learner.experience:
                assert held.keys() == self.then.keys() and len(held["head.weight"]) == 2 * learner.experience + 2
                self.apart.append(max((held[n] - t).abs().max().item() for n, t in self.then.items()))
            else:
                assert not held, "the first task has nothing to be held to"

    learner = Learner(Net(), (Stage(FeatureDistillation(), SGD, batch_size=8),))
    watches = Watches()
    list(learner.learn(stream(), watches))
    assert len(watches.apart) == 10 and max(watches.apart) == 0.0
    early = FeatureDistillation(wait=0)
    taught(early, tasks=1)
    assert early.teacher.taken, "with wait = 0 the first task is held to the features the model came with"


def test_the_teacher_has_no_dropout_and_keeps_its_batch_statistics():
    method = FeatureDistillation(strength=1.0)
    net, drive = taught(method, norm=True, dropout=0.5)
    net.train()
    batch = next(iter(drive.batches(0, size=8)))
    one, two = (method.teacher.answer(net, batch).features for _ in range(2))
    assert torch.equal(one, two) and net.body[3].training, "modes are as they were found"
    assert (net.body[1].running_mean - method.teacher.tensors["body.1.running_mean"]).abs().max() > 1e-3


def test_off_and_in_the_first_task_it_is_fine_tuning_bit_for_bit():
    ends = {}
    for name, method in {
        "plain": Method(),
        "off": FeatureDistillation(strength=0.0),
        "on": FeatureDistillation(strength=5.0),
    }.items():
        learner = Learner(Net(), (Stage(method, SGD, batch_size=8, augment=noise),))
        ends[name] = []
        for _ in learner.learn(stream()):
            ends[name].append({n: t.clone() for n, t in learner.model.state_dict().items()})

    def equal(a, b):
        return all(torch.equal(a[n], b[n]) for n in a)

    assert all(map(equal, ends["plain"], ends["off"]))
    assert equal(ends["plain"][0], ends["on"][0]) and not equal(ends["plain"][1], ends["on"][1])


def test_it_keeps_old_statistics_good_and_the_new_task_learnable():
    plain, kept = ([stale_and_fresh(m, s) for s in range(2)] for m in (Method(), FeatureDistillation(strength=1.0)))
    stale, held = (sum(a for a, _ in found) / 2 for found in (plain, kept))
    assert held > stale + 0.08, (plain, kept)
    assert min(own for _, own in kept) > 0.9


def given(count: int = 30) -> TensorRows:
    return TensorRows(rows((6, 7), count // 2, "given").x, torch.zeros(count, dtype=torch.long))


def test_rows_that_are_given_are_drawn_a_step_and_shared_out_among_its_pieces():
    method = FeatureDistillation(strength=0.0, given_strength=2.0, given=12, rows=given())
    net, drive = taught(method, dropout=0.5, norm=True)
    batch, out = next(iter(drive.batches(0, size=8))), None
    whole = method.loss(net, batch, out)
    index = torch.randint(30, (12,), generator=dice(0, "given", method.steps))
    drawn = given().take(index)
    net.eval()
    now, then = (
        F.normalize(z, dim=1) for z in (forward(net, drawn).features, method.teacher.answer(net, drawn).features)
    )
    wanted = 2.0 * (now - then).square().sum(1).mean()
    assert whole.item() == pytest.approx(wanted.item(), rel=1e-5) and whole > 1e-5
    pieces = [replace(batch, share=s, before=b) for s, b in ((0.3, 0.0), (0.45, 0.3), (0.25, 0.75))]
    parts = sum(p.share * method.loss(net, p, out) for p in pieces)
    assert parts.item() == pytest.approx(whole.item(), rel=1e-5)
    before = method.steps
    for piece in pieces:
        method.after_step(piece, out, drive.site)
    assert method.steps == before + 1 and method.loss(net, batch, out).item() != whole.item(), "other rows at each step"
    assert method.loss(net, replace(batch, share=0.0), out) == 0.0, "a rank without rows of the step"


def test_at_the_beginning_of_a_stage_the_term_of_given_rows_is_zero_also_with_dropout():
    method = FeatureDistillation(strength=0.0, rows=given(), wait=0)
    with Drive(method, Net(), SGD, stream()[0].task, seed=0) as drive:
        batch = next(iter(drive.batches(0, size=8)))
        term = method.loss(drive.model, batch, None)
        assert term.requires_grad and term.item() < 1e-9


def make(rows_given: bool) -> Learner:
    method = FeatureDistillation(strength=5.0, rows=given() if rows_given else None, given=4)
    both = compose(method, ER(rows=4, memory=Reservoir(capacity=10)))
    made = MadeOptimizer("adamw", 0.01)
    usual = {"batch_size": 8, "epochs": 2, "accumulate": 2, "augment": noise, "schedule": schedule("cosine", warmup=2)}
    return Learner(Net(), (Stage(both, made, **usual),), seed=3)


@pytest.mark.parametrize("rows_given", [False, True])
def test_with_replay_and_a_schedule_it_resumes_bit_for_bit_from_the_middle_of_a_task(rows_given, tmp_path):
    class Saves(Listener):
        def stepped(self, learner, loss):
            if (learner.experience, learner.step) == (1, 4):
                checkpoint.save(tmp_path / "here", learner.state_dict())

    first = make(rows_given)
    list(first.learn(stream(), Saves()))
    again = make(rows_given)
    again.load_state_dict(checkpoint.load(tmp_path / "here"))
    list(again.learn(stream()))
    ends = [w.model.state_dict() for w in (first, again)]
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])


def test_told_heads_are_of_no_matter_and_empty_rows_are_refused():
    method = FeatureDistillation(strength=2.0, rows=given())
    net, drive = taught(method, told=True)
    batch = next(iter(drive.batches(0, size=8)))
    assert batch.task is not None and method.loss(net, batch, forward(net, batch)) > 0
    with pytest.raises(BadSetting, match="at least one row"):
        FeatureDistillation(rows=TensorRows(torch.zeros(0, 8), torch.zeros(0)))
    assert isinstance(net.head, GrowingLinear)
