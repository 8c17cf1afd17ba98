"""What is remembered: rows of the past, in bounded memory."""

from .balanced import ClassBalanced, Greedy, TaskBalanced
from .block import Block, fields_of, replayed
from .herding import Herding, herd
from .kinds import AnyMemory
from .memory import Memory, part
from .reservoir import Reservoir
from .ring import Ring

__all__ = [
    "AnyMemory",
    "Block",
    "ClassBalanced",
    "Greedy",
    "Herding",
    "Memory",
    "Reservoir",
    "Ring",
    "TaskBalanced",
    "fields_of",
    "herd",
    "part",
    "replayed",
]
