"""Which checks a part must pass, and the parts that are found in a module."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import ModuleType
from typing import Any

from ..core.errors import BadSetting, UnknownName
from ..core.state import Stateful
from . import (
    admission,
    buffer,
    errors,
    face,
    machine,
    method,
    metric,
    rest,
    resume,
    rule,
    schedule,
    state,
    stream,
    together,
)
from .check import Case, Check, Verdict, check, excuses_of
from .kinds import is_excused

ROOMS = (
    face,
    state,
    errors,
    rest,
    rule,
    method,
    resume,
    machine,
    together,
    admission,
    buffer,
    schedule,
    stream,
    metric,
)
EVERY: tuple[Check, ...] = tuple(held for room in ROOMS for held in vars(room).values() if isinstance(held, Check))
"""All checks, in the order in which they are run."""


@check(is_excused)
def excuses_are_needed(case: Case) -> None:
    """Each check that a class is excused from exists, and at least one of its examples does not pass it."""
    known = {c.name: c for c in EVERY}
    for name, reason in excuses_of(case.part).items():
        case.holds(name in known, f"{name!r} is the name of a check", "there is none", f"known are {', '.join(known)}")
        case.holds(
            len(reason) > 20, f"the excuse from {name} gives its reason", f"it says {reason!r}", "an empty excuse"
        )
        if known[name].needs != "cpu":
            continue  # looked at where such checks are run
        found = [known[name].verdict(other).outcome for other in type(case.part).examples()]
        case.holds(
            "excused" in found or "passed" not in found, f"some example does not pass {name}",
            f"all {len(found)} do", "an excuse that has outlived its cause: drop it",
        )  # fmt: skip


EVERY = (*EVERY, excuses_are_needed)
NAMES = tuple(c.name for c in EVERY)


def checks_for(part: Any, only: Sequence[str] = ()) -> Iterator[Check]:
    """The checks that apply to a part, chosen by what it is and which hooks it speaks.

    Args:
        part: An instance.
        only: Names of checks; empty = all.

    Raises:
        UnknownName: no check has such a name; the nearest is named.

    >>> from nacre.memory import Reservoir
    >>> [c.name for c in checks_for(Reservoir(), only=["bounded", "rests"])]
    ['bounded']
    """
    for name in only:
        if name not in NAMES:
            raise UnknownName("check", name, NAMES)
    return (c for c in EVERY if (not only or c.name in only) and c.applies(part))


def cases_of(thing: Any, seed: int = 0) -> list[Case]:
    """What is checked of a class (its `examples()`), an instance, or a module (every class of parts that it defines).

    Raises:
        BadSetting: there is nothing in it that can be checked.
    """
    if isinstance(thing, ModuleType):
        mine = [c for c in vars(thing).values() if _is_kind(c) and c.__module__ == thing.__name__]
        if not mine:
            raise BadSetting(
                f"the module {thing.__name__} defines no method, rule or memory that could be checked: name the class that "
                "shall be, or the module that defines it"
            )
        return [case for kind in mine for case in cases_of(kind, seed)]
    if isinstance(thing, type):
        if not _is_kind(thing):
            raise BadSetting(
                f"{thing.__name__} is no method, rule or memory: derive it from nacre.Method or nacre.Rule"
            )
        found = "<locals>" not in thing.__qualname__ and thing.__module__ != "__main__"  # by another process
        place = f"{thing.__module__}:{thing.__qualname__}"
        try:
            parts = list(thing.examples())
        except TypeError as error:
            raise BadSetting(
                f"{thing.__name__} cannot be made without words ({error}): say by examples() how it is to be tested"
            ) from error
        if not parts:
            raise BadSetting(f"{thing.__name__}.examples() gives nothing: yield at least one instance to be tested")
        return [Case(part, seed, (place, k) if found else None) for k, part in enumerate(parts)]
    if not any(True for _ in checks_for(thing)):
        raise BadSetting(
            f"no check knows what a {type(thing).__name__} is: give a method, rule, memory, schedule or stream"
        )
    return [Case(thing, seed)]


def prove(things: Iterable[Any], only: Sequence[str] = (), seed: int = 0) -> Iterator[tuple[Case, Verdict]]:
    """Run every check that applies on every case of these classes, instances and modules."""
    for thing in things:
        for case in cases_of(thing, seed):
            for each in checks_for(case.part, only):
                yield case, each.verdict(case)


def parametrize_with_checks(things: Sequence[Any], only: Sequence[str] = (), seed: int = 0) -> Callable[[Any], Any]:
    """A pytest decorator: one test for each pair of a part and a check that applies to it.

    Args:
        things: Classes (all their examples), instances, modules.
        only: Names of checks; empty = all.
        seed: Seeds worlds and the choice of steps.

    Example:
        >>> from nacre.memory import Reservoir
        >>> @parametrize_with_checks([Reservoir])
        ... def test_reservoir(case, check):
        ...     check(case)
    """
    import pytest

    pairs = [(case, each) for thing in things for case in cases_of(thing, seed) for each in checks_for(case.part, only)]
    return pytest.mark.parametrize(("case", "check"), pairs, ids=[f"{case.name}-{each.name}" for case, each in pairs])


def _is_kind(thing: Any) -> bool:
    return isinstance(thing, type) and issubclass(thing, Stateful) and not inspect.isabstract(thing)
