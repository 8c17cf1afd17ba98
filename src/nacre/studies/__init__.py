"""Published claims about learning: a small experiment each, its figures, and what they say of the claim."""

from .claim import Claim, Study
from .linear_tasks import LinearTasks, crossovers, simulate
from .named import STUDIES
from .update_magnitude import update_magnitude

__all__ = ["STUDIES", "Claim", "LinearTasks", "Study", "crossovers", "simulate", "update_magnitude"]
