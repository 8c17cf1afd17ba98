"""Data as streams read them: training rows, test rows, and what the labels are called.

Shapes: pictures (rows, channels, height, width), uint8 in 0..255 or float in 0..1; vectors (rows, width); texts (rows,).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..core.errors import BadData, shown
from ..core.rows import TensorRows
from .texts import TextRows
from .tokens import Tokenize, TokenRows

Known = TensorRows | TextRows | TokenRows
"""The rows that data are made of."""
HALF = re.compile(r"[\ud800-\udfff]")  # what no file can hold
UNNAMEABLE = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # what no name holds: control characters, halves of letters


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
        if not self.sha256:
            known = (self.train, self.test)
            object.__setattr__(self, "sha256", digest(*(part for rows in known for part in (_inputs(rows), rows.y))))

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


def tokens_of(what: str, rows: Known, tokenize: Tokenize) -> TokenRows:
    """Rows of texts as rows of tokens.

    Args:
        what: What they are called in messages.
        rows: The texts.
        tokenize: The tokenizer.

    Raises:
        BadData: no texts, half a letter, or a text of which the tokenizer leaves nothing.
    """
    if not isinstance(rows, TextRows):
        raise BadData(f"{what}: there are no texts to make tokens of: give rows of texts (nacre.data.TextRows)")
    for row, text in enumerate(rows.texts, 1):
        _refuse_halves(what, row, text)
    tokens = tokenize(rows.texts)
    if len(empty := (tokens.lengths == 0).nonzero().flatten()):
        row = int(empty[0])
        raise BadData(
            f"{what}: the tokenizer leaves nothing of {len(empty)} texts, the first is row {row + 1} with "
            f"{shown(rows.texts[row])}: leave them out"
        )
    return TokenRows(tokens, rows.y)


def _check_names(name: str, classes: tuple[str, ...]) -> None:
    if len(set(classes)) < len(classes):
        twice = sorted({c for c in classes if classes.count(c) > 1})
        raise BadData(f"{name}: two classes are called {twice[0]!r}: give each its own name")
    if strange := [c for c in classes if UNNAMEABLE.search(c)]:
        raise BadData(
            f"{name}: the class {strange[0]!r} has control characters in its name: give it one that can be printed"
        )


def _check_rows(what: str, rows: Known, classes: tuple[str, ...]) -> None:
    _check_labels(what, rows.y, classes)
    if isinstance(rows, TextRows):
        _check_texts(what, rows.texts)
    if not isinstance(rows, TensorRows):
        return
    for x in rows.x.values() if isinstance(rows.x, Mapping) else [rows.x]:
        check_inputs(what, x, tokens=isinstance(rows.x, Mapping))


def _check_texts(what: str, texts: Iterable[Any]) -> None:
    for row, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise BadData(f"{what}: row {row} is no text but {shown(text)} ({type(text).__name__}): give texts")
        if not text.strip():
            raise BadData(f"{what}: row {row} has no text: leave it out")
        _refuse_halves(what, row, text)


def _refuse_halves(what: str, row: int, text: str) -> None:
    if HALF.search(text):
        raise BadData(f"{what}: row {row} holds half a letter (a surrogate without its other half): repair its text")


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


def _check_groups(name: str, groups: tuple[tuple[int, ...], ...], classes: int) -> None:
    held = [c for group in groups for c in group]
    if groups and (sorted(held) != list(range(classes)) or not all(groups)):
        raise BadData(
            f"{name}: {len(groups)} groups hold {len(held)} labels, but must hold each of 0..{classes - 1} exactly once, "
            "and none may be empty: give no groups, or a partition of the classes"
        )
