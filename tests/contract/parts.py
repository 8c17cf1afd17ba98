"""Every part that the package offers, found in the faces of its rooms: nobody writes a list."""

from __future__ import annotations

from typing import Any

from nacre import heads, memory, metrics, rules
from nacre.catalogue import KINDS, entries, make
from nacre.checks import Case, cases_of
from nacre.core.state import Stateful
from nacre.data import load
from nacre.metrics import Matrix
from nacre.schedules import Phases
from nacre.streams import ARRIVALS, STREAMS, stream

UNCHECKED = {
    "Alignment": "trains a head inside a method, and is checked with those that do so",
    "ClassStatistics": "what heads are made of, with numbers of its own in tests/meaning and tests/heads",
    "Drift": "abstract",
    "Readout": "abstract",
    "Block": "the inside of every memory, and checked with each of them",
    "Memory": "abstract",
    "Motion": "a measurement with numbers of its own in tests/meaning",
}
"""What has state and is no part by itself, with the reason."""


def classes() -> list[type]:
    """Every class with settings and state that a room shows."""
    methods = [e.made_by for e in entries("method")]
    others = [getattr(face, name) for face in (memory, rules, heads, metrics) for name in face.__all__]
    stateful = [c for c in others if isinstance(c, type) and issubclass(c, Stateful) and c.__name__ not in UNCHECKED]
    return [*methods, *stateful]


def cases() -> list[Case]:
    """Each part that can be checked, with every instance that it gives of itself."""
    made: list[Any] = [*classes(), Matrix()]
    made += [part for name in KINDS["schedule"] if isinstance(part := make("schedule", name), Phases)]
    digits = load("digits")
    made += [stream(kind, digits, tasks=3) for kind in STREAMS]
    made += [stream(kind, digits, tasks=3, scenario=s) for kind in ("permuted", "rotated") for s in ("class", "task")]
    made += [stream("re-occurring", digits, tasks=4, rows=9), stream("rotated", digits, tasks=2, smooth=True)]
    made += [stream(kind, digits, tasks=3, arrival=a) for kind in ("blurry", "time-incremental") for a in ARRIVALS][1:]
    return [case for thing in made for case in cases_of(thing)]
