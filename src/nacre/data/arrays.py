"""Arrays of the user, in memory or in a .npz file, as a checked `Source`."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.dice import dice
from ..core.errors import BadData, BadSetting
from ..core.rows import TensorRows
from .source import Column, Source

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
    keys = tuple(str(k) for k in arrays)
    held = FOUR if set(FOUR) <= set(keys) else TWO if set(TWO) <= set(keys) else ()
    if not held:
        raise BadData(
            f"{name} has the arrays {', '.join(keys) or 'none'}: name them {', '.join(FOUR)}, or {', '.join(TWO)} to have "
            "them split"
        )
    done = [note] if note else []
    x = [_pictures(f"{name}, {key}", arrays[key], done) for key in held if key.startswith("x")]
    y, classes = _labels(name, [arrays[key] for key in held if key.startswith("y")], arrays.get("classes"))
    for key, inputs, labels in zip(held[::2], x, y, strict=True):
        if len(inputs) != len(labels):
            raise BadData(
                f"{name}: {key} has {len(inputs)} rows, its labels {len(labels)}: give one label for each row"
            )
    beside = _columns(arrays, held, list(map(len, y)))
    if held == TWO:
        train, test = _split(name, y[0], seed, test_share)
        beside = {key: [values[0][train.numpy()], values[0][test.numpy()]] for key, values in beside.items()}
        done.append(f"split by seed {seed}: of each class a share of {test_share:g} is for testing")
        x, y = [x[0][train], x[0][test]], [y[0][train], y[0][test]]
    columns = {key: Column.of(values[0].tolist(), values[1].tolist()) for key, values in beside.items()}
    note = "; ".join(dict.fromkeys(done))
    return Source(name, TensorRows(x[0], y[0]), TensorRows(x[1], y[1]), classes, note=note, columns=columns)


def _columns(arrays: Mapping[str, Any], held: tuple[str, ...], rows: list[int]) -> dict[str, list[Any]]:
    """What else has a number or a name for each row: by name, its values among training and test rows, or among all."""
    endings = ("_train", "_test") if held == FOUR else ("",)
    left = {str(key): np.asarray(value) for key, value in arrays.items() if key not in (*held, "classes")}
    found = {}
    for stem in (key.removesuffix(endings[0]) for key in left if key.endswith(endings[0])):
        parts = [left.get(stem + ending, np.empty(())) for ending in endings]
        if [part.shape for part in parts] == [(n,) for n in rows] and all(part.dtype.kind in "iufUS" for part in parts):
            found[stem] = [np.char.decode(part) if part.dtype.kind == "S" else part for part in parts]
    return found


def from_npz(path: Path, seed: int, test_share: float) -> Source:
    """The source in a .npz file; nothing in it is unpickled.

    Raises:
        BadData: no .npz file, arrays of Python objects, or arrays that `from_arrays` refuses.
    """
    try:
        with path.open("rb") as file:
            stored: Any = np.load(file, allow_pickle=False)
            if not isinstance(stored, Mapping):
                raise BadData(f"{path} holds one array, not several: write it with numpy.savez(path, x_train=..., ...)")
            arrays = {str(key): stored[key] for key in stored}
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadData(
            f"{path} cannot be read as .npz ({error}): write it with numpy.savez(path, x_train=..., ...)"
        ) from error
    except ValueError as error:
        if isinstance(error, BadData):
            raise
        raise BadData(
            f"{path} holds pickled Python objects, or is no .npz file ({error}); pickles are not read: save plain arrays of "
            "numbers or text with numpy.savez"
        ) from error
    return from_arrays(arrays, path.stem, seed, test_share)


def _pictures(what: str, given: Any, done: list[str]) -> Tensor:
    """A tensor of pictures or vectors, channels first."""
    x = _tensor(what, given)
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
    arrays = [np.asarray(g.detach().cpu() if isinstance(g, Tensor) else g) for g in given]
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


def _names(name: str, named: Any) -> list[Any]:
    found = np.asarray(named)
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


def _split(name: str, y: Tensor, seed: int, share: float) -> tuple[Tensor, Tensor]:
    """Positions for training and testing: of each class `share` of its rows, at least one for each."""
    if not 0 < share < 1:
        raise BadSetting(f"test_share is the part of the rows kept for testing, between 0 and 1, not {share!r}")
    train, test = [], []
    for c in y.unique().tolist():
        rows = (y == c).nonzero().flatten()
        if len(rows) < 2:
            raise BadData(f"{name}: class {c} has one row, so it cannot be trained and tested: give x_train and x_test")
        rows = rows[torch.randperm(len(rows), generator=dice(seed, "test", c))]
        held = min(max(1, int(len(rows) * share + 0.5)), len(rows) - 1)
        test.append(rows[:held])
        train.append(rows[held:])
    if not train:
        raise BadData(f"{name}: there are no rows: give at least two of each class")
    return torch.cat(train).sort().values, torch.cat(test).sort().values
