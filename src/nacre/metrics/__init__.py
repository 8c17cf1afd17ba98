"""Measuring: scores by moment and task, how far what moved, and what it cost."""

from .cost import forget_peak, peak_memory
from .matrix import START, Matrix
from .motion import Motion
from .score import accuracy, score

__all__ = ["START", "Matrix", "Motion", "accuracy", "forget_peak", "peak_memory", "score"]
