"""Which checks are meant for which parts: questions about what a part is and which hooks it speaks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from ..core.method import trains
from ..core.rule import Rule
from ..core.state import Stateful
from ..memory import Block, Memory
from ..metrics import Matrix
from ..schedules import Phases
from ..streams import Arriving, FromData
from .check import excuses_of
from .runs import as_method, joins

HOOKS = ("shape_grads", "shape_weights", "resting")
"""What a part says around the step."""


def rests_something(part: Any) -> bool:
    """Whether a part asks entries to rest."""
    return isinstance(part, Rule) and part.overrides("resting")


def shapes_grads(part: Any) -> bool:
    """Whether a part shapes gradients."""
    return isinstance(part, Rule) and part.overrides("shape_grads")


def shapes(part: Any) -> bool:
    """Whether a part acts around the step."""
    return isinstance(part, Rule) and any(map(part.overrides, HOOKS))


def grads_or_weights(part: Any) -> bool:
    """Whether a part shapes gradients or weights."""
    return isinstance(part, Rule) and (part.overrides("shape_grads") or part.overrides("shape_weights"))


def learns(part: Any) -> bool:
    """Whether a part can be carried through a stream."""
    return isinstance(part, Rule)


def meets_tasks(part: Any) -> bool:
    """Whether a part meets one task after the other."""
    return isinstance(part, Rule) and not joins(part)


def remembers_tasks(part: Any) -> bool:
    """Whether a part learns something at the end of tasks or of steps."""
    return meets_tasks(part) and (part.overrides("end_stage") or part.overrides("after_step"))


def is_part(part: Any) -> bool:
    """Whether it is a part with settings and state."""
    return isinstance(part, Stateful)


def lives(part: Any) -> bool:
    """Whether it can be given a life by these checks."""
    return isinstance(part, (Rule, Memory))


def is_excused(part: Any) -> bool:
    """Whether a part is excused from anything."""
    return bool(excuses_of(part))


def is_memory(part: Any) -> bool:
    """Whether it keeps rows of the past."""
    return isinstance(part, Memory)


def is_schedule(part: Any) -> bool:
    """Whether it maps steps to multipliers."""
    return isinstance(part, Phases)


def is_stream(part: Any) -> bool:
    """Whether it brings one task after the other."""
    return is_whole_stream(part) or arrives(part)


def is_whole_stream(part: Any) -> bool:
    """Whether it is made of a data set, with all rows of a task at once."""
    return isinstance(part, FromData)


def arrives(part: Any) -> bool:
    """Whether it is a stream whose rows are met once."""
    return isinstance(part, Arriving)


def is_matrix(part: Any) -> bool:
    """Whether it sums scores up."""
    return isinstance(part, Matrix)


def is_off(part: Any) -> bool:
    """Whether a part stands at the settings that it declares as `off`."""
    return bool(part.off) and all(getattr(part, name) == value for name, value in part.off.items())


def trains_something(part: Any) -> bool:
    """Whether a part's stage takes optimizer steps."""
    return isinstance(part, Rule) and trains(as_method(part))


def admits_rows(part: Any) -> bool:
    """Whether a part keeps rows of the stream in a block."""
    return learns(part) and part.overrides("after_step") and any(isinstance(p, Block) for p in parts_inside(part))


def parts_inside(part: Any) -> Iterator[Any]:
    """The part and the parts in its fields."""
    if isinstance(part, Stateful):
        yield part
        for f in fields(part):
            value = getattr(part, f.name, None)
            for inner in value if isinstance(value, (tuple, list)) else [value]:
                yield from parts_inside(inner)
