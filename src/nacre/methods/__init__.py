"""Published methods, one file each, named as their papers name them. The empty `Method` is plain fine-tuning."""

from .der import DER, DERpp
from .er import ER
from .ewc import EWC
from .joint import Joint
from .lwf import LwF
from .mist import MIST
from .ranpac import RanPAC
from .simplecil import SimpleCIL

__all__ = ["DER", "ER", "EWC", "MIST", "DERpp", "Joint", "LwF", "RanPAC", "SimpleCIL"]
