"""What holds for every method, and for every rule that is carried through a stream like one: what it does, and when."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from typing import Any

import torch
from torch import Tensor

from ..core.errors import NacreError, TooFewRows
from ..core.method import Method, trains
from ..core.model import grow
from ..core.rows import Chain, TensorRows
from ..core.stream import Experience, Task
from ..learner import Learner, Listener
from .check import Case, Skipped, check
from .kinds import is_off, learns, meets_tasks, remembers_tasks
from .machine import stays_finite
from .rule import switched_off
from .runs import SGD, Stream, as_method, end_of, finish, finite, gap, learner, method_of, tensors_of, tests_of
from .state import whole
from .worlds import SHORT, VECTORS, View, calm

LARGE = 1e6


@check(learns)
def does_something(case: Case) -> None:
    """Away from its `off` settings it ends elsewhere than fine-tuning: in weights, or in what it answers."""
    if is_off(case.part):
        raise Skipped("it is switched off")
    if type(case.part) is Method:
        raise Skipped("it is fine-tuning")
    plain = end_of(finish(learner(Method()), stream := VECTORS.stream()), stream)
    end = case.once("whole", lambda: whole(case))
    figure = "weights and answers are equal bit for bit"
    differs = gap(plain["model"], end["model"]) or gap(plain["answers"], end["answers"])
    case.holds(
        bool(differs), "it ends elsewhere than fine-tuning", figure, "a penalty that is always zero, or a hook unheard"
    )


@check(remembers_tasks)
def remembers(case: Case) -> None:
    """What the first task's rows were shows after the second task, even if the weights are taken back in between."""
    ends = []
    for seed in (0, 1):
        stream = [VECTORS.stream(SHORT, seed=seed)[0], VECTORS.stream(SHORT)[1]]
        who = learner(case.fresh(), model=calm())
        walk = who.learn(stream)
        next(walk)
        start = calm()
        grow(start, 2)
        who.model.load_state_dict(start.state_dict(), strict=False)
        for _ in walk:
            pass
        end = end_of(who, VECTORS.stream(SHORT))
        if not any(True for _ in tensors_of(end["state"])):
            raise Skipped("it keeps no tensors, so there is nothing of the rows to remember")
        ends.append([end["model"], end["answers"]])
    case.holds(
        bool(gap(ends[0], ends[1])), "other rows in the first task lead to another end", "the end is the same bit for bit",
        "what is remembered of a task is taken when the next one begins, or is never read",
    )  # fmt: skip


@check(meets_tasks)
def grows(case: Case) -> None:
    """With 2, then 4, then 6 classes it answers for all of them, and every new weight is in the optimizer."""
    stream = VECTORS.stream()
    who, seen, same = learner(case.fresh()), _Held(case), tests_of(stream[:1])
    for met in who.learn(stream, seen):
        width = 2 * met.task.index + 2
        figure = gap(who.predict(tests_of(stream[:1])), who.predict(same))
        case.holds(
            not figure, "rows asked again after a task are answered anew", figure, "answers kept from before the task"
        )
        scores = who.predict(tests_of(stream[: met.task.index + 1]))
        case.holds(
            scores.shape[1] == width,
            f"after {met.task.index + 1} tasks it answers for {width} classes",
            f"it answers for {scores.shape[1]}",
            "a width kept from the first task: read kept tensors through nacre.core.state.grown",
        )
        case.holds(
            finite(scores[scores != -torch.inf]) and bool((scores != -torch.inf).any(0).all()),
            "it scores every class that was met", "scores are NaN or -inf", "classes that came later are left out",
        )  # fmt: skip


@check(meets_tasks)
def odd_streams(case: Case) -> None:
    """Empty, one-row, one-class, repeated and last tasks of another size end with finite weights, or say what they need."""
    usual = VECTORS.stream((*SHORT, (0, 1)))
    nothing = TensorRows(torch.empty(0, 8), torch.empty(0, dtype=torch.long))
    one = TensorRows(torch.ones(1, 8), torch.tensor([0]))
    two, back, other = usual[0], usual[2], VECTORS.stream(((0,), (1, 2, 3)), rows=9)
    streams: dict[str, Stream] = {
        "an empty task first": [Experience(Task(0, nothing)), _at(1, two)],
        "an empty task in the middle": [two, Experience(Task(1)), _at(2, usual[1])],
        "a task of one row": [Experience(Task(0, one, (0,))), _at(1, two)],
        "a task of one class, and one of another size": other,
        "classes that come back": [two, usual[1], back],
        "a single task": [two],
    }
    for kind, stream in streams.items():
        who = learner(case.fresh(), model=VECTORS.model(norm=False))
        try:
            finish(who, stream)
        except TooFewRows:
            continue
        stays_finite(case, kind, who)


@check(learns)
def finite_at_extremes(case: Case) -> None:
    """At its `off` settings it is fine-tuning, bit for bit; any strength times 1e6 stays finite or raises with advice."""
    stream = VECTORS.stream(SHORT)
    if case.part.off and not case.part.overrides("predict"):
        off = finish(learner(switched_off(case.fresh())), stream).model.state_dict()
        plain = finish(learner(Method()), stream).model.state_dict()
        figure = gap(plain, off)
        case.holds(
            not figure, f"with {case.part.off} it is fine-tuning", figure, "a term or draw that is never skipped"
        )
    strengths = _strengths(case.part)
    for name in strengths:
        for hard in ({}, {"optimizer": SGD, "clip": None}):
            part = case.fresh()
            setattr(part, name, LARGE * getattr(part, name))
            who = learner(part, **(hard if trains(as_method(part)) else {}))
            try:
                finish(who, stream)
            except NacreError:
                continue
            stays_finite(case, f"{name} = {getattr(part, name):g}", who)
    if not case.part.off and not strengths:
        raise Skipped("it declares no `off` settings and has no strength without an upper bound")


@check(meets_tasks)
def no_peeking(case: Case) -> None:
    """Training ignores later tasks and test rows; answers ignore hidden task ids and test labels."""
    usual = VECTORS.stream()
    other = [*usual[:2], *VECTORS.stream((*SHORT, (6, 4, 5)), rows=11, seed=1)[2:]]
    for after in (1, 2):
        case.holds(
            not (figure := gap(_after(case, usual, after), _after(case, other, after))),
            f"task {after - 1} is learned alike whatever follows", figure, "a part that looks ahead in the stream",
        )  # fmt: skip
    stream = VECTORS.stream()
    who = learner(case.fresh())
    view = stream[0].task.train
    assert isinstance(view, View)
    allowed: set[int] = set()
    view.store.read.clear()
    for met in who.learn(stream):
        rows = met.task.train.parts if isinstance(met.task.train, Chain) else (met.task.train,)
        allowed |= {v.piece for v in rows if isinstance(v, View)}
        strange = view.store.read - allowed
        case.holds(
            not strange,
            f"training on task {met.task.index} reads training rows up to it only",
            f"it read {len(strange)} other pieces of the data: test rows, or those of later tasks",
            "rows reached through the object that holds them",
        )
    batch = tests_of(stream)
    answers = who.predict(batch)
    for task in (torch.zeros_like(batch.y), batch.y // 2):
        figure = gap(answers, who.predict(replace(batch, task=task)))
        case.holds(not figure, "answers ignore a task id that the stream hides", figure, "batch.task read in predict()")
    alone = torch.cat([who.predict(batch.pick(slice(i, i + 1))) for i in range(4)])
    figure = gap(answers[:4], alone, within=1e-4)
    case.holds(
        not figure, "a row is answered alone as among others", figure, "statistics of test rows read in predict()"
    )
    figure = gap(answers, who.predict(replace(batch, y=batch.y.flip(0))))
    case.holds(not figure, "answers ignore the labels of test rows", figure, "batch.y read in predict()")


class _Held(Listener):
    """Sees at each step that the optimizer holds every weight that may move."""

    def __init__(self, case: Case):
        self.case = case

    def stepped(self, learner: Learner, loss: Tensor) -> None:
        assert learner.optimizer is not None
        held = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
        left = [n for n, p in learner.model.named_parameters() if p.requires_grad and id(p) not in held]
        self.case.holds(
            not left, "the optimizer holds every weight that may move", f"it lacks {', '.join(left)}",
            "a head that grew after the optimizer was made: grow in prepare() or begin_stage()",
        )  # fmt: skip


def _after(case: Case, stream: Stream, tasks: int) -> dict[str, Any]:
    """Weights and state after the first tasks of a stream."""
    who = learner(case.fresh())
    walk = who.learn(stream)
    for _ in range(tasks):
        next(walk)
    return {"model": who.model.state_dict(), "state": method_of(who).state_dict()}


def _at(index: int, met: Experience) -> Experience:
    return Experience(replace(met.task, index=index), met.tests)


def _strengths(part: Any) -> list[str]:
    """Settings that are numbers without an upper bound."""
    return [
        f.name
        for f in fields(part)
        if f.init
        and isinstance(getattr(part, f.name), float)
        and f.metadata.get("high") is None
        and f.default is not MISSING
    ]
