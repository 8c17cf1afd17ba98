"""Published methods, one file each, named as their papers name them. The empty `Method` is plain fine-tuning."""

from .adarem import AdaRem
from .agem import AGEM
from .classp import CLASSP
from .cumulative import Cumulative
from .der import DER, DERpp
from .er import ER
from .er_ace import ERACE
from .ewc import EWC
from .gdumb import GDumb
from .icarl import ICaRL
from .joint import Joint
from .lwf import LwF
from .mas import MAS
from .mist import MIST
from .multiplicative import Multiplicative
from .ranpac import RanPAC
from .sage import SAGE
from .si import SI
from .simplecil import SimpleCIL
from .slda import SLDA
from .task_adapters import TaskAdapters

__all__ = [
    "AGEM",
    "CLASSP",
    "DER",
    "ER",
    "ERACE",
    "EWC",
    "MAS",
    "MIST",
    "SAGE",
    "SI",
    "SLDA",
    "AdaRem",
    "Cumulative",
    "DERpp",
    "GDumb",
    "ICaRL",
    "Joint",
    "LwF",
    "Multiplicative",
    "RanPAC",
    "SimpleCIL",
    "TaskAdapters",
]
