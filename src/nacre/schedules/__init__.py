"""When weights move: learning-rate schedules as data."""

from .phases import Phase, Phases
from .recipes import SCHEDULES, constant, cosine_decay, linear_decay, schedule, wsd

__all__ = ["SCHEDULES", "Phase", "Phases", "constant", "cosine_decay", "linear_decay", "schedule", "wsd"]
