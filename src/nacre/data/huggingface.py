"""Datasets in Hugging Face form: folders that `save_to_disk` wrote, which need pyarrow alone, and names on the hub.

A folder holds Arrow streams (`data-*.arrow`), their names in `state.json` and what columns mean in `dataset_info.json`; one of
several parts holds such a folder for each, named in `dataset_dict.json`. Code of others is never run: names need a version of
`datasets` that cannot.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.errors import BadData, BadSetting, MissingExtra, UnknownName, shown
from ..core.files import first_line, reading, text_of
from .columns import LABELS, from_tables, label_of, numbered
from .images import picture_of, sides_of
from .source import Source
from .tables import CUT, Table, cells_of, doubled, listed, part_of
from .unread import Unread

PARTS, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"
IMAGES = ("image", "img", "picture", "pixels")
PREFIX = "hf:"
NAME = re.compile(r"hf:(?P<id>(?!.*\.\.)[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?)(:(?P<config>[\w.-]{1,96}))?", re.ASCII)
NO_CODE = 4  # the first version of `datasets` that runs no code of a dataset


@dataclass(frozen=True)
class Rows:
    """One part of a dataset.

    Attributes:
        table: All columns but those of pictures.
        pictures: Columns of pictures: Arrow columns of their files.
    """

    table: Table
    pictures: Mapping[str, Any] = field(default_factory=dict)


def is_dataset_folder(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (folder / PARTS).is_file() or all((folder / name).is_file() for name in (STATE, INFO))


def from_dataset_folder(folder: Path, seed: int, test_share: float, **said: Any) -> Source:
    """The source in a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote.

    Args:
        folder: Where it is.
        seed: Draws the test rows where there are none.
        test_share: How many of each class they are.
        **said: `text`, `image` and `label`, the names of columns, and `size`, of pictures; what is not said is guessed.

    Raises:
        BadData: a file is missing or damaged, columns do not tell, or the data cannot be learned from.
        BadSetting: `size` of rows that are no pictures, or both texts and pictures are asked for.
        UnknownName: there is no such column; the nearest is named.
        MissingExtra: pyarrow is not installed.
    """
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtra(f"{folder}", "pyarrow", "tables") from error
    places = {"train": folder}
    if (folder / PARTS).is_file():
        places = {name: folder / name for name in _plain_names(folder / PARTS, _json(folder / PARTS).get("splits"))}
    held = {name: _in_folder(pyarrow, place) for name, place in places.items()}
    return _source(held, folder.resolve().name, str(folder), seed, test_share, **said)


def from_hub(name: str, seed: int, test_share: float, **said: Any) -> Source:
    """The source of a name on the hub, such as `hf:org/name` or `hf:org/name:config`; fetched once, then kept by `datasets`.

    Args:
        name: The name.
        seed: Draws the test rows where there are none.
        test_share: How many of each class they are.
        **said: As in `from_dataset_folder`.

    Raises:
        BadSetting: it is no such name.
        MissingExtra: `datasets` is not installed, or is a version that may run code of a dataset.
        BadData: it cannot be fetched, or as `from_dataset_folder`.
    """
    told = NAME.fullmatch(name)
    if told is None:
        raise BadSetting(f"{shown(name)} names no dataset: write hf:ORG/NAME, or hf:ORG/NAME:CONFIG where it has several")
    try:
        import datasets  # pyright: ignore[reportMissingImports]
        import pyarrow
    except ImportError as error:
        raise MissingExtra(f"the dataset {name!r}", "datasets", "hf") from error
    if int(datasets.__version__.partition(".")[0]) < NO_CODE:
        raise MissingExtra(f"the dataset {name!r}", f"datasets>={NO_CODE}", "hf")
    try:
        found = datasets.load_dataset(told["id"], told["config"])
    except Exception as error:
        raise BadData(
            f"the dataset {name!r} cannot be fetched ({first_line(error)}): is it its name on the hub, and is there a network? "
            "A folder that dataset.save_to_disk(...) wrote needs none"
        ) from error
    held = {}
    for part, rows in found.items():
        with reading(f"{name}, {part}", "a dataset", "fetch it again"):
            held[part] = _rows(pyarrow, f"{name}, {part}", rows.with_format("arrow")[:], rows.features.to_dict())
    return _source(held, told["id"].rpartition("/")[2], name, seed, test_share, **said)


# ------------------------------------------------------------------------------------------------------------- from folders


def _in_folder(pyarrow: Any, folder: Path) -> Rows:
    state, info = _json(folder / STATE), _json(folder / INFO)
    if state.get("_indices_data_files"):
        raise BadData(
            f"{folder} keeps its rows in another order than they lie in, as old versions of datasets wrote: save it again"
        )
    features = info.get("features")
    if not isinstance(features, dict) or not all(isinstance(told, (dict, list)) for told in features.values()):
        raise BadData(f"{folder / INFO} does not say what the columns are ({shown(features)}): {CUT}")
    files = state.get("_data_files")
    entries: list[Any] = files if isinstance(files, list) else [None]
    names = [entry.get("filename") if isinstance(entry, dict) else None for entry in entries]
    tables = []
    for path in (folder / name for name in _plain_names(folder / STATE, names)):
        with reading(path, "an Arrow stream", CUT), pyarrow.memory_map(str(path)) as file:
            tables.append(pyarrow.ipc.open_stream(file).read_all())
            tables[-1].validate(full=True)
    with reading(folder, "a dataset", CUT):
        return _rows(pyarrow, str(folder), pyarrow.concat_tables(tables), features)


def _plain_names(path: Path, names: Any) -> list[str]:
    """Names of files or folders that lie beside `path`, and nowhere else."""
    plain = isinstance(names, list) and all(isinstance(n, str) and n not in ("", ".", "..") for n in names)
    if not plain or not names or any(sign in name for name in names for sign in "/\\\0"):
        raise BadData(f"{path} does not name what lies beside it, but {shown(names)}: {CUT}")
    return names


def _json(path: Path) -> dict[str, Any]:
    try:
        held = json.loads(text_of(path, "JSON"))
    except (ValueError, RecursionError) as error:
        if isinstance(error, BadData):
            raise
        raise BadData(f"{path} is no JSON ({error}): {CUT}") from error
    if not isinstance(held, dict):
        raise BadData(f"{path} holds {shown(held)}, where save_to_disk writes an object: {CUT}")
    return held


def _rows(pyarrow: Any, source: str, held: Any, features: Mapping[str, Any]) -> Rows:
    """Columns of an Arrow table as what the features say of them."""
    if (twice := doubled(held.column_names)) is not None:
        raise BadData(f"{source} has two columns called {shown(twice)}: give each its own name")
    if strange := sorted(set(held.column_names) ^ set(features)):
        raise BadData(f"{source} has the columns {listed(held.column_names)}, but {strange[0]!r} is only in one of its files")
    kinds = {name: told.get("_type") if isinstance(told, dict) else None for name, told in features.items()}
    pictures = {name: held.column(name) for name, kind in kinds.items() if kind == "Image"}
    columns = {name: cells_of(pyarrow, held.column(name)) for name in held.column_names if name not in pictures}
    names = {name: _class_names(source, name, features[name]) for name, kind in kinds.items() if kind == "ClassLabel"}
    return Rows(Table(source, columns, names=names), pictures)


def _class_names(source: str, column: str, told: Mapping[str, Any]) -> list[str]:
    names = told.get("names")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadData(f"{source} has no names for the classes of {column!r}, but {shown(names)}: {CUT}")
    return names


# -------------------------------------------------------------------------------------------------------------- what is meant


def _source(
    held: Mapping[str, Rows],
    name: str,
    where: str,
    seed: int,
    test_share: float,
    text: str | None = None,
    image: str | None = None,
    label: str | None = None,
    size: int | Sequence[int] | None = None,
) -> Source:
    """The source of the parts of a dataset, by the names that they have there."""
    named = {part: part_of(part) for part in held}
    if (twice := doubled(part for part in named.values() if part)) is not None:
        raise BadData(f"{where} has {twice} rows under two names: keep one of them")
    if "train" not in named.values():
        raise BadData(f"{where} has the parts {listed(held)}, and none of them is called train: name one so")
    parts = {named[part]: rows for part, rows in held.items() if named[part]}
    left = [part for part in held if not named[part]]
    done = [f"parts of the data that were left out: {listed(left)}"] if left else []
    train = parts["train"]
    if text is not None and image is not None:
        raise BadSetting(f"text = {text!r} and image = {image!r} are both said to be what is learned from: say one")
    if image is not None and image not in train.pictures:
        raise UnknownName(f"column of pictures in {where}", image, train.pictures)
    image = image if image is not None or text is not None else _named_image(where, train)
    label = label if label is not None else label_of(train.table, text)
    if label is not None:
        parts, unlabelled = _labelled(parts, label)
        done += [f"rows of these parts have no labels and were left out: {listed(unlabelled)}"] if unlabelled else []
    tables = {part: rows.table for part, rows in parts.items()}
    if image is None:
        if size is not None:
            raise BadSetting(f"size = {shown(size)} is said of pictures, and {where} holds none: leave it out")
        tables["train"] = replace(tables["train"], note="; ".join(done))
        return from_tables(tables, name, seed, test_share, text=text, label=label)
    if label is None or label not in train.table.columns:
        if label is not None:
            raise UnknownName(f"column of {where}", label, train.table.columns)
        raise BadData(
            f"{where} has the columns {listed(train.table.columns)} beside pictures in {image!r}, and none of them is called "
            f'{", ".join(LABELS[:-1])} or {LABELS[-1]}: say which one holds the labels, as label = "..."'
        )
    done += [f"labels are in {label!r}; pictures are in {image!r}"]
    return _pictures(parts, tables, name, image, label, sides_of(size), done).source(seed, test_share)


def _named_image(where: str, rows: Rows) -> str | None:
    """The column of the pictures, where there are any."""
    lowered = {name.lower(): name for name in rows.pictures}
    found = next((lowered[word] for word in IMAGES if word in lowered), None)
    if found is None and len(rows.pictures) > 1:
        raise BadData(f'{where} has pictures in {listed(rows.pictures)}: say which ones are meant, as image = "..."')
    return found or next(iter(rows.pictures), None)


def _labelled(parts: Mapping[str, Rows], label: str) -> tuple[dict[str, Rows], list[str]]:
    """The parts that have labels, and the names of those of which the hub keeps them back, as -1 in all rows."""
    kept_back = []
    for part, rows in parts.items():
        cells = rows.table.columns.get(label, ())
        if part != "train" and label in rows.table.names and len(cells) and all(cell == -1 for cell in cells):
            kept_back.append(part)
    return {part: rows for part, rows in parts.items() if part not in kept_back}, kept_back


def _pictures(
    parts: Mapping[str, Rows],
    tables: Mapping[str, Table],
    name: str,
    image: str,
    label: str,
    size: tuple[int, int] | None,
    done: list[str],
) -> Unread:
    """Pictures in Arrow columns, before any of them is read."""
    labels, classes = numbered(tables, label)
    for part, rows in parts.items():
        if image not in rows.pictures:
            raise BadData(f"{tables[part].source} has no pictures in {image!r}, which the training rows have")
    where = [(part, row) for part, y in labels.items() for row in range(len(y))]

    def called(place: int) -> str:
        part, row = where[place]
        return f"{tables[part].source}: the picture of row {row + 1}"

    def read(place: int) -> Any:
        part, row = where[place]
        cell = parts[part].pictures[image][row].as_py()
        content = cell.get("bytes") if isinstance(cell, dict) else None
        if not content:
            raise BadData(
                f"{called(place)} is not in the dataset, but {shown(cell)}: pictures elsewhere are not looked for; save the "
                "dataset with them in it"
            )
        return picture_of(called(place), io.BytesIO(content), size)

    done = [*done, *([f"pictures were stretched to {size[0]}x{size[1]}"] if size else [])]
    return Unread(name, labels, classes, read, called, done)
