"""NaN and infinity: where they came up first is told, steps are left out or undone without a trace, and resumes stay exact."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from compositions import equal, finished, noise, predictions
from torch import Tensor, nn
from worlds import Net, stream

from nacre import checkpoint
from nacre.core import finite
from nacre.core.drive import Drive
from nacre.core.errors import BadSetting, NonFinite, UnknownName
from nacre.core.finite import Guard, Undo
from nacre.core.method import Method, compose
from nacre.core.model import Outputs
from nacre.core.optim import OPTIMIZERS, MadeOptimizer
from nacre.core.rows import Batch, TensorRows
from nacre.core.rule import Site
from nacre.core.run import Run
from nacre.core.state import Tensors, scratch, setting, state
from nacre.core.stream import Experience
from nacre.experiment import Config, Experiment
from nacre.learner import Learner, Listener, Stage
from nacre.methods import CLASSP, ECO, ER, EWC, MIST, SAGE, AdaRem
from nacre.schedules import schedule
from tests.end_to_end.small import config, newest, same


@dataclass
class Bomb(Method):
    """Makes something infinite in the batches that hold certain rows: loss, gradient or weight."""

    kind: str = setting("loss", "what becomes infinite")
    rows: tuple[int, ...] = setting((), "positions in the task's training rows")
    steps: int = state(int)  # counted by after_step
    armed: bool = scratch(bool)

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        self.armed = batch.ids is not None and bool(torch.isin(batch.ids, torch.tensor(self.rows)).any())
        if not self.armed or self.kind == "weight":
            return 0.0
        weight = next(p for n, p in model.named_parameters() if n.endswith("head.weight")).sum()
        return weight * math.inf if self.kind == "loss" else (0 * weight).sqrt()  # whose slope at 0 is 0 / 0

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        if self.armed and self.kind == "weight":
            next(w for n, w in new.items() if n.endswith("head.weight"))[0, 0] = math.nan
        return new

    def needs_old(self, name: str) -> bool:
        return False

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        self.steps += 1


SAID = {"loss": "the loss", "gradient": "the gradient of head.weight", "weight": "the weight head.weight"}


def learner(kind: str, *rows: int, mode: str = "skip", mark: int = 3, **settings: Any) -> Learner:
    """MIST, EWC and ER composed with a bomb, in ten steps a task; momentum, dropout, BatchNorm, augmentation, a schedule."""
    method = compose(MIST(objective_of="stage", batch=16), EWC(rows=8), ER(rows=4), Bomb(kind, rows))
    made = MadeOptimizer("adamw", 0.01, options={"weight_decay": 0.05})
    usual = {"batch_size": 8, "epochs": 2, "clip": 1.0, "augment": noise, "schedule": schedule("cosine", warmup=2)}
    stage = Stage(method, made, **{**usual, **settings})
    return Learner(Net(), (stage,), seed=3, on_nonfinite=mode, mark_every=mark)  # pyright: ignore[reportArgumentType]


ONCE: dict[str, Any] = {"batch_size": 4, "epochs": 1}  # ten steps a task, each row in one of them


def batches_of(who: Learner) -> list[set[int]]:
    """The rows of each batch of the first task, in order."""
    stage, met = who.stages[0], stream()[0]
    drive = Drive(Method(), nn.Linear(8, 2), None, met.task, seed=who.seed)
    batches = [b for epoch in range(stage.epochs) for b in drive.batches(epoch, stage.batch_size)]
    return [set(b.ids.tolist()) for b in batches if b.ids is not None]


def row_of(step: int) -> int:
    """A row of the batch of this step of the first task."""
    return min(batches_of(learner("none", **ONCE))[step - 1])


def bad_steps(who: Learner, *rows: int) -> list[int]:
    """Steps whose batch holds one of the rows, counted from 1."""
    return [i for i, ids in enumerate(batches_of(who), 1) if ids & set(rows)]


class Saves(Listener):
    """Saves wherever that is possible."""

    def __init__(self, folder: Path):
        self.folder, self.count = folder, 0

    def stepped(self, learner: Learner, loss: Tensor) -> None:
        self.count += 1
        learner.save(self.folder / f"{self.count:03d}")

    def left_out(self, learner: Learner, event: dict[str, Any]) -> None:
        self.count += 1
        learner.save(self.folder / f"{self.count:03d}-{event['done']}")

    def stage_ends(self, learner: Learner) -> None:
        learner.save(self.folder / f"{self.count:03d}-border{learner.experience}")


# ---------------------------------------------------------------------------------------------------------------- stopping


@pytest.mark.parametrize("kind", SAID)
def test_a_run_that_stops_says_where_and_which_tensor_was_first(kind: str):
    who = learner(kind, 5, mode="stop")
    with pytest.raises(NonFinite, match="lower the learning rate") as error:
        finished(who)
    event = who.nonfinite[-1]
    assert (event["task"], event["stage"], event["done"], event["back_to"]) == (0, 0, "stopped", None)
    where = f"in experience 0, stage 0, step {event['step']}"
    assert where in str(error.value)
    assert event["tensor"] == (SAID[kind] if kind == "loss" else event["tensor"])
    if kind != "loss":  # seen in the loss of the step after, which names the weight that brought it
        assert event["tensor"].startswith("the weight ")


def with_nan(met: Experience) -> Experience:
    """The same experience, one number of which is not known."""
    assert isinstance(met.task.train, TensorRows)
    x = met.task.train.x.clone()
    x[3, 2] = math.nan
    return replace(met, task=replace(met.task, train=replace(met.task.train, x=x)))


def test_rows_that_are_not_finite_are_blamed():
    who = Learner(Net(), (Stage(Method(), MadeOptimizer("sgd", 0.05), batch_size=8),))
    with pytest.raises(NonFinite, match="the batch of rows became NaN"):
        list(who.learn([with_nan(stream()[0])]))


def test_a_checkpoint_of_ruined_weights_is_never_written(tmp_path: Path):
    class Late(Listener):
        def stepped(self, learner: Learner, loss: Tensor) -> None:
            learner.save(tmp_path / "here")

    who = learner("weight", 5, mode="stop")
    with pytest.raises(NonFinite, match=r"the weight head\.weight became NaN"):
        list(who.learn(stream(), Late()))
    held = checkpoint.load(tmp_path / "here")
    assert all(t.isfinite().all() for t in held["model"].values()) and held["step"] == who.nonfinite[0]["step"] - 1


def test_ruin_in_the_last_step_of_a_stage_does_not_pass():
    with pytest.raises(
        NonFinite, match=r"the weight head\.weight became NaN or infinite in experience 0, stage 0, step 10"
    ):
        finished(learner("weight", row_of(10), mode="stop", **ONCE))


def test_an_accelerator_is_read_back_seldom_and_the_step_is_known_all_the_same():
    model = nn.Linear(2, 1)
    site = Site(model, torch.optim.SGD(model.parameters(), lr=0.1), dict(model.named_parameters()), Method())
    guard = Guard("stop", site, torch.device("cpu"), {"task": 0, "stage": 0}, [])
    guard.every = finite.EVERY
    batch, found = Batch(torch.zeros(1, 2), torch.zeros(1)), {}
    for step in range(1, 101):
        loss = torch.tensor(math.nan if step >= 17 else 1.0)
        found[step] = guard.before_step(loss, batch)
        site.step += 1
    assert [s for s, f in found.items() if f] == [50, 100] and found[50].step == found[100].step == 17
    found = Guard("stop", site, torch.device("cpu"), {"task": 0, "stage": 0}, [])
    assert found.read() is None
    with torch.no_grad():
        model.bias.fill_(math.inf)
    assert found.read().tensor == "the weight bias"  # pyright: ignore[reportOptionalMemberAccess]


# ---------------------------------------------------------------------------------------------------------------- skipping


def by_hand(who: Learner, bad: Callable[[Batch], bool]) -> dict[str, Tensor]:
    """The twin: an own loop that makes everything what it was before each bad step, by deep copies."""
    model, stage = who.model, who.stages[0]
    for met in stream():
        with Drive(stage.method, model, stage.optimizer, met.task, augment=stage.augment, seed=who.seed) as drive:
            optimizer, step = drive.optimizer, 0
            peak, total = [g["lr"] for g in optimizer.param_groups], 10
            for epoch in range(2):
                for batch in drive.batches(epoch, 8):
                    for group, lr in zip(optimizer.param_groups, peak, strict=True):
                        group["lr"] = lr * stage.schedule.over(total)(step)
                    held = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
                    optimizer.zero_grad()
                    drive.loss(batch).backward()
                    step += 1
                    if bad(batch):
                        model.load_state_dict(held[0])
                        optimizer.load_state_dict(held[1])
                        drive.left_out(step)
                        continue
                    nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
                    optimizer.step()
                    drive.stepped()
    return model.state_dict()


@pytest.mark.parametrize("kind", SAID)
def test_a_skipped_step_leaves_no_trace(kind: str):
    who = finished(learner(kind, 5, 30))
    steps = bad_steps(who, 5, 30)
    events = [e for e in who.nonfinite if e["task"] == 0]
    assert [e["step"] for e in events] == steps and len(steps) >= 3
    assert {(e["tensor"], e["done"], e["back_to"]) for e in events} == {(SAID[kind], "skipped", None)}
    twin = learner("none", 5, 30)
    weights = by_hand(twin, lambda batch: bool(torch.isin(batch.ids, torch.tensor([5, 30])).any()))
    assert equal(who.model.state_dict(), weights)
    bomb = who.stages[0].method.members[3]  # pyright: ignore[reportAttributeAccessIssue]
    assert bomb.steps == 30 - len(who.nonfinite)  # no hook heard of them
    assert all(t.isfinite().all() for t in weights.values())


def test_statistics_of_a_norm_are_put_back(monkeypatch: pytest.MonkeyPatch):
    """NaN rows reach BatchNorm in the forward pass, before anything can be checked. The mutant keeps no buffers."""

    def end() -> Learner:
        stage = Stage(Method(), MadeOptimizer("sgd", 0.05), batch_size=8, epochs=2)
        who = Learner(Net(), (stage,), on_nonfinite="skip")
        list(who.learn([with_nan(stream()[0])]))
        return who

    who = end()
    assert [e["tensor"] for e in who.nonfinite] == ["the batch of rows"] * 2
    assert all(t.isfinite().all() for t in who.model.state_dict().values())
    monkeypatch.setattr(nn.Module, "named_buffers", lambda self, *_: iter(()))
    assert not all(t.isfinite().all() for t in end().model.state_dict().values())


@pytest.mark.parametrize("name", [*OPTIMIZERS, "schedulefree"])
def test_a_step_of_any_optimizer_is_undone_bit_for_bit(name: str):
    schedulefree = pytest.importorskip("schedulefree")
    kind = schedulefree.AdamWScheduleFree if name == "schedulefree" else OPTIMIZERS[name]

    def take(model: nn.Module, optimizer: Any, step: int) -> None:
        optimizer.zero_grad()
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step))
        model(x).square().sum().backward()
        optimizer.step()

    ends = []
    for undone in ((), (0,), (3,), (0, 1, 4)):  # also the first step, which makes the optimizer's state
        model = nn.Linear(3, 4, bias=name != "muon")
        with torch.no_grad():
            for p in model.parameters():
                p.copy_(torch.linspace(-1, 1, p.numel()).view_as(p))
        optimizer = kind(model.parameters(), lr=0.01)
        getattr(optimizer, "train", int)()
        undo = Undo(Site(model, optimizer, dict(model.named_parameters()), Method()))
        for step in range(5):
            if step in undone:
                undo.keep()
                before = copy.deepcopy([model.state_dict(), optimizer.state_dict()])
                take(model, optimizer, 100 + step)
                undo.undo()
                assert equal([model.state_dict(), optimizer.state_dict()], before)
            take(model, optimizer, step)
        ends.append([model.state_dict(), optimizer.state_dict()])
    assert all(equal(end, ends[0]) for end in ends[1:])


def test_a_run_in_which_nothing_is_learned_any_more_stops(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(finite, "SKIPS", 4)
    who = learner("loss", *range(40))
    with pytest.raises(NonFinite, match="after the 4 steps before it were skipped"):
        finished(who)
    assert [e["done"] for e in who.nonfinite] == ["skipped"] * 4 + ["stopped"]


# -------------------------------------------------------------------------------------------------------------- rolling back


@pytest.mark.parametrize("kind", SAID)
def test_a_rollback_goes_on_from_the_mark_behind_the_bad_batch(kind: str, tmp_path: Path):
    row = row_of(5)
    who = learner(kind, row, mode="rollback", **ONCE)
    next(who.learn(stream(), Saves(tmp_path)))
    place = {"task": 0, "stage": 0, "step": 5}
    assert who.nonfinite == [{**place, "tensor": SAID[kind], "done": "rolled back", "back_to": 3}]
    twin = learner("none", row, mode="stop", **ONCE)  # goes on from step 3 as if it were step 5
    saved = checkpoint.load(tmp_path / "003")
    twin.load_state_dict({**saved, "step": 5, "clocks": [5]})
    next(twin.learn(stream()))
    assert equal(who.model.state_dict(), twin.model.state_dict())
    assert not equal(who.model.state_dict(), saved["model"])


def test_a_fourth_rollback_stops():
    who = learner("loss", *range(0, 40, 7), mode="rollback")
    with pytest.raises(NonFinite, match="after the run went back 3 times"):
        finished(who)
    assert [e["done"] for e in who.nonfinite] == ["rolled back"] * 3 + ["stopped"]


def test_a_rollback_from_the_last_batch_ends_the_stage():
    who = finished(learner("loss", row_of(10), mode="rollback", mark=100, **ONCE))
    assert [(e["step"], e["back_to"]) for e in who.nonfinite if e["task"] == 0] == [(10, 0)]
    assert who.experience == 3 and predictions(who).isfinite().all()


@pytest.mark.parametrize(
    ("kind", "mode"), [("gradient", "skip"), ("weight", "skip"), ("loss", "rollback"), ("weight", "rollback")]
)
def test_resumed_from_any_step_of_such_a_history_it_ends_the_same(kind: str, mode: str, tmp_path: Path):
    """Checkpoints stand at every step, so also between a mark and the bad step, where only the mark knows the way back."""
    row = row_of(5)
    whole, saves = learner(kind, row, mode=mode, **ONCE), Saves(tmp_path)
    list(whole.learn(stream(), saves))
    assert len(whole.nonfinite) == 3 and len(list(tmp_path.iterdir())) == 33
    end = whole.state_dict()
    places = sorted(tmp_path.iterdir())
    for place in (*places[1:7], *places[7::8]):  # around the bad step of the first task, and later
        again = learner(kind, row, mode=mode, **ONCE)
        again.resume(place)
        assert equal(finished(again).state_dict(), end), f"resumed from {place.name} it ends elsewhere"
        assert equal(predictions(again), predictions(whole))


def test_a_rollback_to_the_latest_save_would_not_resume_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The mutant: a resumed run goes back to where it was resumed, the other to its mark."""
    row = row_of(5)
    monkeypatch.setattr(Learner, "state_dict", lambda self: {**self._state(), "mark": None})
    whole = learner("loss", row, mode="rollback", **ONCE)
    list(whole.learn(stream(), Saves(tmp_path)))
    again = learner("loss", row, mode="rollback", **ONCE)
    again.resume(tmp_path / "004")
    assert again.step == 4 and not equal(finished(again).model.state_dict(), whole.model.state_dict())


# ------------------------------------------------------------------------------------------------------------- in experiments


def bombed(kind: str, mode: str, *changes: str) -> Config:
    bomb = {"name": f"{__name__}:Bomb", "kind": kind, "rows": [9]}
    stage = {
        "methods": [bomb, {"name": "er", "rows": 8}],
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9},
        "batch_size": 16,
    }
    return config(
        *("stream.tasks=2", "watch.every=4", "watch.rows=10", "run.keep=1000", "run.save_every=5", *changes),
        f'run.on_nonfinite="{mode}"',
        stage=[stage],
    )


@pytest.mark.parametrize("mode", ["skip", "rollback"])
def test_the_record_says_what_came_up_and_resumes_exactly(mode: str, tmp_path: Path):
    Experiment(bombed("gradient", mode)).run(tmp_path / "whole")
    said = Run.load(tmp_path / "whole").results[0]
    assert [e["task"] for e in said.nonfinite] == [0, 1]
    assert all(e["tensor"].startswith("the gradient of ") for e in said.nonfinite)
    assert {e["done"] for e in said.nonfinite} == {"skipped" if mode == "skip" else "rolled back"}
    assert (said.nonfinite[0]["back_to"] or 0) % 5 == 0
    saved = sorted((tmp_path / "whole" / "checkpoints" / "seed-0").iterdir())
    for place in saved[1 :: len(saved) // 3]:
        out = tmp_path / place.name
        (out / "checkpoints").mkdir(parents=True)
        (out / "config.toml").write_text((tmp_path / "whole" / "config.toml").read_text())
        (out / "checkpoints" / "seed-0").mkdir()
        (out / "checkpoints" / "seed-0" / place.name).symlink_to(place)
        Experiment(Config.load(out)).resume(out)
        assert same(Run.load(out).repeatable(), Run.load(tmp_path / "whole").repeatable())
        assert same(newest(out), newest(tmp_path / "whole"))


def test_a_stopped_run_has_it_in_its_record(tmp_path: Path):
    with pytest.raises(NonFinite):
        Experiment(bombed("loss", "stop")).run(tmp_path / "run")
    run = Run.load(tmp_path / "run")
    assert run.status == "failed" and run.error.startswith("NonFinite: the loss became NaN or infinite in experience 0")
    event = run.results[0].nonfinite[0]
    assert event["tensor"] == "the loss" and event["done"] == "stopped" and event["step"] in range(1, 60)


def test_what_is_no_answer_to_nan_is_refused():
    with pytest.raises(UnknownName, match="did you mean 'skip'"):
        Learner(Net(), (Stage(Method(), MadeOptimizer()),), on_nonfinite="skp")  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadSetting, match="on_nonfinite"):
        config('run.on_nonfinite="ignore"')
    with pytest.raises(BadSetting, match="mark_every is at least 1"):
        Learner(Net(), (Stage(Method(), MadeOptimizer()),), mark_every=0)


class Told(Listener):
    """What a method holds after each step, and what it holds after one that is undone."""

    def __init__(self) -> None:
        self.states: list[dict[str, Any]] = []
        self.undone: list[int] = []

    def _take(self, learner: Learner) -> None:
        self.states.append(copy.deepcopy(learner.stages[0].method.state_dict()["members"][0]))

    def stepped(self, learner: Learner, loss: Tensor) -> None:
        self._take(learner)

    def left_out(self, learner: Learner, event: dict[str, Any]) -> None:
        self._take(learner)
        self.undone.append(len(self.states) - 1)


@pytest.mark.parametrize(
    "part", [AdaRem(), CLASSP(), SAGE("weight"), ECO(store="int4")], ids=lambda p: type(p).__name__
)
@pytest.mark.parametrize("step", [1, 4])
def test_what_a_rule_learned_from_a_step_that_is_undone_is_undone_too(part: Method, step: int) -> None:
    method = compose(copy.deepcopy(part), Bomb("weight", (row_of(step),)))
    empty = copy.deepcopy(method.members[0].state_dict())
    made = MadeOptimizer("sgd", 0.05, [], {"momentum": 0.9})
    told, whole = Told(), Learner(Net(), (Stage(method, made, **ONCE),), seed=3, on_nonfinite="skip")
    list(whole.learn(stream()[:1], told))
    assert told.undone == [step - 1]
    assert equal(told.states[step - 1], told.states[step - 2] if step > 1 else empty)
    assert isinstance(part, ECO) or not equal(told.states[step], told.states[step - 1])
