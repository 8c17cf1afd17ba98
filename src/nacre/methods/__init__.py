"""Published methods, one file each, named as their papers name them. The empty `Method` is plain fine-tuning."""

from .agem import AGEM
from .cumulative import Cumulative
from .der import DER, DERpp
from .eco import ECO
from .er import ER
from .er_ace import ERACE
from .ewc import EWC
from .extrap_sgd import ExtrapSGD
from .gdumb import GDumb
from .icarl import ICaRL
from .joint import Joint
from .lwf import LwF
from .mas import MAS
from .mist import MIST
from .nap import NaP
from .ranpac import RanPAC
from .si import SI
from .simplecil import SimpleCIL
from .slda import SLDA
from .task_adapters import TaskAdapters

__all__ = [
    "AGEM",
    "DER",
    "ECO",
    "ER",
    "ERACE",
    "EWC",
    "MAS",
    "MIST",
    "SI",
    "SLDA",
    "Cumulative",
    "DERpp",
    "ExtrapSGD",
    "GDumb",
    "ICaRL",
    "Joint",
    "LwF",
    "NaP",
    "RanPAC",
    "SimpleCIL",
    "TaskAdapters",
]
