"""Three lines to a first number."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from ..backbones import Body, backbone
from ..core.errors import BadSetting
from ..core.method import Method, leaves
from ..core.run import Run
from ..core.state import called
from ..core.state import settings as settings_of
from ..data import Source, load
from ..learner import Listener
from .config import Config
from .experiment import Experiment
from .trial import GIVEN

logger = logging.getLogger(__name__)
PLAIN = ("fine-tuning", "finetuning", "fine-tune", "finetune", "none")
OWN_BODY = {"glyphs": "glyph-vit", "digits": "mlp:64-100-100"}


def fit(
    source: Any,
    method: str | Method | Sequence[str | Method] = "fine-tuning",
    *,
    backbone: str | Path | Body | nn.Module | None = None,
    tasks: int | Sequence[int] | None = None,
    kind: str | Mapping[str, Any] = "class-incremental",
    epochs: int = 5,
    lr: float = 1e-3,
    batch_size: int = 32,
    augment: str | Sequence[str] = "none",
    seeds: int | Sequence[int] = 0,
    device: str = "auto",
    out: str | Path | None = None,
    listeners: Sequence[Listener] = (),
    **settings: Any,
) -> Run:
    """Carry a model through a stream of tasks with a method, and say what was learned and what was forgotten.

    Trained with AdamW and a cosine schedule on each task; methods that only read features out are not trained. For anything
    more write a config, see `nacre run`.

    Args:
        source: A name (`"digits"`, `"glyphs"`), a folder or file, arrays (x, y) or (x_train, y_train, x_test, y_test).
        method: A method's name in any case, a method with settings, or several that are composed; `"fine-tuning"` is none.
        backbone: A name, a folder, a module with features as its output; None chooses by the data.
        tasks: How many tasks, or how many classes each has; None takes what is usual for the kind.
        kind: The kind of stream, or a table of it with settings, such as `{"kind": "permuted", "arrival": "online"}`.
        epochs: How often each row is met.
        lr: The peak learning rate.
        batch_size: Rows per optimizer step.
        augment: How training pictures are changed.
        seeds: One, or several for mean and spread.
        device: `"auto"`, `"cpu"` or `"cuda"`.
        out: The run's folder; None keeps nothing on disk.
        listeners: Hear what happens.
        **settings: Settings of the method.

    Raises:
        UnknownName: no method, source, backbone or setting has that name; the nearest is named.
        BadSetting: a value does not fit.
        BadData: the data cannot be learned from.

    >>> run = fit("digits", method="SimpleCIL", backbone="mlp:64-32")
    >>> run.figure("last")[0] > 0.5
    True
    >>> text = run.table()
    """
    asked = list(method) if isinstance(method, (list, tuple)) else [method]
    methods = [t for m in asked for t in _tables(m)]
    if settings and len(methods) != 1:
        raise BadSetting(
            f"{', '.join(settings)}: settings belong to one method, {len(methods)} were given; pass it with them"
        )
    if settings:
        methods = [{**methods[0], **settings}]
    made = None if isinstance(backbone, (str, Path, type(None))) else _body(backbone)
    data = None if isinstance(source, (str, Path)) else load(source)
    seeds, tasks = _plain(seeds), _plain(tasks)
    tables = {
        "run": {"name": "fit", "seeds": seeds if isinstance(seeds, list) else [seeds], "device": device},
        "data": {"source": GIVEN if data is not None else str(source)},
        "stream": {
            **({"kind": kind} if isinstance(kind, str) else kind),
            **({} if tasks is None else {"tasks": tasks}),
        },
        "backbone": {"augment": augment if isinstance(augment, str) else list(augment)},
        "stage": [{"methods": methods, "epochs": epochs, "batch_size": batch_size, "schedule": "cosine"}],
    }
    config = Config.of(tables)
    stage = config.stage[0]
    if stage.optimizer is not None:
        stage.optimizer["lr"] = lr
    config.backbone.source = GIVEN if made is not None else str(backbone or _chosen(source, data))
    return Experiment(config, data, made).run(out, *listeners)


def _plain(value: Any) -> Any:
    """Numbers and lists of Python, also where an array was given."""
    if hasattr(value, "tolist"):
        return value.tolist()
    return list(map(_plain, value)) if isinstance(value, (list, tuple, range)) else value


def _tables(method: Any) -> list[dict[str, Any]]:
    """A method as the tables of a config."""
    if isinstance(method, str):
        return [] if method.lower() in PLAIN else [{"name": method}]
    if isinstance(method, type) and issubclass(method, Method):
        raise BadSetting(f"{method.__name__} is a class: give {method.__name__}(), perhaps with settings, or its name")
    rules = [] if not isinstance(method, Method) else [p for p in leaves(method) if not isinstance(p, Method)]
    if not isinstance(method, Method) or rules:
        got = type(rules[0] if rules else method).__name__
        raise BadSetting(
            f'nacre.fit takes methods, by name or made, not {got}: "fine-tuning" is none; rules go into nacre.Stage(method=...)'
        )
    return [{"name": called(type(part)), **settings_of(part)} for part in leaves(method) if type(part) is not Method]


def _body(given: Any) -> Body:
    return given if isinstance(given, Body) else backbone(given)


def _chosen(source: Any, data: Source | None) -> str:
    """A backbone that suits the data."""
    if str(source) in OWN_BODY:
        return OWN_BODY[str(source)]
    rows = (load(source) if data is None else data).train
    x = getattr(rows, "x", None)
    return f"mlp:{x.shape[1]}-200-200" if isinstance(x, Tensor) and x.ndim == 2 else "convnet"
