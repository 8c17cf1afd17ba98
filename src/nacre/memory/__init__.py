"""What is remembered: rows of the past, in bounded memory."""

from .balanced import ClassBalanced
from .block import Block, fields_of, replayed
from .memory import Memory
from .reservoir import Reservoir

__all__ = ["Block", "ClassBalanced", "Memory", "Reservoir", "fields_of", "replayed"]
