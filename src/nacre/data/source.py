"""Data as streams read them: training rows, test rows, and what the labels are called.

Shapes: pictures (rows, channels, height, width), uint8 in 0..255 or float in 0..1; vectors (rows, width).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.errors import BadData
from ..core.rows import TensorRows


@dataclass(frozen=True, eq=False)
class Column:
    """What is known of each row beside its inputs and its label, such as its domain or its time; streams are cut by it.

    Attributes:
        train: (training rows,) whole numbers from 0 that stand for names, or any numbers.
        test: (test rows,) likewise.
        names: The value k is called `names[k]`; empty where values are numbers, such as times.

    >>> Column.of(["photo", "sketch", "photo"], ["sketch"]).train.tolist()
    [0, 1, 0]
    """

    train: Tensor = field(repr=False)
    test: Tensor = field(repr=False)
    names: tuple[str, ...] = ()

    @staticmethod
    def of(train: Sequence[Any], test: Sequence[Any]) -> Column:
        """A column of names (numbered in the order of the alphabet), or of numbers."""
        if not any(isinstance(value, str) for value in (*train, *test)):
            return Column(torch.as_tensor(train), torch.as_tensor(test))
        names = sorted({str(value) for value in train})
        number = {name: k for k, name in enumerate(names)}
        if strange := sorted({str(value) for value in test} - set(number)):
            raise BadData(f"test rows have the value {strange[0]!r}, which no training row has: leave them out")
        numbered = [torch.tensor([number[str(value)] for value in part], dtype=torch.long) for part in (train, test)]
        return Column(*numbered, tuple(names))


@dataclass(frozen=True, eq=False)
class Source:
    """Checked data with a name and a digest.

    Attributes:
        name: What it is called in results.
        train: Training rows.
        test: Test rows, of the same shape and type.
        classes: Label k is `classes[k]`; each has at least one training row.
        groups: Classes that belong together and should form one task; empty, or each class exactly once.
        sha256: Digest of the bytes of both inputs and labels; made here where it is not given.
        note: Where the rows come from, or what was done to them, in a sentence.
        columns: What is known of each row beside, by name: streams look for `domain` and `time`.

    Raises:
        BadData: anything that could not be learned from; the message says what to change.

    >>> x, y = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    >>> Source("tiny", TensorRows(x, y), TensorRows(x, y), ("left", "right")).sha256[:8]
    '79919f82'
    """

    name: str
    train: TensorRows = field(repr=False)
    test: TensorRows = field(repr=False)
    classes: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...] = ()
    sha256: str = ""
    note: str = ""
    columns: Mapping[str, Column] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if len(set(self.classes)) < len(self.classes):
            twice = sorted({c for c in self.classes if self.classes.count(c) > 1})
            raise BadData(f"{self.name}: two classes are called {twice[0]!r}: give each its own name")
        for part, rows in (("training", self.train), ("test", self.test)):
            what = f"{self.name}, {part} rows"
            _check_labels(what, rows.y, self.classes)
            for x in rows.x.values() if isinstance(rows.x, Mapping) else [rows.x]:
                check_inputs(what, x, tokens=isinstance(rows.x, Mapping))
        _check_alike(self.name, self.train.x, self.test.x)
        missing = (torch.bincount(self.train.y, minlength=len(self.classes)) == 0).nonzero().flatten().tolist()
        if missing:
            names = ", ".join(repr(self.classes[k]) for k in missing[:5])
            raise BadData(
                f"{self.name}: {len(missing)} of {len(self.classes)} classes have no training row ({names}): "
                "leave them out of `classes` and number the labels without gaps"
            )
        _check_groups(self.name, self.groups, len(self.classes))
        for name, column in self.columns.items():
            for part, values, rows in (
                ("training", column.train, len(self.train)),
                ("test", column.test, len(self.test)),
            ):
                _check_column(f"{self.name}, the column {name!r} of {part} rows", values, rows, column.names)
        if not self.sha256:
            beside = [part for _, c in sorted(self.columns.items()) for part in (c.train, c.test)]
            object.__setattr__(self, "sha256", digest(self.train.x, self.train.y, self.test.x, self.test.y, *beside))


def digest(*parts: Any) -> str:
    """SHA-256 of the bytes of tensors, one after the other, in hexadecimal; mappings go by sorted key.

    >>> digest(torch.zeros(2), torch.tensor([0, 1]))[:8]
    '85526ba7'
    """
    found = hashlib.sha256()
    for part in parts:
        for tensor in [part[k] for k in sorted(part)] if isinstance(part, Mapping) else [part]:
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def _check_labels(what: str, y: Tensor, classes: tuple[str, ...]) -> None:
    if not isinstance(y, Tensor) or y.dtype != torch.int64:
        kind = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise BadData(f"{what}: labels are a tensor of whole numbers (int64), not {kind}: convert them with y.long()")
    if y.ndim != 1:
        raise BadData(
            f"{what}: labels have the shape (rows,), not {tuple(y.shape)}: give one class a row, not one-hot rows"
        )
    if not len(y):
        raise BadData(f"{what}: there are none: give at least one row of each class")
    low, high = int(y.min()), int(y.max())
    if low < 0:
        raise BadData(f"{what}: label {low} is negative: labels count from 0")
    if len(classes) < 2:
        raise BadData(
            f"{what}: there is only one class ({', '.join(classes) or 'without a name'}), and nothing to tell apart: "
            "give data with at least two classes"
        )
    if high >= len(classes):
        raise BadData(
            f"{what}: label {high} is beyond the {len(classes)} classes 0..{len(classes) - 1}: give `classes` one name for "
            "each label, or number the labels from 0"
        )


def check_inputs(what: str, x: Any, tokens: bool = False) -> None:
    """Refuse rows that no backbone could read.

    Args:
        what: What they are called in messages.
        x: Pictures (rows, channels, height, width), uint8 in 0..255 or float in 0..1, or vectors (rows, width).
        tokens: Whether they are a field of many, of any shape.

    Raises:
        BadData: another shape or type, NaN, or float pictures beyond 0..1.
    """
    if not isinstance(x, Tensor):
        raise BadData(f"{what}: inputs are tensors, not {type(x).__name__}: use torch.as_tensor, or nacre.data.load")
    if tokens:
        return
    if x.ndim == 3:
        raise BadData(
            f"{what}: inputs of shape {tuple(x.shape)} have no channels: grey pictures are (rows, 1, height, width), as "
            "x[:, None] makes them"
        )
    if x.ndim not in (2, 4) or 0 in x.shape[1:]:
        raise BadData(
            f"{what}: inputs are pictures (rows, channels, height, width) or vectors (rows, width), not {tuple(x.shape)}"
        )
    if x.ndim == 4 and x.shape[1] > 4 and x.shape[-1] in (1, 3, 4):
        raise BadData(
            f"{what}: pictures of shape {tuple(x.shape)} seem to have their channels last: use x.permute(0, 3, 1, 2)"
        )
    if x.dtype != torch.uint8 and not x.dtype.is_floating_point:
        raise BadData(
            f"{what}: inputs are uint8 or float, not {x.dtype}: convert pixels in 0..255 with x.to(torch.uint8)"
        )
    if x.dtype == torch.uint8 or not len(x):
        return
    low, high = x.aminmax()
    if not bool(torch.isfinite(low) & torch.isfinite(high)):  # NaN and infinities survive aminmax
        wrong = int((~torch.isfinite(x)).flatten(1).any(1).sum())
        raise BadData(f"{what}: {wrong} of {len(x)} rows hold NaN or infinite numbers: repair or leave them out")
    if x.ndim == 4 and (low < -1e-3 or high > 1 + 1e-3):
        raise BadData(
            f"{what}: float pictures lie in 0..1, these in {float(low):.4g}..{float(high):.4g}: divide 0..255 by 255 or give "
            "uint8, and leave mean and standard deviation to the backbone's Pixels"
        )


def _check_alike(name: str, train: Any, test: Any) -> None:
    if isinstance(train, Mapping) or isinstance(test, Mapping):
        if not (isinstance(train, Mapping) and isinstance(test, Mapping) and train.keys() == test.keys()):
            raise BadData(f"{name}: training and test rows must have the same fields")
        return
    if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
        raise BadData(
            f"{name}: a training row is {tuple(train.shape[1:])} {train.dtype}, a test row {tuple(test.shape[1:])} "
            f"{test.dtype}: bring both to one shape and type"
        )


def _check_column(what: str, values: Tensor, rows: int, names: tuple[str, ...]) -> None:
    if not isinstance(values, Tensor) or values.ndim != 1 or len(values) != rows:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise BadData(f"{what} is {shape}, but there are {rows} rows: give a tensor with one value for each")
    if len(set(names)) < len(names):
        raise BadData(f"{what} has two values of one name: give each its own")
    if names and (values.dtype != torch.int64 or (rows and (int(values.min()) < 0 or int(values.max()) >= len(names)))):
        raise BadData(f"{what} numbers its {len(names)} names, so its values are int64 in 0..{len(names) - 1}: renumber it")
    if not names and not bool(values.isfinite().all()):
        raise BadData(f"{what} holds NaN or infinite numbers: repair or leave these rows out")


def _check_groups(name: str, groups: tuple[tuple[int, ...], ...], classes: int) -> None:
    held = [c for group in groups for c in group]
    if groups and (sorted(held) != list(range(classes)) or not all(groups)):
        raise BadData(
            f"{name}: {len(groups)} groups hold {len(held)} labels, but must hold each of 0..{classes - 1} exactly once, "
            "and none may be empty: give no groups, or a partition of the classes"
        )
