"""Published methods, one file each, named as their papers name them. The empty `Method` is plain fine-tuning.

Each is loaded when it is first used: one method does not cost the import of all.
"""

from __future__ import annotations

import ast
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .adarem import AdaRem
    from .agem import AGEM
    from .classp import CLASSP
    from .cumulative import Cumulative
    from .der import DER, DERpp
    from .eco import ECO
    from .ekpc import EKPC
    from .ema import EMA
    from .er import ER
    from .er_ace import ERACE
    from .ewc import EWC
    from .extrap_sgd import ExtrapSGD
    from .fast_slow import FastSlow
    from .feature_distillation import FeatureDistillation
    from .fpf import FPF
    from .gdumb import GDumb
    from .hybrid_update import HybridUpdate
    from .icarl import ICaRL
    from .joint import Joint
    from .l2 import L2
    from .lcia import LCIA
    from .ldc import LDC
    from .lwf import LwF
    from .mas import MAS
    from .mist import MIST
    from .multiplicative import Multiplicative
    from .nap import NaP
    from .osft import OSFT
    from .ranpac import RanPAC
    from .rlrr import RLRR
    from .sage import SAGE
    from .sara import SaRA
    from .si import SI
    from .simplecil import SimpleCIL
    from .slca import SLCA
    from .slda import SLDA
    from .sotu import SoTU
    from .task_adapters import TaskAdapters

__all__ = [
    "AGEM",
    "CLASSP",
    "DER",
    "ECO",
    "EKPC",
    "EMA",
    "ER",
    "ERACE",
    "EWC",
    "FPF",
    "L2",
    "LCIA",
    "LDC",
    "MAS",
    "MIST",
    "OSFT",
    "RLRR",
    "SAGE",
    "SI",
    "SLCA",
    "SLDA",
    "AdaRem",
    "Cumulative",
    "DERpp",
    "ExtrapSGD",
    "FastSlow",
    "FeatureDistillation",
    "GDumb",
    "HybridUpdate",
    "ICaRL",
    "Joint",
    "LwF",
    "Multiplicative",
    "NaP",
    "RanPAC",
    "SaRA",
    "SimpleCIL",
    "SoTU",
    "TaskAdapters",
]


@cache
def _homes() -> dict[str, str]:
    """The module of each name, read off the imports above, so that they are the only list."""
    tree = ast.parse(Path(__file__).read_text(encoding="utf-8"))
    late = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level == 1 and n.module]
    return {alias.name: str(node.module) for node in late for alias in node.names}


def __getattr__(name: str) -> Any:
    """Load a method where it lives."""
    if name.startswith("_") or name not in _homes():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f".{_homes()[name]}", __name__), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
