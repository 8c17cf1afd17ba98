"""One preallocated block per field: how rows of the past are kept.

Fields: `x` or `x.<key>` (slots, ...), `y` (slots,), `task` (slots,), and whatever a method adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.rows import Batch, cat, chosen
from ..core.state import Stateful, Tensors, state


def fields_of(batch: Batch, extra: Mapping[str, Tensor]) -> Tensors:
    """The fields of a batch to keep: its rows as they were before augmentation, labels, task ids, and `extra`."""
    x = batch.x if batch.raw is None else batch.raw
    held: Tensors = {f"x.{k}": v for k, v in x.items()} if isinstance(x, Mapping) else {"x": x}
    held["y"] = batch.y
    if batch.task is not None:
        held["task"] = batch.task
    return {**held, **{k: v.detach() for k, v in extra.items()}}


@dataclass
class Block(Stateful):
    """Slots for rows; a field may get wider or longer later.

    What a row lacks reads as none: NaN, 0 for inputs and whole numbers, -1 for a task, -100 for a label.
    """

    kept: Tensors = state()

    def write(self, slots: Tensor, rows: Tensors, capacity: int) -> None:
        """Put rows, one for each slot and all slots different, into their places; fields they lack read as none."""
        for name in self.kept.keys() - rows.keys():
            self.kept[name][slots.to(self.kept[name].device)] = _none(name, self.kept[name])
        self.fill(slots, rows, capacity)

    def fill(self, slots: Tensor, rows: Tensors, capacity: int) -> None:
        """Put some fields of rows into their places; the other fields stay."""
        for name, value in rows.items():
            kept = self.kept[name] = _room(name, self.kept.get(name), value, capacity)
            here = slots.to(kept.device)
            if kept.shape[1:] == value.shape[1:]:
                kept.index_copy_(0, here, value.to(kept))
            else:
                kept[here] = _none(name, value)
                kept[(here, *map(slice, value.shape[1:]))] = value.to(kept)

    def rows(self, slots: Tensor) -> Tensors:
        """The fields of these slots as copies."""
        return {n: chosen(t, slots) for n, t in self.kept.items()}

    def read(self, slots: Tensor) -> Batch:
        """The rows of these slots as copies; fields of methods ride in `extra`."""
        rows = self.rows(slots)
        x: Any = rows.pop("x", None)
        if x is None:
            x = {n[2:]: rows.pop(n) for n in list(rows) if n.startswith("x.")}
        return Batch(x, rows.pop("y"), task=rows.pop("task", None), extra=rows)

    @property
    def bytes(self) -> int:
        """Memory held, in bytes."""
        return sum(t.nbytes for t in self.kept.values())


def replayed(batch: Batch, past: Batch, weight: float = 1.0) -> Batch:
    """`batch` with rows of a memory behind it; their `source` is the next free number, so no memory admits them."""
    source = batch.y.new_zeros(len(batch), dtype=torch.long) if batch.source is None else batch.source
    past = past.to(batch.y.device)
    number = int(source.max()) + 1 if batch.source is not None and len(batch) else 1
    rows = Batch(
        past.x,
        past.y,
        source=past.y.new_full((len(past),), number, dtype=torch.long),
        weight=None
        if weight == 1.0 and batch.weight is None
        else past.y.new_full((len(past),), weight, dtype=torch.float),
        task=past.task,
        extra=past.extra,
    )
    return cat(replace(batch, source=source, raw=None), rows)


def _room(name: str, kept: Tensor | None, value: Tensor, capacity: int) -> Tensor:
    """The block of a field, made or widened so that `value` fits."""
    if kept is None:
        return value.new_full((capacity, *value.shape[1:]), _none(name, value))
    kept = kept.to(value.device)
    wider = [max(b - a, 0) for a, b in zip(kept.shape[1:], value.shape[1:], strict=True)]
    if not any(wider):
        return kept
    return F.pad(kept, [w for more in reversed(wider) for w in (0, more)], value=_none(name, value))


def _none(name: str, t: Tensor) -> float:
    """How a row reads that has no such field: a hidden task, a token without a label, padding, a number not known."""
    padded = name == "x" or name.startswith("x.")
    return {"task": -1, "y": -100}.get(name, float("nan") if t.is_floating_point() and not padded else 0)
