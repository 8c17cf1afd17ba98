"""What holds for every part: its state is complete, its copies are copies, its scratch can be made again."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from ..core.dice import dice
from ..core.errors import BadCheckpoint
from ..core.rows import Batch
from ..core.rule import Rule
from ..core.state import Stateful
from ..learner import Learner, Listener
from ..memory import Memory
from .check import Case, Skipped, check
from .face import PLAIN
from .kinds import is_part, lives, parts_inside
from .runs import end_of, finish, gap, learner, method_of, tensors_of
from .worlds import GROWING, SHORT, VECTORS


@check(lives)
def copies(case: Case) -> None:
    """A deep copy behaves the same afterwards, and shares no memory."""
    if isinstance(case.part, Memory):
        first = _filled(case.fresh())
        second = copy.deepcopy(first)
        _apart(case, first.state_dict(), second.state_dict())
        ends = [(_filled(m, "more").state_dict(), _drawn(m)) for m in (first, second)]
        figure = gap(ends[0], ends[1])
    else:
        stream = VECTORS.stream(SHORT)
        who = learner(case.fresh())
        walk = who.learn(stream)
        next(walk)
        twin = copy.deepcopy(who)
        _apart(case, method_of(who).state_dict(), method_of(twin).state_dict())
        for _ in walk:
            pass
        figure = gap(end_of(who, stream), end_of(finish(twin, stream), stream))
    case.holds(
        not figure, "a deep copy goes on as the first does", figure, "state that copies share, or that is not copied"
    )


@check(is_part)
def state_is_complete(case: Case) -> None:
    """What `state_dict` gives restores every attribute of a fresh part; a checkpoint of another composition is refused."""
    part = _lived(case)
    saved, fresh = copy.deepcopy(part.state_dict()), case.fresh()
    fresh.load_state_dict(saved)
    for name, value in _attributes(part):
        figure = gap(_leaves(value), _leaves(getattr(fresh, name, None)), name)
        case.holds(
            not figure, "every attribute comes back", figure, f"{name!r} is not declared as state() or scratch()"
        )
    try:
        case.fresh().load_state_dict({"nobody has this": 1})
        figure = "it is taken"
    except BadCheckpoint as error:
        figure = "" if type(part).__name__ in str(error) else f"the error does not name the part: {error}"
    except Exception as error:
        figure = f"it raises {type(error).__name__}"
    case.holds(not figure, "state of another part is refused by name", figure, "a load_state_dict of its own")


@check(lives)
def forgets_scratch(case: Case) -> None:
    """With all scratch fields made anew at chosen steps the result is the same, bit for bit."""
    if not any(f.metadata.get("kind") == "scratch" for p in parts_inside(case.part) for f in fields(p)):
        raise Skipped("it has no scratch fields")
    if isinstance(case.part, Memory):
        first, second = _filled(case.fresh()), _filled(case.fresh())
        _clear(second)
        figure = gap(_filled(first, "more").state_dict(), _filled(second, "more").state_dict()) or gap(
            _drawn(first), _drawn(second)
        )
    else:
        stream = VECTORS.stream()
        end = end_of(finish(learner(case.fresh()), stream, Forgets()), stream)
        figure = gap(case.once("whole", lambda: whole(case)), end)
    case.holds(not figure, "scratch can be derived again at any step", figure, "a scratch field that is state")


class Forgets(Listener):
    """Clears all scratch of a learner's part at every third step and at borders."""

    def stepped(self, learner: Learner, loss: Tensor) -> None:
        if learner.step % 3 == 1:
            _clear(method_of(learner))

    def stage_ends(self, learner: Learner) -> None:
        _clear(method_of(learner))


def whole(case: Case) -> dict[str, Any]:
    """The end of the usual run that never stops."""
    stream = VECTORS.stream()
    return end_of(finish(learner(case.fresh()), stream), stream)


def _lived(case: Case) -> Any:
    """A copy of the part with a life behind it, where these checks can give it one."""
    if isinstance(case.part, Memory):
        return _filled(case.fresh())
    if isinstance(case.part, Rule):
        who = learner(case.fresh())
        finish(who, VECTORS.stream(GROWING))
        method = method_of(who)
        return method if type(method) is type(case.part) else method.members[0]  # pyright: ignore[reportAttributeAccessIssue]
    return case.fresh()


def _filled(memory: Memory, place: str = "rows") -> Memory:
    """A memory after three batches of ten rows."""
    for k in range(3):
        y = torch.randint(0, 3, (10,), generator=dice(place, k))
        memory.add(Batch(torch.randn(10, 2, generator=dice(place, k, "x")), y))
    return memory


def _drawn(memory: Memory) -> list[Tensor]:
    past = memory.draw(4)
    return [] if past is None else [past.x, past.y]


def _apart(case: Case, a: Any, b: Any) -> None:
    """Two trees have no memory in common."""
    places = {t.untyped_storage().data_ptr() for t in tensors_of(a) if t.numel()}
    shared = sum(t.untyped_storage().data_ptr() in places for t in tensors_of(b) if t.numel())
    case.holds(not shared, "a deep copy shares no memory", f"{shared} tensors are shared", "a __deepcopy__ of its own")


def _clear(part: Any) -> None:
    for one in parts_inside(part):
        for f in fields(one):
            if f.metadata.get("kind") == "scratch" and callable(f.default_factory):
                setattr(one, f.name, f.default_factory())


def _attributes(part: Any) -> Iterator[tuple[str, Any]]:
    """What a part holds, but for its scratch and the modules that are saved beside the model."""
    scratch = {f.name for f in fields(part) if f.metadata.get("kind") == "scratch"}
    return ((n, v) for n, v in vars(part).items() if n not in scratch and n != "parts")


def _leaves(value: Any) -> Any:
    """A value as it is compared: parts by their attributes, objects by their place, which no other shares."""
    if isinstance(value, Stateful):
        return {n: _leaves(v) for n, v in _attributes(value)}
    if isinstance(value, dict):
        return {str(k): _leaves(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_leaves(v) for v in value]
    if isinstance(value, torch.Generator):
        return value.get_state()
    return value if isinstance(value, (Tensor, *PLAIN)) else repr(value)
