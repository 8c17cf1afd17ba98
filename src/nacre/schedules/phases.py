"""Learning-rate schedules as data: phases with named shapes, lengths in steps or in shares of a total.

A schedule multiplies the peak rate. It is a function of the step and has no state, so a resumed run goes on exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..core.errors import BadSetting, UnknownName


def linear(start: float, end: float, t: float) -> float:
    """A straight line."""
    return start + (end - start) * t


def cosine(start: float, end: float, t: float) -> float:
    """Half a cosine wave: flat at both ends."""
    return end + (start - end) * (1 + math.cos(math.pi * t)) / 2


def inverse(start: float, end: float, t: float) -> float:
    """Linear in 1/value, so neither end may be 0."""
    return 1 / ((1 - t) / start + t / end)


SHAPES: dict[str, Callable[[float, float, float], float]] = {"linear": linear, "cosine": cosine, "inverse": inverse}


@dataclass(frozen=True)
class Phase:
    """One piece of a schedule.

    Attributes:
        length: An int counts steps; a float in (0, 1] is a share of the whole.
        start: Multiplier that it comes from: a falling or flat phase begins with it, a rising one is just above it.
        end: Multiplier that it goes to: a rising phase reaches it at its last step, a falling one just after. So neither a
            warm-up nor a decay to 0 has a step that trains nothing.
        shape: How it goes from one to the other: linear, cosine, inverse.
        jump: Whether it is meant to begin elsewhere than where the phase before ended.
    """

    length: int | float
    start: float
    end: float
    shape: str = "linear"
    jump: bool = False

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise UnknownName("shape", self.shape, SHAPES)
        if self.shape == "inverse" and 0 in (self.start, self.end):
            raise BadSetting("an inverse phase never reaches 0: use a small floor")
        if self.length < 0 or (isinstance(self.length, float) and self.length > 1):
            raise BadSetting(f"a phase's length is a number of steps or a share in (0, 1], not {self.length!r}")


@dataclass(frozen=True)
class Phases:
    """One phase after another; the last value is held. Pure: nothing to save.

    >>> rate = Phases((Phase(2, 0.0, 1.0), Phase(0.5, 1.0, 0.0, "cosine"))).over(8)
    >>> [round(rate(step), 3) for step in range(7)]
    [0.5, 1.0, 1.0, 0.854, 0.5, 0.146, 0.0]
    """

    phases: tuple[Phase, ...] = ()

    @property
    def has_shares(self) -> bool:
        """Whether a length is a share, so that the total must be known."""
        return any(isinstance(p.length, float) for p in self.phases)

    def over(self, total: int) -> Phases:
        """The same with shares resolved to steps of a stage of `total`; what goes beyond its end is cut."""
        resolved, used, place = [], 0, 0.0
        for p in self.phases:
            place += p.length if isinstance(p.length, int) else p.length * total
            end = round(place) if isinstance(p.length, int) else max(min(round(place), total), used)
            resolved.append(replace(p, length=end - used))
            used = end
        return Phases(tuple(resolved))

    def __call__(self, step: int) -> float:
        """The multiplier of the step with this number, from 0; call `over` first if there are shares."""
        for p in self.phases:
            if step < p.length:
                return SHAPES[p.shape](p.start, p.end, (step + (p.end > p.start)) / p.length)
            step -= int(p.length)
        return self.phases[-1].end if self.phases else 1.0
