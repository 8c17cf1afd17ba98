"""Published methods, one file each, named as their papers name them. The empty `Method` is plain fine-tuning."""

from .agem import AGEM
from .cumulative import Cumulative
from .der import DER, DERpp
from .er import ER
from .er_ace import ERACE
from .ewc import EWC
from .fpf import FPF
from .gdumb import GDumb
from .hybrid_update import HybridUpdate
from .icarl import ICaRL
from .joint import Joint
from .l2 import L2
from .lwf import LwF
from .mas import MAS
from .mist import MIST
from .ranpac import RanPAC
from .si import SI
from .simplecil import SimpleCIL
from .slda import SLDA
from .task_adapters import TaskAdapters

__all__ = [
    "AGEM",
    "DER",
    "ER",
    "ERACE",
    "EWC",
    "FPF",
    "L2",
    "MAS",
    "MIST",
    "SI",
    "SLDA",
    "Cumulative",
    "DERpp",
    "GDumb",
    "HybridUpdate",
    "ICaRL",
    "Joint",
    "LwF",
    "RanPAC",
    "SimpleCIL",
    "TaskAdapters",
]
