"""Which data a name, a path or arrays mean."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from ..core.dice import dice
from ..core.errors import BadData, UnknownName
from ..core.rows import TensorRows
from .arrays import FOUR, TWO, from_arrays, from_npz
from .idx import read_idx_folder
from .source import Source


def glyphs(seed: int = 0) -> Source:
    """200 characters of 10 scripts, drawn by seed: 12,000 training and 4,000 test pictures, grey 32x32, one script a task."""
    from .glyphs import stream_glyphs

    made = stream_glyphs(seed)
    note = f"drawn with seed {seed}; scripts in order: {', '.join(made.group_names)}"
    train, test = TensorRows(made.x_train, made.y_train), TensorRows(made.x_test, made.y_test)
    return Source("glyphs", train, test, made.names, made.groups, made.sha256, note)


def digits(seed: int = 0) -> Source:
    """10 handwritten digits of scikit-learn, split by seed: 1,197 training and 600 test pictures, grey 8x8."""
    from sklearn.datasets import load_digits

    stored: Any = load_digits()
    x = (torch.from_numpy(stored.images) * 255 / 16).round().to(torch.uint8)[:, None]
    y = torch.from_numpy(stored.target).long()
    order = torch.randperm(len(y), generator=dice(seed, "digits"))
    train, test = order[:1197], order[1197:]
    classes = tuple(str(k) for k in range(10))
    return Source(
        "digits", TensorRows(x[train], y[train]), TensorRows(x[test], y[test]), classes, note=f"split by seed {seed}"
    )


SOURCES: dict[str, Callable[[int], Source]] = {"glyphs": glyphs, "digits": digits}
"""The data that need no download, by name; each is made by a seed."""


def load(source: Any, *, seed: int = 0, test_share: float = 0.2) -> Source:
    """Data from a name, a folder, a file or arrays.

    Args:
        source: A name in `SOURCES`; a folder of MNIST-format files; a `.npz` file or a mapping with the arrays x_train,
            y_train, x_test and y_test (or x and y); a tuple of such arrays in that order; or a `Source`.
        seed: Draws the embedded data, and the split where there is no test set.
        test_share: The part of each class that is kept for testing where there is no test set.

    Raises:
        UnknownName: no data have that name; the nearest is named.
        BadData: nothing at that path, or data that cannot be learned from.
        BadSetting: `test_share` is not between 0 and 1.

    >>> x, y = torch.rand(40, 1, 8, 8), torch.arange(40) % 4
    >>> data = load((x, y), test_share=0.25)
    >>> len(data.train), len(data.test), data.classes
    (28, 12, ('0', '1', '2', '3'))
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, Mapping):
        return from_arrays(source, "arrays", seed, test_share)
    if isinstance(source, (tuple, list)):
        keys = {4: FOUR, 2: TWO}.get(len(source))
        if keys is None:
            raise BadData(
                f"{len(source)} arrays were given: give ({', '.join(FOUR)}), or ({', '.join(TWO)}) to have them split"
            )
        return from_arrays(dict(zip(keys, source, strict=True)), "arrays", seed, test_share)
    if not isinstance(source, (str, os.PathLike)):
        raise BadData(f"data are given as a name, a path, arrays or a Source, not as {type(source).__name__}")
    if isinstance(source, str) and source in SOURCES:
        return SOURCES[source](seed)
    return _at_path(source, seed, test_share)


def _at_path(source: str | os.PathLike[str], seed: int, test_share: float) -> Source:
    path = Path(source).expanduser()
    if path.is_dir():
        return from_arrays(read_idx_folder(path), path.resolve().name, seed, test_share, "MNIST-format files")
    if path.is_file():
        if path.suffix != ".npz":
            raise BadData(
                f"{path} is a {path.suffix or 'nameless'} file: give a .npz file, or the folder of MNIST-format files"
            )
        return from_npz(path, seed, test_share)
    text = os.fspath(source)
    if isinstance(source, str) and not path.suffix and not any(s in text for s in ("/", os.sep, "~")):
        raise UnknownName("data", text, SOURCES)
    raise BadData(
        f"there is nothing at {text!r} (looked for {path.absolute()}): give one of {', '.join(SOURCES)}, a folder of "
        "MNIST-format files, or a .npz file"
    )
