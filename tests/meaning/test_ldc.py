"""LDC: statistics go where the backbone goes, whichever stage moves it, and stay where it stays."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
import torch
import torch.nn.functional as F
from compositions import bits, equal
from torch import Tensor, nn
from worlds import Net, rows, stream

from nacre.core.drive import Drive
from nacre.core.errors import BadSetting, NonFinite
from nacre.core.method import Method, compose
from nacre.core.model import grow
from nacre.core.optim import MadeOptimizer
from nacre.core.ragged import Ragged
from nacre.core.rows import TensorRows
from nacre.core.stream import Experience, Task
from nacre.data import TokenRows
from nacre.heads import ClassStatistics, Discriminant, Linear, NearestMean, RandomRidge, Ridge
from nacre.learner import Learner, Stage
from nacre.methods import EMA, ER, EWC, LDC, MIST, RanPAC, TaskAdapters
from nacre.metrics import score

TUNED = MadeOptimizer("adamw", 0.01)
RIDGE = RandomRidge(width=64, ridge=1.0)


def tuning(method: Method, **settings) -> Stage:
    return Stage(method, TUNED, **{"batch_size": 8, "epochs": 4, **settings})


def calm() -> Net:
    return Net(norm=False, dropout=0.0)


def learned(*stages: Stage, net: nn.Module | None = None, tasks=None) -> Learner:
    learner = Learner(net or calm(), stages, seed=3)
    list(learner.learn(tasks or stream()))
    return learner


def accuracy(learner: Learner, tasks=None) -> float:
    tests = [t for e in tasks or stream() for t in e.tests.values()]
    return sum(score(learner.predict, t) for t in tests) / len(tests)


def weights(learner: Learner) -> list[bytes]:
    return [bits(p) for p in learner.model.parameters()]


def test_beside_a_tuner_and_in_a_stage_of_its_own_it_learns_the_same():
    beside = learned(tuning(LDC(head=Ridge())))
    behind = learned(tuning(Method()), Stage(LDC(head=Ridge())))
    assert weights(beside) == weights(behind)
    one, other = (who.answering().state_dict() for who in (beside, behind))
    assert equal(one, other)
    assert one["statistics"]["moves"] == {"0": 2, "1": 1} and set(one["told"]) == {"1", "2"}


def test_by_hand_in_own_loops_too():
    """Two drives a task: the second one's method meets the task before the first one begins."""
    net, method = calm(), LDC(head=Ridge())
    for met in stream():
        watching = Drive(method, net, None, replace(met.task, stage=1), seed=3)
        nn.Module.train(net)
        for classes, task_id in met.task.growth:
            grow(net, max(classes) + 1, task_id, classes)
        watching.meet()
        with Drive(Method(), net, TUNED, met.task, seed=3) as drive:
            for epoch in range(4):
                for batch in drive.batches(epoch, 8):
                    drive.optimizer.zero_grad()
                    drive.loss(batch).backward()
                    drive.optimizer.step()
                    drive.stepped()
        with watching:
            pass
    behind = learned(tuning(Method()), Stage(LDC(head=Ridge())))
    assert equal(method.state_dict(), behind.answering().state_dict())


@dataclass
class Spy(Linear):
    """Keeps what a map was fitted on."""

    seen: list[tuple[Tensor, Tensor, Tensor]] = field(default_factory=list, repr=False, compare=False)

    def fit(self, before: Tensor, after: Tensor, y: Tensor):
        self.seen.append((before, after, y))
        return super().fit(before, after, y)


@pytest.mark.parametrize("most", [5000, 11])
def test_the_same_rows_are_seen_before_and_after_in_one_order(most):
    """Rows of two views, or in two orders, as in published code, would not fit each other."""
    drift, states = Spy(), []
    learner = Learner(calm(), (tuning(Method()), Stage(LDC(head=Ridge(), drift=drift, rows=most))), seed=3)
    for _ in learner.learn(stream()):
        states.append({n: t.clone() for n, t in learner.model.state_dict().items()})
    for k, (before, after, y) in enumerate(drift.seen, 1):
        task = stream()[k].task
        assert len(before) == min(most, task.rows)
        for z, state in ((before, states[k - 1]), (after, states[k])):
            net = calm()
            net.head.grow(len(state["head.bias"]))
            net.load_state_dict(state)
            with torch.no_grad():
                every = F.normalize(net.eval().body(task.train.x), dim=1)
            place = torch.cdist(z.double(), every.double()).argmin(1)
            assert torch.cdist(z.double(), every.double()).min(1).values.max() < 1e-6
            assert torch.equal(task.train.y[place], y)
            if z is before:
                first = place
        assert torch.equal(first, place)


def test_a_backbone_that_rests_leaves_every_bit_and_equals_the_plain_head():
    learner = learned(Stage(LDC(head=RandomRidge(width=64, ridge=1.0))))
    plain = learned(Stage(RanPAC(width=64, ridge=1.0, normalize=True)))
    ours, theirs = learner.answering(), plain.answering()
    assert torch.equal(ours.head.gram, theirs.head.gram) and torch.equal(ours.head.cross, theirs.head.cross)
    assert ours.told == {} and ours.statistics.moves == {}
    once = ClassStatistics(precision="float32")
    for met in stream():
        with torch.no_grad():
            once.add(F.normalize(calm().eval().body(met.task.train.x), dim=1), met.task.train.y)
    assert all(torch.equal(getattr(once, n), getattr(ours.statistics, n)) for n in ("count", "mean", "factor", "left"))


@pytest.mark.parametrize("head", [NearestMean, Ridge, Discriminant, lambda: RandomRidge(width=200)])
def test_it_keeps_what_stale_statistics_lose(head):
    """Five classes a task make a full map of the drift; nothing of earlier tasks is seen again."""
    splits = ((0, 1, 2, 3), (4, 5), (6, 7))
    tasks = stream(30, splits=splits)

    def kept(drift) -> float:
        far = tuning(Method(), epochs=12)
        return accuracy(learned(far, Stage(LDC(head=head(), drift=drift)), tasks=tasks), tasks)

    stale, moved = kept(None), kept(Linear())
    assert moved > stale + 0.03, (stale, moved)
    who = learned(tuning(Method(), epochs=12), Stage(LDC(head=head(), drift=None)), tasks=tasks)
    assert who.answering().stale(who.model) == [0, 1]
    who = learned(tuning(Method(), epochs=12), Stage(LDC(head=head())), tasks=tasks)
    assert who.answering().stale(who.model) == []


@pytest.mark.parametrize(
    "tuner",
    [
        lambda: MIST(objective_of="stage", batch=16),
        lambda: EWC(rows=8),
        lambda: ER(rows=8),
        lambda: compose(MIST(width=8, batch=16), ER(rows=4)),
    ],
)
def test_any_tuner_goes_beside_it(tuner):
    learner = learned(tuning(compose(tuner(), LDC(head=Ridge()))))
    method = next(m for m in learner.answering().methods if isinstance(m, LDC))
    assert method.statistics.moves == {"0": 2, "1": 1} and learner.answering().stale(learner.model) == []


def test_adapters_move_features_without_moving_a_weight():
    pytest.importorskip("peft")
    learner = learned(
        tuning(TaskAdapters(rank=2, per="all", target="body.0,body.4"), epochs=8), Stage(LDC(head=Ridge()))
    )
    assert learner.answering().statistics.moves == {"0": 2, "1": 1}


def test_a_class_that_comes_back_is_transported_and_then_merged():
    learner = learned(tuning(LDC(head=RIDGE)), tasks=stream(splits=((0, 1), (1, 2))))
    statistics = learner.answering().statistics
    assert statistics.count.tolist() == [20, 40, 20] and statistics.stale(learner.model) == []


def test_anchors_and_random_tokens_are_seen_too():
    drift, anchors = Spy(), rows((0, 1), 4, "anchors")
    tasks = [replace(e, task=replace(e.task, anchors=anchors)) for e in stream()]
    learned(tuning(LDC(head=Ridge(), drift=drift)), tasks=tasks)
    before, _, y = drift.seen[0]
    assert len(before) == 40 + 8 and (y[40:] == -1).all() and (y[:40] >= 0).all()
    assert len(Spy().seen) == 0
    without = Spy()
    learned(tuning(LDC(head=Ridge(), drift=without, anchors=False)), tasks=tasks)
    assert len(without.seen[0][0]) == 40

    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(50, 4), nn.Linear(4, 6)

        def forward(self, input_ids: Tensor, attention_mask: Tensor):
            z = (self.words(input_ids) * attention_mask[..., None]).sum(1)
            return type("Answer", (), {"logits": self.head(z), "features": z})()

    def words(k: int) -> TokenRows:
        ids = torch.randint(2, 40, (40,), generator=torch.Generator().manual_seed(k))
        return TokenRows(Ragged({"input_ids": ids}, torch.arange(4, 44, 4)), torch.tensor([2 * k, 2 * k + 1] * 5))

    drift = Spy()
    tasks = [Experience(Task(k, words(k), (2 * k, 2 * k + 1))) for k in range(2)]
    learned(tuning(LDC(head=Ridge(), drift=drift, scrambled=7)), net=Reads(), tasks=tasks)
    assert len(drift.seen[0][0]) == 17 and (drift.seen[0][2][10:] == -1).all()
    with pytest.raises(BadSetting, match="no embedding of tokens"):
        learned(tuning(LDC(head=Ridge(), scrambled=7)))


def test_a_chain_of_fifty_tasks_stays_flat_its_error_grows_slowly_and_it_resumes_in_the_middle(tmp_path):
    """A synthetic drift that no linear map can say exactly: each task turns all features and bends them."""
    tasks, width, each = 50, 8, 4
    generator = torch.Generator().manual_seed(0)
    turns = [
        torch.linalg.qr(torch.eye(width) + 0.1 * torch.randn(width, width, generator=generator))[0]
        for _ in range(tasks)
    ]

    class Drifting(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("moment", torch.zeros((), dtype=torch.long))
            self.head = nn.Identity()

        def forward(self, x: Tensor):
            for turn in turns[: int(self.moment)]:
                x = x @ turn + 0.01 * torch.tanh(x)
            return type("Answer", (), {"logits": x, "features": x})()

    @dataclass
    class Tick(Method):
        def end_stage(self, model, task):
            model.get_buffer("moment").add_(1)

    centres = 2 * torch.randn(each * tasks, width, generator=generator)

    def met(k: int) -> Experience:
        y = torch.arange(each * k, each * (k + 1)).repeat_interleave(20)
        x = centres[y] + torch.randn(len(y), width, generator=torch.Generator().manual_seed(k))
        return Experience(Task(k, TensorRows(x, y), tuple(y.unique().tolist())))

    def made() -> Learner:
        return Learner(Drifting(), (Stage(Tick()), Stage(LDC(head=NearestMean(), normalize=False))))

    learner, every = made(), [met(k) for k in range(tasks)]
    first, sizes, errors = met(0).task.train.x, [], []
    for seen in learner.learn(every):
        if seen.task.index == 24:
            learner.save(tmp_path / "half")
        kept = learner.answering().statistics
        now = learner.model(first).features.view(each, 20, width).mean(1)  # what the first task's means have become
        errors.append(float((kept.mean[:each] - now).norm() / now.norm()))
        sizes.append(kept.bytes_per_class)
    resumed = made()
    resumed.resume(tmp_path / "half")
    assert [seen.task.index for seen in resumed.learn(every)] == list(range(25, 50))
    assert equal(resumed.answering().state_dict(), learner.answering().state_dict())
    stale = first.view(each, 20, width).mean(1)
    assert sizes[-1] == sizes[0], "memory grows with the chain"
    assert errors[0] < 1e-6 < errors[10] < errors[-1] < 0.2, errors
    assert errors[-1] < 50 / 10 * errors[10], "errors add up faster than the links do"
    assert float((stale - now).norm() / now.norm()) > 5 * errors[-1]


def test_what_moves_the_backbone_behind_it_is_refused():
    """A map from the beginning of a task to its stage would be taken for one from the last task's end."""
    for stages in (
        (Stage(LDC(head=Ridge())), tuning(Method(), when="first")),
        (tuning(Method()), Stage(LDC(head=Ridge())), tuning(Method())),
        (tuning(compose(LDC(head=Ridge()), EMA(use="replace"))),),
    ):
        with pytest.raises(BadSetting, match="put LDC behind all that moves the backbone"):
            learned(*stages)
    stale = learned(Stage(LDC(head=Ridge(), drift=None)), tuning(Method(), when="first"))
    assert stale.stages[0].method.stale(stale.model) == [0]
    assert learned(tuning(compose(EMA(use="replace"), LDC(head=Ridge()))))


def test_anchors_need_no_labels_and_may_be_none():
    anchors = TensorRows(torch.randn(6, 8), torch.randn(6, 2))
    for given in (anchors, TensorRows(torch.empty(0, 8), torch.empty(0))):
        tasks = [replace(e, task=replace(e.task, anchors=given)) for e in stream()]
        drift = Spy()
        learned(tuning(LDC(head=Ridge(), drift=drift)), tasks=tasks)
        assert len(drift.seen[0][0]) == 40 + len(given)


def test_features_that_are_not_finite_are_refused():
    task = Task(0, TensorRows(torch.full((4, 8), torch.nan), torch.tensor([0, 0, 1, 1])), (0, 1))
    with pytest.raises(NonFinite, match="class statistics"):
        learned(Stage(LDC(head=NearestMean())), tasks=[Experience(task)])


def test_what_does_not_go_is_said():
    with pytest.raises(BadSetting, match="needs the covariance of each class"):
        LDC(statistics=ClassStatistics(covariance="none"))
    with pytest.raises(BadSetting, match="a head made of class statistics, such as"):
        LDC(head="Ridge")
    with pytest.raises(BadSetting, match="is a drift map, such as"):
        LDC(drift="none")
    with pytest.raises(BadSetting, match="one class id a row"):
        task = Task(0, TensorRows(torch.randn(4, 8), torch.randn(4)))
        learned(Stage(LDC(head=NearestMean())), net=nn.Sequential(), tasks=[Experience(task)])
