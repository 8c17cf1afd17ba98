"""Rows that are met once, and streams that tell no borders: what a learner does with them, and what it refuses."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nacre.core.dice import dice
from nacre.core.drive import Drive
from nacre.core.errors import BadSetting, NonFinite
from nacre.core.method import Method
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch, TensorRows
from nacre.core.rule import Site
from nacre.core.state import state
from nacre.core.stream import Experience, Joined, Stream, Task, experiences
from nacre.heads import GrowingLinear
from nacre.learner import Learner, Listener, Stage
from nacre.memory import Reservoir
from nacre.methods import ER, EWC, Joint, RanPAC, SimpleCIL
from nacre.schedules import Phase, Phases, schedule
from nacre.streams import online, stream_of, task_free

PAIRS = ((0, 1), (2, 3), (1, 4))


@dataclass
class Answer:
    logits: Tensor
    features: Tensor


class Net(nn.Module):
    """A body of one layer with dropout, and a head that grows."""

    def __init__(self, classes: int = 0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.2))
        self.head = GrowingLinear(8, classes)

    def forward(self, x: Tensor) -> Answer:
        z = self.body(x)
        return Answer(self.head(z), z)


def rows(classes: tuple[int, ...], each: int = 9, place: int = 0) -> TensorRows:
    y = torch.tensor(classes).repeat(each)
    return TensorRows(torch.randn(len(y), 4, generator=dice(place, "rows")) + y[:, None], y)


def pairs() -> Any:
    met = [Experience(Task(i, rows(c, place=i), c), {f"task{i}": rows(c, 2, 99 + i)}) for i, c in enumerate(PAIRS)]
    return stream_of(met)


def learner(method: Any = None, optimizer: Any = None, classes: int = 0, **stage: Any) -> Learner:
    made = Stage(
        method=method if method is not None else Method(),
        optimizer=optimizer if optimizer is not None else MadeOptimizer("adam", 0.01),
        **{"batch_size": 5, **stage},
    )
    return Learner(Net(classes), (made,), seed=3)


def finish(who: Learner, stream: Stream, *listeners: Listener) -> dict[str, Tensor]:
    for _ in who.learn(stream, *listeners):
        pass
    return who.model.state_dict()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def er() -> ER:
    return ER(rows=4, memory=Reservoir(capacity=12))


# ------------------------------------------------------------------------------------------------------------------- online


def test_an_online_stream_gives_the_bits_of_one_epoch():
    once = finish(learner(er()), online(pairs()))
    assert equal(once, finish(learner(er()), pairs()))


@pytest.mark.parametrize(
    ("stage", "said"), [({"epochs": 2}, "epochs = 2 asks for 8 steps"), ({"steps": 5}, "steps = 5 asks")]
)
def test_more_than_one_pass_is_refused(stage: dict[str, int], said: str):
    with pytest.raises(
        BadSetting, match=rf"the 18 rows of task 0 are met once, in 4 steps of 5, but {said}.*set epochs = 1"
    ):
        finish(learner(**stage), online(pairs()))
    assert finish(learner(steps=3), online(pairs()))


def test_a_second_look_of_a_stage_or_of_a_method_is_refused():
    first, second = (Stage(optimizer=MadeOptimizer("sgd", 0.1), batch_size=6) for _ in range(2))
    with pytest.raises(BadSetting, match="met once, and 6 of task 0 are asked for again"):
        finish(Learner(Net(), (first, second)), online(pairs()))
    with pytest.raises(BadSetting, match="met once, and 1 of task 0 are asked for again"):
        finish(learner(EWC(rows=4)), online(pairs()))
    assert finish(learner(EWC(rows=4)), pairs())
    both = Learner(Net(), (Stage(optimizer=MadeOptimizer("sgd", 0.1)), Stage(method=RanPAC(width=10))))
    with pytest.raises(BadSetting, match="asked for again"):
        finish(both, online(pairs()))


def test_closed_forms_read_an_online_stream_once():
    for method in (RanPAC(width=10), SimpleCIL()):
        who = Learner(Net(), (Stage(method=method),))
        finish(who, online(pairs()))
        assert who.predict(rows((0, 4)).take(torch.arange(4))).shape[1] >= 5


def test_a_resumed_stage_knows_which_rows_were_met(tmp_path: Path):
    saved = tmp_path / "here"

    class Saves(Listener):
        def stepped(self, who: Learner, loss: Tensor) -> None:
            if who.step == 2 and who.experience == 1:
                who.save(saved)

    stream = online(pairs())
    whole = finish(learner(er()), stream, Saves())
    again = learner(er())
    again.resume(saved)
    assert equal(whole, finish(again, stream))
    # with a method that looks twice, the resumed run is refused like the one that never stopped
    late = learner(EWC(rows=18))
    with pytest.raises(BadSetting, match="asked for again"):
        finish(late, online(pairs()))
    late = learner(LooksAtFirst())
    late.load_state_dict({**learner(LooksAtFirst()).state_dict(), "begun": True, "step": 2})
    with pytest.raises(BadSetting, match="asked for again"):
        finish(late, online(pairs()))


@dataclass
class LooksAtFirst(Method):
    """Reads, at the end, the rows of the first two steps."""

    def end_stage(self, model: nn.Module, task: Task) -> None:
        assert task.train is not None
        order = torch.randperm(task.rows, generator=dice(3, task.index, task.stage, 0, "order"))
        task.train.take(order[:3])


def test_a_bound_on_an_online_stream_meets_all_rows_once():
    who = learner(Joint())
    met = list(who.learn(online(pairs())))
    assert len(met) == 1 and met[0].task.once and met[0].task.rows == 54
    with pytest.raises(BadSetting, match="met once"):
        finish(learner(Joint(), epochs=2), online(pairs()))


# ---------------------------------------------------------------------------------------------------------------- task-free


@dataclass
class Hears(Method):
    """Writes down what a method can know of where it is."""

    heard: list[Any] = state(list)

    def after_step(self, batch: Batch, out: Any, site: Site) -> None:
        self.heard.append([site.step, out.logits.shape[1], int(batch.y.max())])


def test_no_border_is_heard_and_the_head_grows_when_labels_come_up():
    method = Hears()
    who = learner(method, batch_size=4)
    finish(who, task_free(pairs(), seed=1))
    steps, widths, highest = zip(*method.heard, strict=True)
    assert list(steps) == list(range(1, 16))  # 3 x 18 rows: one stage, steps counted on over all pieces
    assert list(widths) == [1 + h for h in itertools.accumulate(highest, max)]
    assert who.classes == widths[-1] == 5 and widths[0] <= 2
    assert who.clocks == [15]


def test_growing_under_way_is_a_wide_head_whose_other_classes_do_not_compete():
    """Momentum without decay: a row whose label never came has no gradient, so both are one computation."""

    @dataclass
    class Masked(Method):
        """Lets only labels compete that have come up."""

        seen: int = state(int)

        def shape_logits(self, logits: Tensor, batch: Batch) -> Tensor:
            self.seen = max(self.seen, int(batch.y.max()) + 1)
            return logits.index_fill(1, torch.arange(self.seen, logits.shape[1]), -1e30)

    sgd = MadeOptimizer("sgd", 0.1, options={"momentum": 0.9})
    grown = finish(learner(optimizer=sgd), task_free(pairs(), seed=1))
    masked = finish(learner(Masked(), optimizer=sgd, classes=5), task_free(pairs(), seed=1))
    for name in grown:
        torch.testing.assert_close(grown[name], masked[name], atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd", "adafactor", "asgd", "rmsprop", "nadam"])
def test_the_optimizer_goes_on_with_a_head_that_grew(name: str):
    who = learner(optimizer=MadeOptimizer(name, 0.01, options={"momentum": 0.9} if name == "sgd" else {}), clip=1.0)
    kept: dict[str, Any] = {}

    class Looks(Listener):
        def stepped(self, who: Learner, loss: Tensor) -> None:
            head, optimizer = who.model.get_parameter("head.weight"), who.optimizer
            assert optimizer is not None and any(p is head for g in optimizer.param_groups for p in g["params"])
            assert len(optimizer.state) <= 4 and all(p.shape[0] == len(p) for p in optimizer.state)
            now = {k: v.clone() for k, v in optimizer.state[head].items() if isinstance(v, Tensor)}
            if "step" in kept:
                assert now["step"] == kept["step"] + 1  # not begun anew where the head grew
            kept.update(now)

    finish(who, task_free(pairs(), seed=1), Looks())
    assert who.model.get_parameter("head.weight").shape == (5, 8)


def test_state_of_old_rows_is_kept_and_that_of_new_rows_begins_at_zero():
    who = learner(optimizer=MadeOptimizer("adam", 0.01), batch_size=18)
    walk = who.learn(task_free(pairs(), seed=1))
    next(walk)
    assert who.optimizer is not None
    before = {k: v.clone() for k, v in who.optimizer.state[who.model.get_parameter("head.weight")].items()}
    weights = who.model.get_parameter("head.weight").detach().clone()
    piece = task_free(pairs(), seed=1)[1].task
    with Drive(Method(), who.model, who.optimizer, piece, begun=True) as drive:
        next(drive.batches(0, 18))
        head = who.model.get_parameter("head.weight")
        assert drive.optimizer is who.optimizer and drive.site.params["head.weight"] is head and len(head) == 4
        now = drive.optimizer.state[head]
        assert torch.equal(now["exp_avg"][:2], before["exp_avg"]) and not now["exp_avg_sq"][2:].any()
        assert now["step"] == before["step"] and torch.equal(head[:2], weights)
        assert drive.site.lr("head.weight") == 0.01


def test_gradients_under_way_are_kept_where_the_head_grows():
    who = learner(optimizer=MadeOptimizer("sgd", 0.1))
    task = Task(0, rows((0, 1)), border=False, once=True)
    with Drive(Method(), who.model, lambda named: torch.optim.SGD(named.values(), lr=0.1), task) as drive:
        drive.admit(torch.tensor([1]))
        drive.loss(rows((0, 1)).take(torch.arange(4))).backward()
        held = who.model.get_parameter("head.weight").grad
        assert held is not None
        drive.admit(torch.tensor([3]))
        grown = who.model.get_parameter("head.weight").grad
        assert grown is not None and torch.equal(grown[:2], held) and not grown[2:].any()


def test_an_own_loop_meets_a_task_free_stream():
    who = learner(er())
    sgd: Any = None
    step = 0
    for met in experiences(task_free(pairs(), seed=1)):
        make = sgd if sgd is not None else lambda named: torch.optim.SGD(named.values(), lr=0.1)
        with Drive(who.stages[0].method, who.model, make, met.task, seed=3, step=step, begun=bool(step)) as drive:
            for batch in drive.batches(epoch=0, size=5):
                drive.optimizer.zero_grad()
                drive.loss(batch).backward()
                drive.optimizer.step()
                drive.stepped()
            sgd, step = drive.optimizer, drive.site.step
    assert step == 12 and who.model.get_parameter("head.weight").shape == (5, 8)


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (
            lambda: learner(EWC()),
            r"EWC learns when a task begins or ends \(end_stage\), and a task-free stream tells neither",
        ),
        (lambda: Learner(Net(), (Stage(method=SimpleCIL()),)), r"SimpleCIL learns when a task .* arrival = \"online\""),
        (lambda: learner(Joint()), "Joint learns when a task begins"),
        (
            lambda: Learner(Net(), (learner().stages[0], learner().stages[0])),
            "2 stages follow each other where a task ends",
        ),
        (lambda: learner(when="first"), "when = 'first' counts tasks, and a task-free stream tells none"),
        (lambda: learner(steps=3), "steps = 3 of a stage needs its end"),
        (lambda: learner(schedule=schedule("cosine")), "a schedule with shares of a stage needs its end"),
        (lambda: learner(epochs=2), "met once"),
    ],
)
def test_what_needs_borders_is_told_why_and_what_to_do(made: Any, message: str):
    with pytest.raises(BadSetting, match=message):
        finish(made(), task_free(pairs()))


def test_optimizers_that_are_read_through_other_weights_are_refused():
    free = pytest.importorskip("schedulefree")
    who = learner(optimizer=lambda named: free.AdamWScheduleFree(named.values(), lr=0.01))
    with pytest.raises(BadSetting, match="AdamWScheduleFree is read through other weights than it trains"):
        finish(who, task_free(pairs()))


def test_a_stream_that_tells_its_tasks_cannot_be_task_free():
    told = stream_of([Experience(Task(0, rows((0, 1)), (0, 1), task_id=0))])
    with pytest.raises(BadSetting, match="task 0 tells its task id, and a task-free stream tells none"):
        finish(learner(), task_free(told))


def test_a_schedule_in_steps_goes_on_over_all_pieces():
    rates: list[float] = []

    class Rates(Listener):
        def stepped(self, who: Learner, loss: Tensor) -> None:
            assert who.optimizer is not None
            rates.append(who.optimizer.param_groups[0]["lr"])

    falling = Phases((Phase(12, 1.0, 0.0),))
    finish(learner(optimizer=MadeOptimizer("sgd", 1.2), schedule=falling), task_free(pairs(), seed=1), Rates())
    assert len(rates) == 12 and rates == pytest.approx([1.2 - 0.1 * k for k in range(12)])


def test_resumed_anywhere_a_task_free_run_ends_the_same(tmp_path: Path):
    class Saves(Listener):
        def stepped(self, who: Learner, loss: Tensor) -> None:
            who.save(tmp_path / f"step{who.clocks[0]:02d}")

        def stage_ends(self, who: Learner) -> None:
            who.save(tmp_path / f"piece{who.experience}")

    stream = task_free(pairs(), seed=1)
    whole = finish(learner(er()), stream, Saves())
    places = sorted(tmp_path.iterdir())
    assert len(places) == 12 + 3
    for place in places:
        again = learner(er())
        again.resume(place)
        assert equal(whole, finish(again, stream)), place.name


def test_a_rollback_returns_to_a_head_of_its_width():
    met = [Experience(Task(i, rows(c, place=i), c)) for i, c in enumerate(PAIRS)]
    spoilt = rows(PAIRS[1], place=1)
    spoilt.x[4] = torch.inf
    met[1] = Experience(Task(1, spoilt, PAIRS[1]))
    for mode in ("skip", "rollback"):
        who = learner(er(), optimizer=MadeOptimizer("sgd", 0.01))
        who.on_nonfinite = mode
        finish(who, task_free(stream_of(met), seed=1))
        assert who.nonfinite and who.model.get_parameter("head.weight").shape == (5, 8)
        assert bool(who.model.get_parameter("head.weight").isfinite().all())
    with pytest.raises(NonFinite):
        finish(learner(er()), task_free(stream_of(met), seed=1))


def test_a_joined_task_free_stream_says_so():
    joined = Joined(task_free(pairs()))[0].task
    assert not joined.border and joined.once and not joined.growth
