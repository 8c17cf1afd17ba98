"""What holds wherever a run is stopped, driven, watched or composed: the same bits come out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.drive import Drive
from ..core.method import Method, compose, leaves
from ..core.model import fingerprint
from ..core.state import Stateful
from ..learner import Learner, Listener
from . import again as other
from .check import Case, Skipped, check
from .disturb import other_seeds, somebody_draws
from .kinds import learns, meets_tasks
from .partners import Cap, Replayer, Rester
from .runs import (
    Saves,
    Stream,
    as_met,
    end_of,
    finish,
    gap,
    in_a_folder,
    joins,
    learner,
    method_of,
    resumed,
    some_steps,
    steps_of,
    tests_of,
)
from .state import whole
from .steps import take_steps
from .worlds import SHORT, VECTORS, calm


@check(learns)
def resumes_exactly(case: Case) -> None:
    """From every border and 4 steps, through files and into fresh objects, the end is that of the run that never stopped."""
    stream = VECTORS.stream()
    with in_a_folder() as folder:
        who = learner(case.fresh())
        saves = Saves(Path(folder), some_steps(steps_of(who, stream), 4, case.seed))
        end = end_of(finish(who, stream, saves), stream)
        for place in saves.places():
            where, again = resumed(place, learner(case.fresh()), stream)
            _same_end(case, f"resumed from {where}", end, again)


@check(learns)
def seeded(case: Case) -> None:
    """The same seed gives the same bits whatever the global generator holds; each seed that it has decides something."""
    end = case.once("whole", lambda: whole(case))
    with other_seeds():
        again = whole(case)
    _same_end(case, "after other global seeds", end, again, "a draw from a global generator: use nacre.core.dice")
    ends = []
    for mark in (1, 2):
        with other_seeds(mark):
            ends.append(_driven_without_a_seed(case))
    _same_end(
        case, "in a loop that seeds nothing", ends[0], ends[1], "a draw from torch's generator: use nacre.core.dice"
    )
    for k in range(len(_seeds(case.part))):
        changed = case.fresh()
        part, name = _seeds(changed)[k]
        setattr(part, name, getattr(part, name) + 1)
        where = f"{type(part).__name__}.{name}"
        stream = VECTORS.stream()
        figure = gap(end, end_of(finish(learner(changed), stream), stream))
        case.holds(
            bool(figure), f"another {where} gives another result", "the result is the same", "a seed that nobody reads"
        )


@check(meets_tasks)
def comes_back(case: Case) -> None:
    """Where the structure changed twice, a fresh process with a fresh model carries the third task on, bit for bit."""
    if case.origin is None:
        raise Skipped("only what stands in examples() of an importable class can be made again by another process")
    stream = VECTORS.stream()
    with in_a_folder() as folder:
        who = other.made(case.origin)
        saves = Saves(Path(folder) / "saved", [steps_of(who, stream) - 2], borders=not steps_of(who, stream))
        end = end_of(finish(who, stream, saves), stream)
        place = saves.places()[-1]
        there = other.carried_on(case.origin, place, Path(folder) / "end")
        _same_end(case, f"carried on by another process from {place.name.replace('-', ' ')}", end, there)


@check(learns)
def own_loop(case: Case) -> None:
    """Driven by `Drive` in a plain loop, the bits are those of the learner."""
    stream = VECTORS.stream()
    mine = learner(case.fresh(), accumulate=1, clip=None)
    stage = mine.stages[0]
    for met in as_met(case.part, stream):
        with Drive(stage.method, mine.model, stage.optimizer, met.task, augment=stage.augment, seed=mine.seed) as drive:
            for epoch in range(stage.epochs) if stage.optimizer is not None else ():
                for batch in drive.batches(epoch, stage.batch_size):
                    drive.optimizer.zero_grad()
                    drive.loss(batch).backward()
                    drive.optimizer.step()
                    drive.stepped()
    whole = finish(learner(case.fresh(), accumulate=1, clip=None), stream)
    _same_end(case, "in an own loop", end_of(whole, stream), end_of(mine, stream), "work done beside the hooks")


@check(learns)
def watch_is_free(case: Case) -> None:
    """A run that is watched at every step equals one that is not, bit for bit."""
    stream = VECTORS.stream()
    who = finish(learner(case.fresh()), stream, _Watches(stream))
    end = case.once("whole", lambda: whole(case))
    _same_end(case, "watched", end, end_of(who, stream), "predict() that learns, counts, or draws")


@check(learns)
def composes(case: Case) -> None:
    """Beside a cap, a replayer and a rester, in both orders, it resumes exactly; beside the empty method nothing changes."""
    if any(type(m) in (Replayer, Cap, Rester) for m in leaves(case.part)):
        raise Skipped("it is one of the partners")
    stream = VECTORS.stream(SHORT)
    for kind in (Cap, Replayer, Rester):
        for order in ((0, 1), (1, 0)):
            both = [case.fresh(), kind()]
            words = " and ".join(type(both[i]).__name__ for i in order)
            _resumes(case, f"composed as {words}", [case.fresh, kind], order, stream)
    for order in ((0, 1), (1, 0)):
        whole = compose(*[(case.fresh(), Method())[i] for i in order])
        if joins(case.part):
            break  # a second stage of joined tasks is another run
        end = end_of(finish(learner(whole), stream), stream)["model"]
        alone = end_of(finish(learner(case.fresh()), stream), stream)["model"]
        _same_end(case, "composed with the empty method", alone, end, "hooks that ask who else is there")


def _driven_without_a_seed(case: Case) -> Any:
    """The end of two tasks in a loop whose driver leaves the global generators alone; there is no dropout to draw."""
    mine = learner(case.fresh(), model=calm())
    stage = mine.stages[0]
    for met in as_met(case.part, VECTORS.stream(SHORT)):
        with Drive(stage.method, mine.model, stage.optimizer, met.task) as drive:
            if stage.optimizer is not None:
                take_steps(drive, 2)
    return {"model": mine.model.state_dict(), "state": method_of(mine).state_dict()}


class _Watches(Listener):
    """Reads all it can after every step, and draws."""

    def __init__(self, stream: Stream):
        self.stream = stream

    def stepped(self, learner: Learner, loss: Tensor) -> None:
        somebody_draws()
        learner.predict(tests_of(self.stream))
        fingerprint(learner.model)


def _same_end(case: Case, how: str, end: Any, again: Any, cause: str = "") -> None:
    figure = gap(end, again)
    usual = "something it remembers that is neither state() nor counted dice: a plain attribute, a generator, a cache"
    case.holds(not figure, f"{how}, the end is the same bit for bit", figure, cause or usual)


def _resumes(case: Case, how: str, kinds: Sequence[Any], order: tuple[int, int], stream: Stream) -> None:
    """A composition, saved in the middle of its run, ends as the one that never stopped."""

    def make() -> Learner:
        made = [kind() for kind in kinds]
        return learner(compose(*[made[i] for i in order]), epochs=1)

    with in_a_folder() as folder:
        who = make()
        saves = Saves(Path(folder), some_steps(steps_of(who, stream), 1, case.seed))
        end = end_of(finish(who, stream, saves), stream)
        for place in saves.places()[-2:]:
            where, again = resumed(place, make(), stream)
            _same_end(case, f"{how} and resumed from {where}", end, again)


def _seeds(part: Any) -> list[tuple[Any, str]]:
    """Every setting called seed, of the part and of the parts inside it."""
    found: list[tuple[Any, str]] = []
    for f in fields(part) if is_dataclass(part) else ():
        value = getattr(part, f.name, None)
        if f.name == "seed" and f.init:
            found.append((part, f.name))
        elif isinstance(value, Stateful) and f.init:
            found += _seeds(value)
    return found
