"""Tables in files: CSV, TSV, JSON, JSON lines and Parquet, as columns by name. Nothing is guessed of their meaning here."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..core.errors import BadData, MissingExtra, shown
from ..core.files import allowed, bomb, reading, text_of

MOST_COLUMNS = 10_000
PARTS = {  # a part of the data: how files and tables call it
    "train": ("train", "training"),
    "test": ("test", "testing"),
    "validation": ("validation", "valid", "val", "dev"),
}
CUT = "is the file cut short? Fetch or write it again"


@dataclass(frozen=True)
class Table:
    """Columns of equal length.

    Attributes:
        source: What it is called in messages: its file.
        columns: Cells by column: as written in CSV and TSV, values elsewhere; None = missing.
        written: Whether cells are texts because the format knows nothing else.
        note: What of the file was left out, in a sentence.
        names: By column, what its whole numbers stand for: k for `names[column][k]`.
    """

    source: str
    columns: Mapping[str, Sequence[Any] | Any]
    written: bool = False
    note: str = ""
    names: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


def read_tables(path: Path) -> dict[str, Table]:
    """The tables in a file by the part that they are: train, test, validation; one that names no parts is `train`.

    Raises:
        BadData: it cannot be read as what its name says, or holds no rows in columns.
        MissingExtra: it is Parquet, and pyarrow is not installed.
    """
    return FORMATS[form_of(path)](path)


def form_of(path: Path) -> str:
    """The format that a file's name says, such as `.csv`; empty for any other. `.gz` behind it does not matter."""
    suffix = Path(path.name.lower().removesuffix(".gz")).suffix
    return suffix if suffix in FORMATS else ""


def part_of(word: str) -> str:
    """The part that a word names, such as train, Dev or train-00000-of-00002; empty for any other."""
    stem = word.lower().partition("-")[0] if "-of-" in word else word.lower()
    return next((part for part, words in PARTS.items() if stem in words), "")


def joined(tables: Sequence[Table]) -> Table:
    """Several tables of the same columns as one: a part that lies in several files.

    Raises:
        BadData: their columns differ.
    """
    first = tables[0]
    if len(tables) == 1:
        return first
    for other in tables[1:]:
        if set(other.columns) != set(first.columns):
            raise BadData(
                f"{other.source} has the columns {listed(other.columns)}, {first.source} {listed(first.columns)}: parts of one "
                "table have the same"
            )
    columns = {name: [cell for table in tables for cell in table.columns[name]] for name in first.columns}
    return Table(f"{first.source} and {len(tables) - 1} more", columns, first.written)


def doubled(names: Iterable[str]) -> str | None:
    """The first name that comes twice; None where none does."""
    seen: set[str] = set()
    return next((name for name in names if name in seen or seen.add(name)), None)


def listed(names: Iterable[str]) -> str:
    """Names in a sentence, the first ten of them."""
    names = list(names)
    said = [name[:60] if name.isprintable() else shown(name[:60]) for name in names[:10]]
    return ", ".join(said) + (", ..." if len(names) > 10 else "") or "none"


# ------------------------------------------------------------------------------------------------------------- CSV and TSV


def _delimited(path: Path, form: str, delimiter: str) -> dict[str, Table]:
    text = text_of(path, form)
    first = text[: text.find("\n") + 1] or text
    if delimiter == "," and "," not in first:  # spreadsheets of half the world write these
        delimiter = next((d for d in ";\t" if d in first), ",")
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[list[str]] = []
    try:
        names = next((line for line in lines if line), [])
        for line in lines:
            if line and len(line) != len(names):
                raise BadData(
                    f"{path} has {len(line)} cells in line {lines.line_num}, but {len(names)} columns ({listed(names)}): "
                    f"{CUT}, or put cells with commas into quotes"
                )
            if line:
                rows.append(line)
    except csv.Error as error:
        raise BadData(
            f"{path} is no {form} from line {lines.line_num} on ({error}): {CUT}, or close its quotes"
        ) from error
    _check_header(path, names)
    columns = list(zip(*rows, strict=True)) if rows else [() for _ in names]
    cells = {name: [cell or None for cell in column] for name, column in zip(names, columns, strict=True)}
    return {"train": Table(str(path), cells, written=True)}


def _check_header(path: Path, names: list[str]) -> None:
    if not names:
        raise BadData(f"{path} is empty: its first line names the columns, the others are rows")
    if len(names) > MOST_COLUMNS:
        raise BadData(f"{path} has {len(names)} columns, at most {MOST_COLUMNS} are read: leave some out")
    if (twice := doubled(names)) is not None:
        raise BadData(
            f"{path} has two columns called {shown(twice)}: give each its own name; the first line names the columns"
        )
    if blank := [place for place, name in enumerate(names, 1) if not name.strip()]:
        raise BadData(f"{path} does not name its column {blank[0]}: write a name into the first line")
    if all(_is_number(name) for name in names):
        raise BadData(
            f"{path} begins with the numbers {listed(names)}: its first line has to name the columns, such as text,label"
        )


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


# ------------------------------------------------------------------------------------------------------ JSON and JSON lines


def _json(path: Path) -> dict[str, Table]:
    held = _parsed(path, text_of(path, "JSON"), "")
    if isinstance(held, dict) and any(part_of(key) == "train" for key in held):
        parts = {key: part_of(key) for key in held}
        if (twice := doubled(part for part in parts.values() if part)) is not None:
            raise BadData(f"{path} holds {twice} rows under two names: keep one of them")
        tables = {part: _of_json(f"{path}, {key}", held[key]) for key, part in parts.items() if part}
        left = listed(sorted(key for key, part in parts.items() if not part))
        note = f"parts of the file that were left out: {left}" if len(tables) < len(parts) else ""
        return {**tables, "train": replace(tables["train"], note=note)}
    return {"train": _of_json(str(path), held)}


def _json_lines(path: Path) -> dict[str, Table]:
    rows = []
    for number, line in enumerate(text_of(path, "JSON lines").split("\n"), 1):
        if line.strip():
            row = _parsed(path, line, f" in line {number}")
            if not isinstance(row, dict):
                raise BadData(
                    f"{path} has {shown(row)} in line {number}: a line is an object with the columns as keys, such as "
                    '{"text": "...", "label": "..."}'
                )
            rows.append(row)
    return {"train": _of_json(str(path), rows)}


class _Twice(ValueError):
    """An object has a key twice."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _Twice(doubled(key for key, _ in pairs))
    return found


def _parsed(path: Path, text: str, where: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_once)
    except _Twice as twice:
        raise BadData(f"{path} has two columns called {shown(str(twice))}{where}: give each its own name") from None
    except RecursionError as error:
        raise BadData(f"{path} is nested deeper than any table{where}: give rows in columns") from error
    except ValueError as error:
        raise BadData(f"{path} is no JSON{where} ({error}): {CUT}") from error


def _of_json(source: str, held: Any) -> Table:
    """Rows as objects, as [text, label], or columns as lists."""
    if isinstance(held, dict) and held and all(isinstance(column, list) for column in held.values()):
        if len({len(column) for column in held.values()}) > 1:
            sizes = listed(f"{len(column)} in {name}" for name, column in held.items())
            raise BadData(f"{source} has columns of different length ({sizes}): give a cell for every row")
        return Table(source, held)
    rows = held if isinstance(held, list) else []
    if rows and all(isinstance(row, dict) for row in rows):
        return Table(source, _columns(source, rows))
    if rows and all(isinstance(row, list) and len(row) == 2 for row in rows):
        return Table(source, {"text": [row[0] for row in rows], "label": [row[1] for row in rows]})
    if not rows and isinstance(held, list):
        return Table(source, {})
    raise BadData(
        f'{source} is no table: give a list of objects with the columns as keys, a list of ["text", "label"], an object of '
        "such lists named train and test, or an object with a list for each column"
    )


def _columns(source: str, rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The columns of rows; what a row does not have is missing in it."""
    found: dict[str, list[Any]] = {}
    for place, row in enumerate(rows):
        for name, cell in row.items():
            if name not in found:
                if len(found) == MOST_COLUMNS:
                    raise BadData(
                        f"{source} has more than {MOST_COLUMNS} columns: rows of one table have the same ones"
                    )
                found[name] = [None] * place
            found[name].append(cell)
        for column in found.values():
            if len(column) == place:
                column.append(None)
    return found


# ----------------------------------------------------------------------------------------------------------------- Parquet


def _parquet(path: Path) -> dict[str, Table]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise MissingExtra(f"{path}", "pyarrow", "tables") from error
    with reading(path, "Parquet", CUT), path.open("rb") as file:
        held = parquet.ParquetFile(file)
        told, packed = held.metadata, path.stat().st_size
        size = sum(told.row_group(k).total_byte_size for k in range(told.num_row_groups))
        if max(size, told.num_rows) > allowed(packed):
            raise bomb(path, packed, allowed(packed))
        names = held.schema_arrow.names
        if (twice := doubled(names)) is not None:
            raise BadData(f"{path} has two columns called {shown(twice)}: give each its own name")
        table = held.read(use_threads=False)
        return {"train": Table(str(path), {name: cells_of(pyarrow, table.column(name)) for name in names})}


def cells_of(pyarrow: Any, column: Any) -> Any:
    """A column's cells: an array where all are numbers, else a list."""
    kind = column.type
    numbers = pyarrow.types.is_integer(kind) or pyarrow.types.is_floating(kind)
    return column.to_numpy() if numbers and not column.null_count else column.to_pylist()


FORMATS: dict[str, Callable[[Path], dict[str, Table]]] = {
    ".csv": lambda path: _delimited(path, "CSV", ","),
    ".tsv": lambda path: _delimited(path, "TSV", "\t"),
    ".json": _json,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
}
"""What reads a file, by the ending of its name."""
