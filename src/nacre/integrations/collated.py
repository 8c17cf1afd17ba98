"""Datasets of others as rows: items by position, made into batches by the collator that came with them.

Shapes: labels are (rows,) class ids or numbers, or (rows, tokens) token ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ..core.errors import BadData
from ..core.rows import Batch, Rows, batches

BESIDE = "nacre"
"""Where a dict of inputs holds what a batch knows beside its inputs and labels."""
LABELS_AT_ONCE = 256  # rows whose labels are read together


@dataclass(frozen=True)
class CollatedRows:
    """The rows of a map-style dataset, such as one of Hugging Face datasets or of torch.

    Attributes:
        dataset: Has a length, and an item for each position.
        collate: Items -> inputs of the model by name, with their labels.
        label: The name of the labels.

    >>> items = [{"x": torch.ones(2) * i, "labels": i} for i in range(3)]
    >>> from torch.utils.data import default_collate
    >>> batch = CollatedRows(items, default_collate).take(torch.tensor([2, 0]))
    >>> batch.x["x"].tolist(), batch.y.tolist()
    ([[2.0, 2.0], [0.0, 0.0]], [2, 0])
    """

    dataset: Any
    collate: Callable[[list[Any]], Mapping[str, Any]]
    label: str = "labels"

    def __len__(self) -> int:
        return len(self.dataset)

    def take(self, index: Tensor) -> Batch:
        """The rows at these positions, (rows,), as the collator makes them."""
        if not len(index):
            return self.take(torch.zeros(1, dtype=torch.long)).pick(slice(0, 0))
        found = dict(self.collate([self.dataset[i] for i in index.tolist()]))
        y = found.pop(self.label, None)
        if not isinstance(y, Tensor):
            raise BadData(
                f"the collator gives {sorted(found)} and no {self.label!r}: give each row a label, under a name that the "
                "collator knows"
            )
        if not found:
            raise BadData(
                f"nothing but {self.label!r} is left of the dataset's columns: name the inputs as the model's forward() does, "
                "or set remove_unused_columns=False"
            )
        return Batch(found, y, index)


def classes_of(rows: Rows) -> tuple[int, ...]:
    """The class ids that occur, in order; none where labels are no class ids. Reads all rows."""
    found: set[int] = set()
    for batch in batches(rows, LABELS_AT_ONCE):
        if batch.y.ndim != 1 or batch.y.is_floating_point():
            return ()
        found |= set(batch.y.tolist())
    return tuple(sorted(found))


def to_inputs(batch: Batch, label: str) -> dict[str, Any]:
    """A batch as the dict that loaders hand on: inputs by name, labels, and the rest under `BESIDE`."""
    alone = {} if isinstance(batch.x, Mapping) else {"x": batch.x}
    told = {f.name: getattr(batch, f.name) for f in fields(Batch) if f.name not in ("x", "y", "share", "before", "cut")}
    rest = {name: value for name, value in told.items() if value is not None}
    return {**(batch.x if not alone else {}), label: batch.y, BESIDE: {**alone, **rest}}


def to_batch(inputs: Mapping[str, Any], label: str) -> Batch:
    """The batch that a dict of inputs stands for; the dict may be of another loader."""
    held = dict(inputs)
    y, rest = held.pop(label), dict(held.pop(BESIDE, {}))
    return Batch(rest.pop("x", held), y, **rest)
