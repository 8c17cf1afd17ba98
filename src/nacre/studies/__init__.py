"""Published claims about learning: a small experiment each, its figures, and what they say of the claim."""

from .claim import Claim, Study
from .linear_tasks import LinearTasks, crossovers, simulate
from .update_magnitude import update_magnitude

STUDIES = {"update-magnitude": update_magnitude}
"""Every study by the name that the command line knows it by."""

__all__ = ["STUDIES", "Claim", "LinearTasks", "Study", "crossovers", "simulate", "update_magnitude"]
