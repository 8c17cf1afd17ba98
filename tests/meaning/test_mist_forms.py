"""MIST in dense and compact form, and as published: the oracles of both, and that they end alike."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from worlds import Answer, Net, noise, stream

from nacre.adapters import entries_in
from nacre.core.dice import dice, keep
from nacre.core.drive import Drive
from nacre.core.errors import BadUse
from nacre.core.method import Method, compose
from nacre.core.model import grow
from nacre.core.optim import MadeOptimizer
from nacre.core.rule import Rule
from nacre.heads import GrowingLinear
from nacre.learner import Learner, Listener, Stage
from nacre.losses import supervised_info_nce
from nacre.methods import (
    CLASSP,
    ECO,
    EMA,
    ER,
    EWC,
    L2,
    LCIA,
    MAS,
    MIST,
    SAGE,
    SI,
    AdaRem,
    ExtrapSGD,
    LwF,
    Multiplicative,
    NaP,
    SimpleCIL,
)  # fmt: skip
from nacre.metrics import Motion
from nacre.rules import Anchor, Drop, KeepNorm, Project, Quantise, Scale, TrustRadius

FORMS = pytest.mark.parametrize("form", ["dense", "compact"])
ADAMW = MadeOptimizer("adamw", 0.02, [], {"weight_decay": 0.1})
SGD = MadeOptimizer("sgd", 0.05, [], {"momentum": 0.9, "weight_decay": 0.01})


HEAD = {"objective_of": "stage", "free": "bias|norm"}  # the head, which grows, is chosen from too


class Smooth(nn.Module):
    """A net in which every weight has a gradient: no unit is ever silent."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(8, 24), nn.Tanh(), nn.Linear(24, 16), nn.Tanh())
        self.head = GrowingLinear(16)

    def forward(self, x):
        z = self.body(x)
        return Answer(self.head(z), z)


def steps(method, net, count=1, make=SGD, task=0, size=40):
    """A few steps on a task; the weights before and after."""
    grow(net, 2 * task + 2)
    before = {n: t.clone() for n, t in net.state_dict().items()}
    with Drive(method, net, make, stream()[task].task, augment=noise, seed=0) as drive:
        for batch in list(drive.batches(epoch=0, size=size))[:count]:
            drive.optimizer.zero_grad()
            drive.loss(batch).backward()
            drive.optimizer.step()
            drive.stepped()
    return before, {n: t.clone() for n, t in net.state_dict().items()}


def test_the_loss_is_a_log_softmax_over_the_other_rows():
    z = F.normalize(torch.randn(10, 4, generator=dice("rows"), dtype=torch.float64), dim=1)
    y, pair = torch.tensor([0, 1, 2, 0, 1] * 2), (torch.arange(10) + 5) % 10
    loss = -(z @ z.T / 0.2).fill_diagonal_(-torch.inf).log_softmax(1)
    mates = (y[:, None] == y).fill_diagonal_(False)
    by_hand = sum(loss[i, pair[i]] + 2 * loss[i][mates[i]].sum() / (mates[i].sum() + 1) for i in range(10)) / 10
    assert supervised_info_nce(z, y, pair, 0.2).item() == pytest.approx(by_hand.item(), rel=1e-9)


@FORMS
def test_all_selected_and_nothing_dropped_is_plain_sgd_on_the_loss_bit_for_bit(form):
    class Lone(Method):
        """The loss of MIST and nothing else."""

        def begin_stage(self, model, task):
            mist.features = 16
            mist.prepare(model)
            self.parts["projection"] = mist.parts["projection"]

        def shape_batch(self, batch):
            return mist.shape_batch(batch)

        def objective(self, model, batch, out):
            return mist.objective(model, batch, out)

    mist = MIST(width=8, batch=16)
    plain = steps(Lone(), Net(), 4, size=10)[1]
    all_of_it = {"select": 1.0, "drop": 0.0, "fade": 1.0, "protect": 0.0}
    ours = steps(MIST(width=8, batch=16, form=form, **all_of_it), Net(), 4, size=10)[1]
    assert all(torch.equal(plain[n], ours[n]) for n in plain)


@FORMS
@pytest.mark.parametrize("drop", [0.0, 0.5])
def test_after_one_step_exactly_the_mask_has_moved(form, drop):
    mist = MIST(width=8, select=0.1, drop=drop, batch=16, form=form)
    before, after = steps(mist, Smooth())
    for n, chosen in mist.chosen.items():
        expected = chosen.clone()
        places = chosen.flatten().nonzero().flatten()
        expected.view(-1)[places] = keep(1 - drop, len(places), "cpu", 0, 1, 0, n)
        assert torch.equal(before[n] != after[n], expected), n
        assert chosen.sum() == round(0.1 * chosen.numel())


def test_masks_on_gradients_as_published_move_everything():
    mist = MIST(width=8, select=0.1, drop=0.5, batch=16, where="grads")
    before, after = steps(mist, Smooth())
    for n in mist.chosen:
        assert (before[n] != after[n]).all(), "weight decay reaches what is masked"
    plain = MadeOptimizer("sgd", 0.05)
    ends = [steps(MIST(width=8, batch=16, where=w), Smooth(), make=plain)[1] for w in ("grads", "moves")]
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0]), "without momentum and decay both are the same"


def test_masks_on_gradients_fade_too():
    moves = {}
    for fade in (1.0, 0.5):
        mist = MIST(width=8, select=1.0, drop=0.0, protect=0.0, fade=fade, batch=16, where="grads")
        net = Smooth()
        grow(net, 2)
        for task in (0, 1):
            with Drive(mist, net, None, stream()[task].task, augment=noise, seed=0):
                pass
        before, after = steps(mist, net, make=MadeOptimizer("sgd", 0.1), task=2)
        moves[fade] = {n: after[n] - before[n] for n in mist.chosen}
    for n in moves[1.0]:
        assert torch.allclose(moves[0.5][n], 0.25 * moves[1.0][n], atol=1e-6) and moves[1.0][n].norm() > 0


@pytest.mark.parametrize("where", ["grads", "moves"])
def test_in_a_composition_it_masks_in_the_one_place_that_it_is_told(where):
    ends = [
        steps(make(MIST(width=8, batch=16, where=where)), Smooth(), 2, size=20)[1]
        for make in (lambda m: m, lambda m: compose(m, Method()))
    ]
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])


@FORMS
def test_protected_entries_keep_their_bits_for_ever_under_momentum_and_decay(form):
    mist, net = MIST(width=8, select=0.5, drop=0.0, protect=0.05, batch=16, form=form), Smooth()
    steps(mist, net, make=ADAMW)
    held = {n: (m.clone(), net.state_dict()[n].clone()) for n, m in mist.spared.items()}
    for task in (1, 2):
        _, after = steps(mist, net, count=3, make=ADAMW, task=task, size=12)
        for n, (mask, then) in held.items():
            assert mask.sum() == round(0.05 * mask.numel())
            assert torch.equal(after[n][mask], then[mask]) and not torch.equal(after[n], then)


def test_rescaled_moves_of_values_have_the_mean_of_undropped_ones():
    def move(drop, seed):
        settings = {"select": 0.5, "fade": 1.0, "protect": 0.0, "objective_of": "stage", "form": "compact"}
        mist = MIST(drop=drop, rescale=True, batch=40, seed=seed, **settings)
        before, after = steps(mist, Smooth(), make=MadeOptimizer("sgd", 0.1))
        return after["body.0.weight"] - before["body.0.weight"]

    full = move(0.0, 0)
    mean = torch.stack([move(0.5, seed) for seed in range(60)]).mean(0)
    assert ((mean * full).sum() / full.square().sum()).item() == pytest.approx(1.0, abs=0.05)


def ended(form, make=SGD, host=(), **settings) -> Learner:
    """A learner at the end of the toy stream, whose head grows twice."""
    mist = MIST(width=8, batch=16, select=0.2, drop=0.5, fade=0.5, protect=0.02, form=form, **settings)
    stages = (Stage(mist, make, batch_size=8, epochs=2, augment=noise), *host)
    learner = Learner(Net().double(), stages, seed=3)
    for _ in learner.learn(stream(double=True)):
        assert type(learner.model.body[0]) is nn.Linear and not entries_in(learner.model), "a stage takes them out"
    return learner


@pytest.mark.parametrize("settings", [{}, {"objective_of": "stage", "rescale": True}, {"vectors": "chosen"}, HEAD])
def test_both_forms_end_alike_in_a_learner_whose_head_grows(settings):
    start, dense, compact = Net().double(), ended("dense", **settings), ended("compact", **settings)
    grow(start, 6)  # rows of a head are drawn by their class
    one, other = (who.stages[0].method for who in (dense, compact))
    assert all(torch.equal(one.uses[n], other.uses[n]) for n in one.uses), "they chose the same entries"
    for n, then in start.state_dict().items():
        a, b = dense.model.state_dict()[n], compact.model.state_dict()[n]
        if n in one.uses:
            assert torch.equal(a != then, b != then) and torch.equal(a[a == then], b[a == then]), n
        assert (a - b).double().norm() <= 1e-6 * a.double().norm(), n


def test_before_a_host_that_reads_features_both_forms_answer_alike():
    rows = stream(double=True)[2].tests["task2"]
    answers = [
        ended(form, host=(Stage(SimpleCIL()),)).predict(rows.take(torch.arange(100))) for form in ("dense", "compact")
    ]
    assert torch.allclose(*answers, atol=1e-5)


def test_in_compact_form_the_optimizer_holds_values_and_motion_tells_of_weights():
    mist, net = MIST(width=8, select=0.1, drop=0.0, batch=16, form="compact"), Net()
    grow(net, 2)
    motion, names = Motion(), list(net.state_dict())
    motion.begin(net)
    with Drive(mist, net, ADAMW, stream()[0].task, augment=noise, seed=0) as drive:
        held = set(drive.site.params)
        assert {"body.0.weight_values", "body.4.weight_values", "body.0.bias", "parts.MIST.projection.weight"} <= held
        assert "body.0.weight" not in held
        for batch in drive.batches(epoch=0, size=20):
            drive.optimizer.zero_grad()
            drive.loss(batch).backward()
            drive.optimizer.step()
            drive.stepped()
        moved = motion.since(net)
        kept = sum(t.numel() for n in mist.chosen for t in drive.optimizer.state[entries_in(net)[n]].values() if t.ndim)
        assert kept == 2 * sum(int(m.sum()) for m in mist.chosen.values())
    assert set(moved) <= set(names) and not any("values" in n for n in moved)
    assert 0 < moved["body.0.weight"]["moved"] <= 26 / 256
    assert motion.since(net) == moved, "taken out, the weights are the same"


@dataclass
class Poisons(Rule):
    """Makes all gradients of the third step NaN."""

    def shape_grads(self, grads, site):
        return {n: g * torch.nan if site.step == 2 else g for n, g in grads.items()}


@pytest.mark.parametrize("what", ["skip", "rollback"])
def test_a_step_that_is_undone_is_gone_in_compact_form_too(what):
    ends = []
    for form in ("dense", "compact"):
        mist = MIST(width=8, select=0.3, drop=0.5, batch=16, form=form)
        stage = Stage(compose(mist, Poisons()), SGD, batch_size=8, augment=noise)
        learner = Learner(Net().double(), (stage,), on_nonfinite=what)
        list(learner.learn(stream(double=True)[:1]))
        assert [event["step"] for event in learner.nonfinite] == [3]
        ends.append(learner.model.state_dict())
    assert all(torch.allclose(ends[0][n].double(), ends[1][n].double(), atol=1e-6) for n in ends[0])


class Saves(Listener):
    """Saves after one step of the stream."""

    def __init__(self, folder, step):
        self.folder, self.step = folder, step

    def stepped(self, learner, loss):
        if sum(learner.clocks) == self.step:
            learner.save(self.folder)


@pytest.mark.parametrize("step", [3, 5, 7])
def test_kept_momenta_and_compact_form_resume_bit_for_bit_also_behind_the_last_step_of_a_task(step, tmp_path):
    def made() -> Learner:
        mist = MIST(width=8, select=0.2, drop=0.5, batch=16, form="compact")
        return Learner(Net(), (Stage(mist, SGD, batch_size=8, augment=noise, optimizer_state="kept"),), seed=3)

    whole, part = made(), made()
    list(whole.learn(stream(), Saves(tmp_path / "here", step)))
    part.resume(tmp_path / "here")
    list(part.learn(stream()))
    ends = [who.model.state_dict() for who in (whole, part)]
    assert all(torch.equal(ends[0][n], ends[1][n]) for n in ends[0])


def test_momenta_of_chosen_entries_do_not_go_on_to_other_entries():
    mist = MIST(width=8, select=0.2, drop=0.0, protect=0.0, batch=16, form="compact")
    stage = Stage(mist, SGD, batch_size=8, augment=noise, optimizer_state="kept")
    learner, lengths = Learner(Net(), (stage,), seed=3), set()
    for met in learner.learn(stream()):
        names = set(learner.kept["0"])
        assert "body.0.bias" in names and not any("values" in n for n in names)
        lengths.add(int(mist.chosen["body.0.weight"].sum()))
        assert met.task.index or mist.tasks == 1
    assert len(lengths) == 1, "as many entries on each task: state of others would have fitted"


COMPACT = {"objective_of": "stage", "batch": 16, "select": 0.3, "form": "compact"}
WHOLE = [
    EWC(rows=4), SI(), MAS(rows=4), L2(), LCIA(), EMA(), AdaRem(), CLASSP(), SAGE("body"), KeepNorm(), NaP(), Quantise("int4"),
    ECO(store="int4"), ExtrapSGD(), ExtrapSGD(form="noise"), Project({"body.0.weight": torch.eye(8)[:, :1]}),
]  # fmt: skip
PARTLY = [
    LwF(), ER(rows=4), AdaRem(strength=0.0), SAGE("head"), SAGE(None), Quantise("none"), Multiplicative(), Scale(factor=0.5),
    TrustRadius(total=0.1), TrustRadius(total=0.1, of="stage"), Anchor(), Drop(0.5, "weight", rescale=True),
]  # fmt: skip


@pytest.mark.parametrize("part", WHOLE, ids=lambda p: repr(p)[:30])
def test_parts_that_would_not_be_heard_beside_the_compact_form_are_refused_at_the_first_step(part):
    for parts in ((MIST(**COMPACT), part), (part, MIST(**COMPACT))):
        stage = Stage(compose(*map(copy.deepcopy, parts)), SGD, batch_size=8, augment=noise)
        with pytest.raises(
            BadUse, match=rf'{type(part).__name__} treats body\.0\.weight as a whole, .* set form = "dense"'
        ):
            list(Learner(Net(), (stage,)).learn(stream()[:1]))


@pytest.mark.parametrize("part", PARTLY, ids=lambda p: repr(p)[:30])
def test_parts_that_keep_nothing_of_a_weight_learn_beside_the_compact_form_on_every_task(part):
    stage = Stage(compose(copy.deepcopy(part), MIST(**COMPACT)), SGD, batch_size=20, augment=noise)
    list(Learner(Net(), (stage,)).learn(stream()[:2]))


def test_weights_that_cannot_be_held_stay_dense_and_that_is_said_once(caplog):
    class Tied(Smooth):
        """Two layers that share a weight."""

        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(
                nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 16), nn.Tanh()
            )
            self.body[2].weight = self.body[0].weight

    mist, net = MIST(width=8, select=0.1, drop=0.0, batch=16, form="compact"), Tied()
    with caplog.at_level(logging.WARNING):
        before, after = steps(mist, net)
        steps(mist, net, task=1)
    assert caplog.text.count("in dense form, such as body.0.weight: it is tied") == 1
    moved = before["body.0.weight"] != after["body.0.weight"]
    assert moved.sum() == round(0.1 * 64)


@FORMS
@pytest.mark.parametrize("vectors", ["free", "chosen", "rest"])
def test_biases_and_norms_move_freely_are_chosen_from_or_rest(form, vectors):
    mist = MIST(width=8, select=0.25, drop=0.0, batch=16, vectors=vectors, form=form)
    before, after = steps(mist, Net(dropout=0.0), count=2, size=20)
    share = {n: (before[n] != after[n]).double().mean().item() for n in ("body.1.weight", "body.1.bias", "body.4.bias")}
    expected = {"free": (0.6, 1.0), "chosen": (0.1, 0.25), "rest": (0.0, 0.0)}[vectors]
    assert all(expected[0] <= found <= expected[1] for found in share.values()), share
    assert (before["head.bias"] != after["head.bias"]).all() or not mist.overrides("loss"), (
        "the head is never among them"
    )
    if vectors == "rest":
        assert torch.equal(before["body.1.running_mean"], after["body.1.running_mean"]), "what rests is in eval"


@FORMS
def test_free_tensors_are_dropped_too_where_that_is_asked_for(form):
    mist, net = MIST(width=8, drop=0.75, batch=16, drop_free=True, form=form), Smooth()
    before, after = steps(mist, net)
    projection = mist.parts["projection"].weight
    for n in ("body.0.bias", "body.2.bias"):
        assert torch.equal(before[n] != after[n], keep(0.25, len(before[n]), "cpu", 0, 1, 0, n))
    again = MIST(width=8, batch=16)
    again.features = 16
    again.prepare(net)
    moved = (projection != again.parts["projection"].weight).double().mean()
    assert moved.item() == pytest.approx(0.25, abs=0.12)


class Reading(nn.Module):
    """A net that reads a weight of its first layer, and never calls it."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body, self.more = nn.Linear(8, 16), nn.Linear(16, 16)
        self.head = GrowingLinear(16)

    def forward(self, x):
        z = self.more(F.linear(x, self.body.weight, self.body.bias).tanh()).tanh()
        return Answer(self.head(z), z)


def test_a_weight_that_is_read_past_its_layer_stays_dense_and_learns_as_there(caplog):
    def ended(form):
        mist = MIST(select=0.3, drop=0.0, objective_of="stage", batch=16, form=form)
        learner = Learner(Reading(), (Stage(mist, SGD, batch_size=8),))
        list(learner.learn(stream()[:2]))
        return learner

    start, dense = Reading().state_dict(), ended("dense").model.state_dict()
    caplog.set_level(logging.WARNING)
    compact = ended("compact").model.state_dict()
    assert caplog.text.count("reads it past its own layer") == 1
    moved = compact["body.weight"] != start["body.weight"]
    assert 0 < moved.float().mean() < 1
    for n, t in dense.items():
        assert torch.allclose(compact[n], t, atol=1e-5), n
