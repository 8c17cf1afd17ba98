"""Rows and batches: the only way data reaches a model. Nothing here draws a random number by itself.

Shapes: `rows` counts the rows of a batch; pixels are (rows, channels, height, width), uint8 in 0..255 or float in 0..1.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import BadData

FILL = {"ids": -1, "source": 0, "weight": 1.0, "task": -1}
"""What a row reads as where its batch has no such field."""


@dataclass(frozen=True)
class Cut:
    """Where a piece stands among those that the rows of a step were cut into, over all ranks.

    Attributes:
        number: Which of them it is, the ranks' pieces following each other; or another name that only it has.
        part: The part of its rank's rows that it holds.
        pieces: How many each rank has.
    """

    number: int | str
    part: float
    pieces: tuple[int, ...]


@dataclass(frozen=True)
class Batch:
    """Some rows on their way through a model.

    Attributes:
        x: Inputs, (rows, ...), or a mapping of such (token ids and their mask).
        y: Labels: class ids (rows,), token ids (rows, tokens) with -100 for none, or float targets.
        ids: (rows,) position in the rows that are trained on; -1 = none.
        source: (rows,) where a row comes from: 0 = the stream, k = the k-th memory of the composition.
        weight: (rows,) factor of each row's loss.
        task: (rows,) task id; None = hidden.
        extra: Fields of methods, (rows, ...); NaN or -1 where a row has none.
        raw: `x` before augmentation: what a memory stores.
        share: The part of this step's stream rows, of all ranks, that this micro-batch holds; set by the driver.
        before: The part that earlier micro-batches of the step hold.
        cut: Where it stands among the pieces of the step; None = the step was not cut.
    """

    x: Any
    y: Tensor
    ids: Tensor | None = None
    source: Tensor | None = None
    weight: Tensor | None = None
    task: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    raw: Any = None
    share: float = 1.0
    before: float = 0.0
    cut: Cut | None = None

    def __len__(self) -> int:
        return len(self.y)

    def pick(self, rows: Tensor | slice) -> Batch:
        """The rows chosen by an index, a mask or a slice."""
        return self._map(lambda t: t[rows])

    def to(self, device: torch.device | str) -> Batch:
        """The same rows on another device."""
        if self.y.device == torch.device(device):
            return self
        return self._map(lambda t: t.to(device, non_blocking=True))

    def own(self) -> Tensor:
        """Mask of the rows that come from the stream itself, (rows,)."""
        return (
            torch.ones(len(self), dtype=torch.bool, device=self.y.device) if self.source is None else self.source == 0
        )

    def _map(self, use: Callable[[Tensor], Tensor]) -> Batch:
        def at(value: Tensor | None) -> Tensor | None:
            return None if value is None else use(value)

        return Batch(
            _at(self.x, use),
            use(self.y),
            at(self.ids),
            at(self.source),
            at(self.weight),
            at(self.task),
            {k: use(v) for k, v in self.extra.items()},
            _at(self.raw, use),
            self.share,
            self.before,
            self.cut,
        )


def chosen(t: Tensor, index: Tensor) -> Tensor:
    """The rows of a tensor at these positions, as a copy.

    Whole rows at a time: of uint8 pictures that is several times as fast as `t[index]`.
    """
    return t.index_select(0, index.to(t.device))


Augment = Callable[[Batch, torch.Generator], Batch]
"""Changes a whole batch at once; draws from the generator it is given and from nothing else."""


class Rows(Protocol):
    """Any dataset: raw, collated rows by position. `take` draws nothing, so it is the same every time."""

    def __len__(self) -> int: ...

    def take(self, index: Tensor) -> Batch:
        """The rows at these positions, (rows,), as one batch on the CPU or wherever the data lie."""
        ...


def lengths_of(rows: Rows | None) -> Tensor | None:
    """How long each row is, (rows,), where rows are of different lengths and know it (their `lengths`); else None."""
    return getattr(rows, "lengths", None)


@dataclass(frozen=True)
class TensorRows:
    """Rows held in memory, as they were given: uint8 pixels stay uint8.

    Attributes:
        x: (rows, ...) or a mapping of such.
        y: (rows,) labels.
        task: The task id that prediction may know of these rows; None = hidden.

    >>> rows = TensorRows(torch.arange(6.0).view(3, 2), torch.tensor([0, 1, 1]))
    >>> rows.take(torch.tensor([2, 0])).x.tolist()
    [[4.0, 5.0], [0.0, 1.0]]
    """

    x: Any
    y: Tensor
    task: int | None = None

    def __post_init__(self) -> None:
        for name, value in self.x.items() if isinstance(self.x, Mapping) else [("x", self.x)]:
            if len(value) != len(self.y):
                raise BadData(f"{name} has {len(value)} rows and y has {len(self.y)}: give one label for each row")

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: Tensor) -> Batch:
        task = torch.full((len(index),), self.task) if self.task is not None else None
        return Batch(_at(self.x, lambda t: chosen(t, index)), self.y[index], index, task=task)


@dataclass(frozen=True)
class Picked:
    """Some rows of others, under other labels: how a stream cuts data without copying it.

    Attributes:
        rows: The rows to choose from.
        index: (chosen,) positions in them.
        labels: (old labels,) the new label of each old one; None keeps them.
        task: The task id that prediction may know of these rows; None = hidden.
    """

    rows: Rows
    index: Tensor
    labels: Tensor | None = None
    task: int | None = None

    def __len__(self) -> int:
        return len(self.index)

    @property
    def lengths(self) -> Tensor | None:
        """See `lengths_of`."""
        known = lengths_of(self.rows)
        return None if known is None else known[self.index]

    @cached_property
    def _held(self) -> tuple[Any, Tensor] | None:
        """Of rows in memory: all inputs, and the labels of those that are chosen."""
        if type(self.rows) is not TensorRows:
            return None
        y = self.rows.y[self.index]
        return self.rows.x, y if self.labels is None else self.labels[y]

    def take(self, index: Tensor) -> Batch:
        task = torch.full((len(index),), self.task) if self.task is not None else None
        if self._held is not None:
            (x, y), places = self._held, self.index[index]
            return Batch(_at(x, lambda t: chosen(t, places)), y[index], index, task=task)
        batch = self.rows.take(self.index[index])
        y = batch.y if self.labels is None else self.labels[batch.y]
        return replace(batch, y=y, ids=index, task=task)


@dataclass(frozen=True)
class Chain:
    """The rows of several datasets, one after the other."""

    parts: tuple[Rows, ...]

    def __len__(self) -> int:
        return sum(map(len, self.parts))

    @property
    def lengths(self) -> Tensor | None:
        """See `lengths_of`."""
        known = [lengths_of(rows) for rows in self.parts]
        told = [held for held in known if held is not None]
        return torch.cat(told) if told and len(told) == len(known) else None

    def take(self, index: Tensor) -> Batch:
        ends = torch.tensor([len(p) for p in self.parts]).cumsum(0)
        part_of = torch.searchsorted(ends, index, right=True)
        pieces, places = [], []
        for k, rows in enumerate(self.parts):
            here = (part_of == k).nonzero().flatten()
            if len(here):
                piece = rows.take(index[here] - (int(ends[k]) - len(rows)))
                pieces.append(piece.to(pieces[0].y.device) if pieces else piece)
                places.append(here)
        if not pieces:
            return self.parts[0].take(index)
        back = torch.cat(places).argsort()
        return replace(cat(*pieces).pick(back), ids=index)


def batches(
    rows: Rows | None, size: int, order: Tensor | None = None, start: int = 0, device: torch.device | str = "cpu"
) -> Iterator[Batch]:
    """Batches of `size` rows in the given order, from batch number `start` on; skipped ones are not read."""
    if rows is None:
        return
    order = torch.arange(len(rows)) if order is None else order
    for low in range(start * size, len(order), size):
        yield rows.take(order[low : low + size]).to(device)


def cat(*parts: Batch) -> Batch:
    """One batch behind the other; token mappings are padded with 0, labels with -100, missing fields with `FILL`."""

    def joined(name: str) -> Tensor | None:
        held: list[Tensor | None] = [getattr(b, name) for b in parts]
        known = next((t for t in held if t is not None), None)
        if known is None:
            return None
        return torch.cat(
            [known.new_full((len(b),), FILL[name]) if t is None else t for b, t in zip(parts, held, strict=True)]
        )

    extra: dict[str, Tensor] = {}
    for key in dict.fromkeys(k for b in parts for k in b.extra):
        known = next(b.extra[key] for b in parts if key in b.extra)
        fill = float("nan") if known.is_floating_point() else -1
        extra[key] = _stack([b.extra.get(key, known.new_full((len(b), *known.shape[1:]), fill)) for b in parts], fill)
    raw = _cat_x([b.raw for b in parts]) if all(b.raw is not None for b in parts) else None
    return Batch(
        _cat_x([b.x for b in parts]),
        _stack([b.y for b in parts], -100),
        extra=extra,
        raw=raw,
        share=parts[0].share,
        before=parts[0].before,
        cut=parts[0].cut,
        **{name: joined(name) for name in FILL},
    )


def _stack(tensors: list[Tensor], fill: float) -> Tensor:
    if tensors[0].ndim > 1 and tensors[0].ndim < 4 and len({t.shape[1] for t in tensors}) > 1:
        width = max(t.shape[1] for t in tensors)
        tensors = [F.pad(t, (0, 0) * (t.ndim - 2) + (0, width - t.shape[1]), value=fill) for t in tensors]
    return torch.cat(tensors)


def _cat_x(xs: list[Any]) -> Any:
    if isinstance(xs[0], Mapping):
        return {k: _stack([x[k] for x in xs], 0) for k in xs[0]}
    return _stack(xs, 0)


def _at(x: Any, use: Callable[[Tensor], Tensor]) -> Any:
    if x is None:
        return None
    return {k: use(v) for k, v in x.items()} if isinstance(x, Mapping) else use(x)
