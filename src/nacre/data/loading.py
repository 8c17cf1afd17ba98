"""Which data a name, a path or arrays mean."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..core.dice import dice
from ..core.errors import BadData, BadSetting, UnknownName, shown
from ..core.files import path_of, reading
from ..core.rows import TensorRows
from .arrays import FOUR, TWO, from_arrays, from_npz, mapped_arrays
from .blocks import is_block_folder, open_blocks
from .columns import from_tables
from .dataset_columns import TextsOrNumbers
from .huggingface import PREFIX, dataset_called, dataset_in, is_dataset_folder
from .idx import is_idx_folder, read_idx_folder
from .images import is_picture_folder, pictures_in
from .source import Source
from .tables import Table, form_of, joined, listed, part_of, read_tables
from .unread import Unread


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


NAMES_OF_GROUPS = ("groups.json", "domains.json")
"""Files that say which classes belong together, beside a table."""

UNDERSTOOD = (
    "a folder of MNIST-format files, one with a folder of pictures for each class, one with the tables train.csv and test.csv "
    "(or .tsv, .json, .jsonl, .parquet), such a table, a folder that nacre.data.make_blocks or save_to_disk of Hugging Face "
    "datasets wrote, or a .npz file"
)


OF = {"text": "tables", "label": "tables", "image": "datasets in Hugging Face form", "size": "folders of pictures"}
"""What each thing that can be said is said of."""


def load(
    source: Any,
    *,
    seed: int = 0,
    test_share: float = 0.2,
    text: str | None = None,
    label: str | None = None,
    image: str | None = None,
    size: int | Sequence[int] | None = None,
) -> Source:
    """Data from a name, a folder, a file or arrays.

    Args:
        source: A name in `SOURCES`; a folder of MNIST-format files; a folder of pictures, `CLASS/...` or `train/CLASS/...`
            and `test/CLASS/...`; a table (.csv, .tsv, .json, .jsonl, .parquet) or a folder of the tables `train` and `test`;
            a folder that `save_to_disk` of Hugging Face datasets wrote; `hf:ORG/NAME`, a dataset on their hub;
            a folder that `make_blocks` wrote;
            a `.npz` file or a mapping with the arrays x_train, y_train, x_test and y_test (or x and y); a tuple of such
            arrays in that order; or a `Source`.
        seed: Draws the embedded data, and the split where there is no test set.
        test_share: The part of each class that is kept for testing where there is no test set.
        text: Of tables and datasets: the column of the texts; None goes by the names of columns.
        label: Of tables and datasets: the column of the labels; None goes by the names of columns.
        image: Of datasets: the column of the pictures; None takes them where there are any, by their names.
        size: Of pictures: the side, or (height, width), that they are stretched to; None: they must be of one size.

    Raises:
        UnknownName: no data, or no column, have that name; the nearest is named.
        BadData: nothing at that path, or data that cannot be learned from.
        BadSetting: `test_share` is not between 0 and 1, or something is said that these data do not read.
        MissingExtra: a Parquet file or a dataset, and the package that reads it is not installed.

    >>> x, y = torch.rand(40, 1, 8, 8), torch.arange(40) % 4
    >>> data = load((x, y), test_share=0.25)
    >>> len(data.train), len(data.test), data.classes
    (28, 12, ('0', '1', '2', '3'))
    """
    said = {"text": text, "label": label, "image": image, "size": size}
    held = given(source, seed, test_share, {name: value for name, value in said.items() if value is not None})
    return held if isinstance(held, Source) else held.source(seed, test_share)


def given(source: Any, seed: int, test_share: float, said: dict[str, Any]) -> Source | Unread | TextsOrNumbers:
    """What `load` was given, before rows are read where that can wait; `said` holds what is not None."""
    if isinstance(source, (str, os.PathLike)) and source not in SOURCES:
        return _at_path(source, seed, test_share, said)
    _refuse(said, "these data")
    if isinstance(source, Source):
        return source
    if isinstance(source, str):
        return SOURCES[source](seed)
    if isinstance(source, Mapping):
        return mapped_arrays(source, "arrays") or from_arrays(source, "arrays", seed, test_share)
    if not isinstance(source, (tuple, list)):
        raise BadData(
            f"data are given as a name, a path, arrays or a Source, not as {type(source).__name__}: give ({', '.join(TWO)})"
        )
    keys = {4: FOUR, 2: TWO}.get(len(source))
    if keys is None:
        raise BadData(
            f"{len(source)} arrays were given: give ({', '.join(FOUR)}), or ({', '.join(TWO)}) to have them split"
        )
    return given(dict(zip(keys, source, strict=True)), seed, test_share, said)


def _at_path(
    source: str | os.PathLike[str], seed: int, test_share: float, said: dict[str, Any]
) -> Source | Unread | TextsOrNumbers:
    given = os.fspath(source)
    if isinstance(source, str) and source.startswith(PREFIX):
        return dataset_called(source, **said)
    path = path_of(source)
    if path.is_dir():
        with reading(path, "a folder", "may you read it?"):
            return _in_folder(path, seed, test_share, said)
    if path.is_file():
        if path.suffix == ".npz":
            _refuse(said, str(path))
            return from_npz(path, seed, test_share)
        if form_of(path):
            _refuse(said, str(path), "text", "label")
            return from_tables(read_tables(path), Path(path.name.removesuffix(".gz")).stem, seed, test_share, **said)
        raise BadData(f"{path} is a {path.suffix or 'nameless'} file: give {UNDERSTOOD}")
    if isinstance(source, str) and not path.suffix and not any(s in given for s in ("/", os.sep, "~")):
        raise UnknownName("data", given, SOURCES)
    raise BadData(
        f"there is nothing at {shown(given)} (looked for {path.absolute()}): give one of {', '.join(SOURCES)}, {UNDERSTOOD}"
    )


def _in_folder(folder: Path, seed: int, test_share: float, said: dict[str, Any]) -> Source | Unread | TextsOrNumbers:
    """The data in a folder: what lies there says of which kind they are."""
    name = folder.resolve().name
    if is_block_folder(folder):
        _refuse(said, str(folder))
        return open_blocks(folder)
    if is_dataset_folder(folder):
        return dataset_in(folder, **said)
    if is_idx_folder(folder):
        _refuse(said, str(folder))
        return from_arrays(read_idx_folder(folder), name, seed, test_share, "MNIST-format files")
    groups = next((folder / n for n in NAMES_OF_GROUPS if (folder / n).is_file()), None)
    files = sorted(p for p in folder.iterdir() if p.is_file() and form_of(p) and p != groups)
    tables = [p for p in files if part_of(_stem(p))]
    if any(part_of(_stem(p)) == "train" for p in tables):
        _refuse(said, str(folder), "text", "label")
        return from_tables(_tables_in(tables), name, seed, test_share, groups=groups, **said)
    if is_picture_folder(folder):
        _refuse(said, str(folder), "size")
        return pictures_in(folder, **said)
    if len(files) == 1:
        _refuse(said, str(folder), "text", "label")
        return from_tables(read_tables(files[0]), name, seed, test_share, groups=groups, **said)
    here = listed(sorted(p.name for p in folder.iterdir()))
    raise BadData(f"{folder} holds {here}, which is none of what is read: give {UNDERSTOOD}")


def _tables_in(files: list[Path]) -> dict[str, Table]:
    """The parts that files are, each in one file or in several numbered ones."""
    parts: dict[str, list[Path]] = {}
    for path in files:
        parts.setdefault(part_of(_stem(path)), []).append(path)
    found = {}
    for part, paths in parts.items():
        if len(paths) > 1 and not all("-of-" in path.name for path in paths):
            raise BadData(f"{paths[0]} and {paths[1]} are both {part} rows: keep one of them in the folder")
        tables = [read_tables(path) for path in paths]
        if several := next((path for path, held in zip(paths, tables, strict=True) if set(held) != {"train"}), None):
            raise BadData(f"{several} holds parts of its own, but its name says that it holds {part} rows: rename it")
        found[part] = joined([held["train"] for held in tables])
    return found


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]


def _refuse(said: Mapping[str, Any], data: str, *read: str) -> None:
    """Nothing that somebody says stays unheard."""
    for name, value in said.items():
        if value is not None and name not in read:
            of = OF[name]
            raise BadSetting(f"{name} = {shown(value)} is said of {of}, and {data} are none: leave it out")
