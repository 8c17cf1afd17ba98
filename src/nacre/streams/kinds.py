"""Streams by the name of their scenario."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from ..core.errors import UnknownName
from .split import Data, Split, split


def class_incremental(
    data: Data, *, tasks: int | Sequence[int] = 5, order: str | Sequence[str | int] = "seed", seed: int = 0
) -> Split:
    """New classes in each task; at test time all classes seen so far compete and the task is not told."""
    return split(data, tasks, order=order, seed=seed)


def task_incremental(
    data: Data, *, tasks: int | Sequence[int] = 5, order: str | Sequence[str | int] = "seed", seed: int = 0
) -> Split:
    """New classes in each task; at test time the task is told, so only its own classes compete."""
    return split(data, tasks, order=order, seed=seed, told=True)


STREAMS: dict[str, Callable[..., Split]] = {
    "class-incremental": class_incremental,
    "task-incremental": task_incremental,
}
"""The scenarios by name."""


def stream(kind: str, data: Data, **settings: Any) -> Split:
    """A stream of that scenario over the data.

    Args:
        kind: One of `STREAMS`.
        data: What to make it of.
        **settings: Settings of that scenario, such as `tasks`, `order` and `seed`.

    Raises:
        UnknownName: no scenario, or no setting of it, has that name; the nearest is named.
    """
    if kind not in STREAMS:
        raise UnknownName("stream", kind, STREAMS)
    known = [n for n, p in inspect.signature(STREAMS[kind]).parameters.items() if p.kind is p.KEYWORD_ONLY]
    for name in settings:
        if name not in known:
            raise UnknownName(f"setting of the {kind} stream", name, known)
    return STREAMS[kind](data, **settings)
