"""Nacre: continual learning for pre-trained models, with control over how far each parameter moves.

Three lines to a first number:

    import nacre

    print(nacre.fit("digits", method="er").table())

Everything here is loaded when it is first used. The rooms: `nacre.methods`, `nacre.rules`, `nacre.data`, `nacre.streams`,
`nacre.backbones`, `nacre.heads`, `nacre.memory`, `nacre.schedules`, `nacre.metrics`, `nacre.experiment`, `nacre.core`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backbones import backbone
    from .catalogue import about
    from .classifier import Classifier
    from .core.drive import Drive
    from .core.errors import NacreError
    from .core.method import Method, compose
    from .core.model import fingerprint, grow
    from .core.optim import MadeOptimizer
    from .core.paper import Paper
    from .core.rows import Batch, Rows, TensorRows
    from .core.rule import Rule, Site, attached
    from .core.run import Run
    from .core.state import scratch, setting, state
    from .core.stream import Accumulated, Experience, Joined, Stream, Task
    from .experiment import Config, Experiment, Predictor, fit, load
    from .heads import GrowingLinear, MultiHead
    from .learner import Learner, Listener, Stage
    from .methods import *  # noqa: F403
    from .metrics import Matrix, Motion
    from .schedules import Phase, Phases, schedule
    from .streams import split, stream, stream_of

    __version__: str

__all__ = [
    "Accumulated",
    "Batch",
    "Classifier",
    "Config",
    "Drive",
    "Experience",
    "Experiment",
    "GrowingLinear",
    "Joined",
    "Learner",
    "Listener",
    "MadeOptimizer",
    "Matrix",
    "Method",
    "Motion",
    "MultiHead",
    "NacreError",
    "Paper",
    "Phase",
    "Phases",
    "Predictor",
    "Rows",
    "Rule",
    "Run",
    "Site",
    "Stage",
    "Stream",
    "Task",
    "TensorRows",
    "__version__",
    "about",
    "attached",
    "backbone",
    "compose",
    "fingerprint",
    "fit",
    "grow",
    "load",
    "schedule",
    "scratch",
    "setting",
    "split",
    "state",
    "stream",
    "stream_of",
]

_HOMES = {
    "backbones": ("backbone",),
    "catalogue": ("about",),
    "classifier": ("Classifier",),
    "core.drive": ("Drive",),
    "core.errors": ("NacreError",),
    "core.method": ("Method", "compose"),
    "core.model": ("fingerprint", "grow"),
    "core.optim": ("MadeOptimizer",),
    "core.paper": ("Paper",),
    "core.rows": ("Batch", "Rows", "TensorRows"),
    "core.rule": ("Rule", "Site", "attached"),
    "core.run": ("Run",),
    "core.state": ("scratch", "setting", "state"),
    "core.stream": ("Accumulated", "Experience", "Joined", "Stream", "Task"),
    "experiment": ("Config", "Experiment", "Predictor", "fit", "load"),
    "heads": ("GrowingLinear", "MultiHead"),
    "learner": ("Learner", "Listener", "Stage"),
    "metrics": ("Matrix", "Motion"),
    "schedules": ("Phase", "Phases", "schedule"),
    "streams": ("split", "stream", "stream_of"),
}
_HOME = {name: home for home, names in _HOMES.items() for name in names}
_ROOMS = (
    *("adapters", "backbones", "catalogue", "checkpoint", "checks", "core", "data", "deltas", "experiment"),
    *("heads", "importance", "integrations", "learner", "losses"),
    *("memory", "methods", "metrics", "report", "rules", "schedules", "streams"),
)


def __getattr__(name: str) -> Any:
    """Load a name where it lives: a room, something of the table above, or a method."""
    if name == "__version__":
        from importlib.metadata import version

        found: Any = version(__name__)
    elif name in _ROOMS:
        return import_module(f".{name}", __name__)
    elif name in _HOME:
        found = getattr(import_module(f".{_HOME[name]}", __name__), name)
    elif not name.startswith("_") and name in (methods := import_module(".methods", __name__)).__all__:
        found = getattr(methods, name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*__all__, *_ROOMS, *import_module(".methods", __name__).__all__})
