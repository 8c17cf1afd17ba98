"""What rows are refused: labels, numbers and texts that nothing could be learned from."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..core.errors import BadData, shown

HALF = re.compile(r"[\ud800-\udfff]")  # what no file can hold


def check_texts(what: str, texts: Iterable[Any]) -> None:
    """Refuse what is no text, or an empty one.

    Raises:
        BadData: there is one.
    """
    for row, text in enumerate(texts, 1):
        if not isinstance(text, str):
            raise BadData(f"{what}: row {row} is no text but {shown(text)} ({type(text).__name__}): give texts")
        if not text.strip():
            raise BadData(f"{what}: row {row} has no text: leave it out")
        refuse_halves(what, row, text)


def refuse_halves(what: str, row: int, text: str) -> None:
    """Refuse a text that no file can hold.

    Raises:
        BadData: it has a surrogate without its other half.
    """
    if HALF.search(text):
        raise BadData(f"{what}: row {row} holds half a letter (a surrogate without its other half): repair its text")


def check_labels(what: str, y: Tensor, classes: tuple[str, ...]) -> None:
    """Refuse labels that do not number the classes.

    Raises:
        BadData: they do not.
    """
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
