"""Arrays of the user, in memory or in a .npz file, as a checked `Source`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadData
from .npz import read_npz
from .source import Source
from .splitting import Part, source_of
from .unread import Unread

FOUR, TWO = ("x_train", "y_train", "x_test", "y_test"), ("x", "y")


def from_arrays(arrays: Mapping[str, Any], name: str, seed: int, test_share: float, note: str = "") -> Source:
    """A source of arrays called x_train, y_train, x_test, y_test, or x, y, which are then split.

    Grey pictures without channels get one, channels that come last are brought to the front, and labels are numbered in
    the order of their names; a key `classes` may name labels 0, 1, ... Further arrays NAME_train and NAME_test (or, where
    rows are split, NAME) with one number or name for each row are a column, such as `domain` or `time`. The note says what
    was done.

    Raises:
        BadData: other keys, or arrays that `Source` refuses.
        BadSetting: `test_share` is not between 0 and 1.
    """
    held = _held(name, [str(key) for key in arrays])
    done = [note] if note else []
    x = [_pictures(f"{name}, {key}", arrays[key], done) for key in held if key.startswith("x")]
    y, classes = _labels(name, [arrays[key] for key in held if key.startswith("y")], arrays.get("classes"))
    _check_lengths(name, held, x, y)
    beside = _beside(arrays, held, list(map(len, y)))
    parts: dict[str, Part] = dict(zip(("train", "test"), map(Part, x, y, beside), strict=False))
    return source_of(name, parts, classes, seed, test_share, done)


def mapped_arrays(arrays: Mapping[str, Any], name: str) -> Unread | None:
    """The same source before rows are read, where these are arrays of uint8 that numpy maps from a disk; else None.

    Raises:
        BadData: as `from_arrays`.
    """
    held = _held(name, [str(key) for key in arrays])
    x = [arrays[key] for key in held if key.startswith("x")]
    mapped = all(isinstance(a, np.memmap) and a.dtype == np.uint8 and a.ndim > 1 for a in x)
    if not mapped or x[0].shape[1:] != x[-1].shape[1:]:
        return None
    y, classes = _labels(name, [arrays[key] for key in held if key.startswith("y")], arrays.get("classes"))
    _check_lengths(name, held, x, y)
    sizes, done = list(map(len, y)), []
    parts: list[str] = ["train", "test"][: len(x)]
    _pictures(name, x[0][:1], done)

    def at(place: int) -> tuple[int, int]:
        part = int(place >= sizes[0])
        return part, place - part * sizes[0]

    def read(place: int) -> Tensor:
        part, row = at(place)
        return _pictures(name, x[part][row : row + 1], [])[0]

    def called(place: int) -> str:
        part, row = at(place)
        return f"{name}, {held[2 * part]}, row {row + 1}"

    beside: dict[str, dict[str, list[Any]]] = dict(zip(parts, _beside(arrays, held, sizes), strict=True))
    return Unread(name, dict(zip(parts, y, strict=True)), classes, read, called, done, beside)


def from_npz(path: Path, seed: int, test_share: float) -> Source:
    """The source in a .npz file; nothing in it is unpickled.

    Raises:
        BadData: no .npz file, arrays of Python objects, or arrays that `from_arrays` refuses.
    """

    def wanted(names: list[str]) -> list[str]:
        known = _held(str(path), names)
        endings = ("_train", "_test") if known == FOUR else ("",)
        return [n for n in names if n in (*known, "classes") or n.endswith(endings)]

    return from_arrays(read_npz(path, wanted), path.stem, seed, test_share)


def _check_lengths(name: str, held: Sequence[str], x: Sequence[Any], y: Sequence[Tensor]) -> None:
    for key, inputs, labels in zip(held[::2], x, y, strict=True):
        if len(inputs) != len(labels):
            raise BadData(
                f"{name}: {key} has {len(inputs)} rows, its labels {len(labels)}: give one label for each row"
            )


def _beside(arrays: Mapping[str, Any], held: Sequence[str], rows: list[int]) -> list[dict[str, list[Any]]]:
    """For each part, what else has a number or a name for each of its rows, by name; other arrays are left alone."""
    endings = ("_train", "_test") if len(rows) > 1 else ("",)
    left = {str(key): np.asarray(value) for key, value in arrays.items() if key not in (*held, "classes")}
    found: list[dict[str, list[Any]]] = [{} for _ in rows]
    for stem in (key.removesuffix(endings[0]) for key in left if key.endswith(endings[0])):
        parts = [left.get(stem + ending, np.empty(())) for ending in endings]
        if [part.shape for part in parts] == [(n,) for n in rows] and all(part.dtype.kind in "iufUS" for part in parts):
            for beside, part in zip(found, parts, strict=True):
                beside[stem] = [_text(value) for value in part] if part.dtype.kind in "US" else part.tolist()
    return found


def _held(name: str, keys: Sequence[str]) -> tuple[str, ...]:
    """Which of the known arrays there are."""
    held = FOUR if set(FOUR) <= set(keys) else TWO if set(TWO) <= set(keys) else ()
    if not held:
        listed = ", ".join(keys[:10]) + (", ..." if len(keys) > 10 else "")
        raise BadData(
            f"{name} has the arrays {listed or 'none'}: name them {', '.join(FOUR)}, or {', '.join(TWO)} to have them split"
        )
    return held


def _pictures(what: str, given: Any, done: list[str]) -> Tensor:
    """A tensor of pictures or vectors, channels first."""
    x = _tensor(what, given)
    if not x.ndim:
        raise BadData(f"{what} is one number, not an array of rows: give pictures or vectors, a row each")
    if x.ndim == 3:
        done.append("pictures without channels are taken as grey")
        return x[:, None]
    if x.ndim == 4 and x.shape[1] not in (1, 3) and x.shape[-1] in (1, 3):
        done.append("channels were last and come first now")
        return x.permute(0, 3, 1, 2).contiguous()
    return x


def _tensor(what: str, given: Any) -> Tensor:
    if isinstance(given, Tensor):
        return given.detach()
    try:
        return torch.from_numpy(np.array(given, order="C"))  # a copy: the caller's array may be read-only, or change
    except (TypeError, ValueError) as error:
        raise BadData(f"{what} is no array of numbers ({error}): give rows of equal shape") from error


def _labels(name: str, given: list[Any], named: Any) -> tuple[list[Tensor], tuple[str, ...]]:
    """Labels numbered from 0 without gaps, and the names of the classes."""
    arrays = [_array(name, g) for g in given]
    for y in arrays:
        if y.ndim != 1:
            raise BadData(
                f"{name}: labels have the shape (rows,), not {y.shape}: give one class a row, not one-hot rows"
            )
        if y.dtype.kind not in "iuUS":
            raise BadData(
                f"{name}: labels are whole numbers or names, not {y.dtype}: convert them, as y.astype(int) does"
            )
        if y.dtype.kind == "i" and len(y) and y.min() < 0:
            raise BadData(f"{name}: label {y.min()} is negative: labels count from 0")
    if named is not None:
        classes = tuple(map(_text, _names(name, named)))
        return [_numbered(name, y, classes) for y in arrays], classes
    known = np.unique(arrays[0])
    if len(strange := np.setdiff1d(arrays[-1], known)):
        raise BadData(f"{name}: test rows have the label {strange[0]!s}, which no training row has: leave them out")
    numbered = [torch.from_numpy(np.searchsorted(known, y).astype(np.int64)) for y in arrays]
    return numbered, tuple(map(_text, known))


def _array(name: str, given: Any) -> Any:
    try:
        return np.asarray(given.detach().cpu() if isinstance(given, Tensor) else given)
    except (TypeError, ValueError) as error:
        raise BadData(f"{name}: labels are no array ({error}): give one whole number or name a row") from error


def _names(name: str, named: Any) -> list[Any]:
    found = _array(name, named)
    if found.ndim != 1:
        raise BadData(f"{name}: classes is a list of names, one for each label, not an array of shape {found.shape}")
    return list(found)


def _numbered(name: str, y: Any, classes: tuple[str, ...]) -> Tensor:
    """Labels as numbers; those that are names by their place among the names."""
    if y.dtype.kind in "iu":
        return torch.from_numpy(y.astype(np.int64))
    number = {c: k for k, c in enumerate(classes)}
    strange = sorted({_text(c) for c in y} - set(number))
    if strange:
        raise BadData(
            f"{name}: the label {strange[0]!r} is none of the classes {', '.join(classes[:5])}, ...: name it there"
        )
    return torch.tensor([number[_text(c)] for c in y], dtype=torch.long)


def _text(name: Any) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else str(name)
