"""Data as streams read them: training rows, test rows, and what the labels are called.

Shapes: pictures (rows, channels, height, width), uint8 in 0..255 or float in 0..1; vectors (rows, width); texts (rows,).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..core.errors import BadData
from ..core.rows import TensorRows
from .refusals import check_inputs, check_labels, check_texts
from .texts import TextRows
from .tokens import Tokenize, TokenRows, tokens_of

Known = TensorRows | TextRows | TokenRows
"""The rows that data are made of."""
UNNAMEABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # what no name holds: control characters, halves of letters


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
        return Column(numbered[0], numbered[1], tuple(names))


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
        validation: Rows for choosing settings by, where the data bring some; streams do not touch them.
        columns: What is known of each row beside, by name: streams look for `domain` and `time`.

    Raises:
        BadData: anything that could not be learned from; the message says what to change.

    >>> x, y = torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 0, 1])
    >>> Source("tiny", TensorRows(x, y), TensorRows(x, y), ("left", "right")).sha256[:8]
    '79919f82'
    """

    name: str
    train: Known = field(repr=False)
    test: Known = field(repr=False)
    classes: tuple[str, ...]
    groups: tuple[tuple[int, ...], ...] = ()
    sha256: str = ""
    note: str = ""
    validation: Known | None = field(default=None, repr=False)
    columns: Mapping[str, Column] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        _check_names(self.name, self.classes)
        held = {"training": self.train, "test": self.test, "validation": self.validation}
        for part, rows in held.items():
            if rows is not None:
                _check_rows(f"{self.name}, {part} rows", rows, self.classes)
                _check_alike(self.name, part, self.train, rows)
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
            known: list[Any] = [part for rows in (self.train, self.test) for part in (_inputs(rows), rows.y)]
            known += [part for _, c in sorted(self.columns.items()) for part in (c.train, c.test)]
            object.__setattr__(self, "sha256", digest(*known))

    def tokenized(self, tokenize: Tokenize) -> Source:
        """The same data, its texts as tokens; the digest stays that of the texts.

        Raises:
            BadData: it holds no texts, or a text of which the tokenizer leaves nothing.
        """
        held = {"training": self.train, "test": self.test, "validation": self.validation}
        made = [
            None if rows is None else tokens_of(f"{self.name}, {part} rows", rows, tokenize)
            for part, rows in held.items()
        ]
        train, test, validation = made
        assert train is not None and test is not None
        return replace(self, train=train, test=test, validation=validation)


def digest(*parts: Any) -> str:
    """SHA-256 of the bytes of tensors, one after the other, in hexadecimal; mappings go by sorted key.

    Texts go by their number of bytes and their bytes in UTF-8.

    >>> digest(torch.zeros(2), torch.tensor([0, 1]))[:8]
    '85526ba7'
    """
    found = hashlib.sha256()
    for part in parts:
        pieces: list[Any] = [part[k] for k in sorted(part)] if isinstance(part, Mapping) else [part]
        for piece in pieces:
            if isinstance(piece, Tensor):
                found.update(piece.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
            else:
                for raw in (text.encode() for text in piece):
                    found.update(len(raw).to_bytes(8, "big") + raw)
    return found.hexdigest()


def _inputs(rows: Known) -> Any:
    if isinstance(rows, TokenRows):
        return {**rows.tokens.fields, "ends": rows.tokens.ends}
    return rows.texts if isinstance(rows, TextRows) else rows.x


def _check_names(name: str, classes: tuple[str, ...]) -> None:
    if len(set(classes)) < len(classes):
        twice = sorted({c for c in classes if classes.count(c) > 1})
        raise BadData(f"{name}: two classes are called {twice[0]!r}: give each its own name")
    if strange := [c for c in classes if UNNAMEABLE.search(c)]:
        raise BadData(
            f"{name}: the class {strange[0]!r} has control characters in its name: give it one that can be printed"
        )


def _check_rows(what: str, rows: Known, classes: tuple[str, ...]) -> None:
    check_labels(what, rows.y, classes)
    if isinstance(rows, TextRows):
        check_texts(what, rows.texts)
    if not isinstance(rows, TensorRows):
        return
    for x in rows.x.values() if isinstance(rows.x, Mapping) else [rows.x]:
        check_inputs(what, x, tokens=isinstance(rows.x, Mapping))


def _check_alike(name: str, part: str, train: Known, other: Known) -> None:
    if not (isinstance(train, TensorRows) and isinstance(other, TensorRows)):
        if type(train) is not type(other):
            raise BadData(f"{name}: of training and {part} rows only one are texts: give both in one form")
        return
    one, two = train.x, other.x
    if isinstance(one, Mapping) or isinstance(two, Mapping):
        if not (isinstance(one, Mapping) and isinstance(two, Mapping) and one.keys() == two.keys()):
            raise BadData(f"{name}: training and {part} rows must have the same fields: name them alike")
    elif one.shape[1:] != two.shape[1:] or one.dtype != two.dtype:
        raise BadData(
            f"{name}: a training row is {tuple(one.shape[1:])} {one.dtype}, a {part} row {tuple(two.shape[1:])} "
            f"{two.dtype}: bring both to one shape and type"
        )


def _check_column(what: str, values: Tensor, rows: int, names: tuple[str, ...]) -> None:
    if not isinstance(values, Tensor) or values.ndim != 1 or len(values) != rows:
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise BadData(f"{what} is {shape}, but there are {rows} rows: give a tensor with one value for each")
    if len(set(names)) < len(names):
        raise BadData(f"{what} has two values of one name: give each its own")
    if names and (values.dtype != torch.int64 or (rows and (int(values.min()) < 0 or int(values.max()) >= len(names)))):
        raise BadData(
            f"{what} numbers its {len(names)} names, so its values are int64 in 0..{len(names) - 1}: renumber it"
        )
    if not names and not bool(values.isfinite().all()):
        raise BadData(f"{what} holds NaN or infinite numbers: repair or leave these rows out")


def _check_groups(name: str, groups: tuple[tuple[int, ...], ...], classes: int) -> None:
    held = [c for group in groups for c in group]
    if groups and (sorted(held) != list(range(classes)) or not all(groups)):
        raise BadData(
            f"{name}: {len(groups)} groups hold {len(held)} labels, but must hold each of 0..{classes - 1} exactly once, "
            "and none may be empty: give no groups, or a partition of the classes"
        )
