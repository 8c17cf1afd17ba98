"""Datasets in Hugging Face form: folders that `save_to_disk` wrote, which need pyarrow alone, and names on the hub.

A folder holds Arrow streams (`data-*.arrow`), their names in `state.json` and what columns mean in `dataset_info.json`; one of
several parts holds such a folder for each, named in `dataset_dict.json`. Code of others is never run: names need a version of
`datasets` that cannot.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..core.errors import BadData, BadSetting, MissingExtra, shown
from ..core.files import first_line, reading, text_of
from .dataset_columns import Rows, TextsOrNumbers, meant
from .tables import CUT, Table, cells_of, doubled, listed
from .unread import Unread

PARTS, STATE, INFO = "dataset_dict.json", "state.json", "dataset_info.json"
PREFIX = "hf:"
NAME = re.compile(
    r"hf:(?P<id>(?!.*\.\.)[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?)(:(?P<config>[\w.-]{1,96}))?", re.ASCII
)
NO_CODE = 4  # the first version of `datasets` that runs no code of a dataset


def is_dataset_folder(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (folder / PARTS).is_file() or all((folder / name).is_file() for name in (STATE, INFO))


def dataset_in(folder: Path, **said: Any) -> Unread | TextsOrNumbers:
    """The dataset in a folder that `Dataset.save_to_disk` or `DatasetDict.save_to_disk` wrote.

    Args:
        folder: Where it is.
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
    return meant(held, folder.resolve().name, str(folder), **said)


def dataset_called(name: str, **said: Any) -> Unread | TextsOrNumbers:
    """The dataset of a name on the hub, such as `hf:org/name` or `hf:org/name:config`; fetched once, then kept by `datasets`.

    Args:
        name: The name.
        **said: As in `dataset_in`.

    Raises:
        BadSetting: it is no such name.
        MissingExtra: `datasets` is not installed, or is a version that may run code of a dataset.
        BadData: it cannot be fetched, or as `dataset_in`.
    """
    told = NAME.fullmatch(name)
    if told is None:
        raise BadSetting(
            f"{shown(name)} names no dataset: write hf:ORG/NAME, or hf:ORG/NAME:CONFIG where it has several"
        )
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
    return meant(held, told["id"].rpartition("/")[2], name, **said)


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
        raise BadData(
            f"{source} has the columns {listed(held.column_names)}, but {strange[0]!r} is only in one of its files: {CUT}"
        )
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
