"""Named schedules: functions from a few numbers to phases."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from ..core.errors import BadSetting, UnknownName
from .phases import Phase, Phases


def constant(warmup: int | float = 0) -> Phases:
    """The peak rate throughout, after a linear warm-up of `warmup` steps or share.

    Args:
        warmup: Steps, or the share of the stage, over which the rate rises to its peak.
    """
    return _warm(warmup)


def linear_decay(warmup: int | float = 0, floor: float = 0.0) -> Phases:
    """Warm up, then go down in a straight line to `floor` times the peak.

    Args:
        warmup: Steps, or the share of the stage, over which the rate rises to its peak.
        floor: The multiplier that it ends with.
    """
    return _warm(warmup, Phase(_rest(warmup), 1.0, floor, "linear"))


def cosine_decay(warmup: int | float = 0, floor: float = 0.0) -> Phases:
    """Warm up, then go down along half a cosine to `floor` times the peak.

    Args:
        warmup: Steps, or the share of the stage, over which the rate rises to its peak.
        floor: The multiplier that it ends with.
    """
    return _warm(warmup, Phase(_rest(warmup), 1.0, floor, "cosine"))


def wsd(warmup: int | float = 0.05, decay: float = 0.2, floor: float = 0.0) -> Phases:
    """Warm up, hold, and decay linearly over the last `decay` share: warm-up, stable, decay.

    Args:
        warmup: Share of the stage over which the rate rises to its peak.
        decay: Share of the stage over which it falls at the end.
        floor: The multiplier that it ends with.
    """
    if (warmup and not isinstance(warmup, float)) or warmup + decay > 1:
        raise BadSetting(f"wsd takes shares with warmup + decay <= 1, not {warmup!r} and {decay!r}")
    return _warm(warmup, Phase(float(1 - warmup - decay), 1.0, 1.0), Phase(float(decay), 1.0, floor))


SCHEDULES: dict[str, Callable[..., Phases]] = {
    "constant": constant,
    "linear": linear_decay,
    "cosine": cosine_decay,
    "wsd": wsd,
}


def schedule(name: str = "constant", **settings: Any) -> Phases:
    """A schedule by its name.

    Raises:
        UnknownName: no schedule, or no setting of it, has this name; the message names the nearest.

    >>> schedule("cosine", warmup=2).over(10)(1)
    1.0
    """
    if name not in SCHEDULES:
        raise UnknownName("schedule", name, SCHEDULES)
    known = inspect.signature(SCHEDULES[name]).parameters
    for key, value in settings.items():
        if key not in known:
            raise UnknownName(f"setting of schedule {name!r}", key, known)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value < 0:
            raise BadSetting(f"{key} of schedule {name!r} is a number of at least 0, not {value!r}")
        if isinstance(value, float) and value > 1:
            raise BadSetting(
                f"{key} of schedule {name!r} is a share in [0, 1] or a whole number of steps, not {value!r}"
            )
    return SCHEDULES[name](**settings)


def _rest(warmup: int | float) -> float:
    return 1.0 - warmup if isinstance(warmup, float) else 1.0


def _warm(warmup: int | float, *phases: Phase) -> Phases:
    return Phases(((Phase(warmup, 0.0, 1.0),) if warmup else ()) + phases)
