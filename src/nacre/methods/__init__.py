"""Published methods, one file each, named as their papers name them. The empty `Method` is plain fine-tuning."""

from .er import ER
from .ewc import EWC
from .joint import Joint
from .mist import MIST
from .ranpac import RanPAC
from .simplecil import SimpleCIL

__all__ = ["ER", "EWC", "MIST", "Joint", "RanPAC", "SimpleCIL"]
