"""Predictions for files, folders of pictures, and texts that come in by a pipe."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch
from torch import Tensor

from ..core.errors import BadData, BadSetting
from ..core.files import text_of
from ..data import PICTURES, form_of, read_idx, read_npy, read_npz, read_picture, read_tables, texts_in
from ..experiment import Predictor, load
from .answers import Answer, Format, written
from .progress import counted

KEYS = ("x", "x_test", "images")
STDIN = Path("-")
AT_ONCE = 200  # rows that are read, predicted and shown together


@dataclass(frozen=True)
class Row:
    """Something to be predicted.

    Attributes:
        file: Where it comes from.
        place: Its number there, from 0; lines of a text are counted with those that are empty.
        alone: Whether its file holds nothing else.
        content: The row: a text, or a tensor. None where it could not be read.
        wrong: Why not.
    """

    file: str
    place: int
    alone: bool
    content: Any = None
    wrong: BadData | None = None

    @property
    def name(self) -> str:
        """What it is called in answers."""
        return self.file if self.alone else f"{self.file}[{self.place}]"


@dataclass(frozen=True)
class Found:
    """What a row most likely is, best first; or why there is no answer."""

    row: Row
    best: Sequence[tuple[str, float]] = ()
    wrong: BadData | None = None


def predict_files(
    folder: Path, files: Sequence[Path], top: int, task: int | None, device: str, form: Format, text: str | None
) -> None:
    """Print the likeliest classes of each row of each file; rows that cannot be read are named, and the rest goes on.

    Raises:
        BadData: there is no such file, or not a single row could be predicted.
        BadSetting: a column of texts is said of a model that reads none.
    """
    model = load(folder, device=device)
    if text is not None and not model.reads_texts:
        raise BadSetting(f"--text {text} names a column of texts, and this model reads none: leave it out")
    groups = _groups(model, files, text)
    found = counted(_answers(model, [rows for _, rows in groups], top, task), sum(count for count, _ in groups))
    first, answered, left_out = None, 0, 0
    with written(form, top) as write:
        for one in found:
            if one.wrong is None:
                answered += 1
                write(Answer(one.row.file, one.row.place, one.row.name, one.best))
            else:
                left_out += 1
                first = first or one.wrong
                click.secho(f"left out: {one.row.name}: {one.wrong}", fg="yellow", err=True)
    if left_out and not answered and first is not None:
        raise first
    if left_out:
        click.secho(f"{answered} rows predicted, {left_out} left out", fg="yellow", err=True)


def _answers(model: Predictor, groups: Sequence[Iterable[Row]], top: int, task: int | None) -> Iterator[Found]:
    """What the rows are, in order; those of one size are predicted together."""
    for rows in groups:
        held: list[Row] = []
        for row in rows:
            if row.wrong is not None or (held and not _alike(held[-1], row)) or len(held) == AT_ONCE:
                yield from _predicted(model, held, top, task)
                held = []
            if row.wrong is not None:
                yield Found(row, wrong=row.wrong)
            else:
                held.append(row)
        yield from _predicted(model, held, top, task)


def _predicted(model: Predictor, rows: Sequence[Row], top: int, task: int | None) -> list[Found]:
    """Rows of one size at once; where one of them is refused, one by one."""
    if not rows:
        return []
    contents = [row.content for row in rows]
    try:
        best = model.top(contents if model.reads_texts else torch.stack(contents), top, task)
        return [Found(row, one) for row, one in zip(rows, best, strict=True)]
    except BadData as error:
        if len(rows) == 1:
            return [Found(rows[0], wrong=error)]
    return [one for row in rows for one in _predicted(model, [row], top, task)]


def _alike(one: Row, other: Row) -> bool:
    if isinstance(one.content, Tensor) and isinstance(other.content, Tensor):
        return one.content.shape == other.content.shape and one.content.dtype == other.content.dtype
    return isinstance(one.content, str) and isinstance(other.content, str)


def _groups(model: Predictor, files: Sequence[Path], text: str | None) -> list[tuple[int, Iterable[Row]]]:
    """The rows of each file or folder, and how many they are; pictures in folders are read when they are asked for."""
    for path in files:
        if path == STDIN and not model.reads_texts:
            raise BadSetting("- reads texts, a line each, and this model reads none: give files")
        if path != STDIN and not path.exists():
            raise BadData(
                f"there is no file {path}: give pictures, .npy, .npz or idx files, texts, or a folder of pictures"
            )
    groups: list[tuple[int, Iterable[Row]]] = []
    for path in files:
        if path.is_dir() and not model.reads_texts:
            found = _files_in(path, _is_picture, f"pictures ({', '.join(PICTURES)})")
            groups.append((len(found), (row for file in found for row in _rows_of(model, file, text))))
        else:
            found = _files_in(path, _holds_texts, "texts (.txt or tables)") if path.is_dir() else [path]
            rows = [row for file in found for row in _rows_of(model, file, text)]
            groups.append((len(rows), rows))
    return groups


def _files_in(folder: Path, wanted: Callable[[Path], bool], what: str) -> list[Path]:
    """The files of a kind in a folder and those in it, by name."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".") and wanted(p))
    if not files:
        raise BadData(f"{folder} holds no {what}: give another folder, or files one by one")
    return files


def _rows_of(model: Predictor, path: Path, text: str | None) -> list[Row]:
    """The rows of a file; one that cannot be read is a row that says why."""
    try:
        if path == STDIN:
            return list(_lines("-", sys.stdin))
        return list(_texts(path, text) if model.reads_texts else _arrays(model, path))
    except BadData as error:
        return [Row(str(path), 0, True, wrong=error)]


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES


def _holds_texts(path: Path) -> bool:
    return bool(form_of(path)) or path.name.lower().removesuffix(".gz").endswith((".txt", ".text"))


def _texts(path: Path, column: str | None) -> Iterator[Row]:
    """The texts in a file, a table's or one a line; empty lines hold none."""
    if not form_of(path):
        if not _holds_texts(path):
            raise BadData(
                f"{path} holds no texts: give a .txt file with a text a line, or a table (.csv, .tsv, .jsonl, .parquet)"
            )
        yield from _lines(str(path), io.StringIO(text_of(path, "text"), newline="\n"))
        return
    tables = read_tables(path)
    if len(tables) > 1:
        raise BadData(f"{path} holds {' and '.join(tables)} rows: give a file with the rows to predict alone")
    texts = texts_in(tables["train"], column)
    for place, text in enumerate(texts):
        wrong = (
            BadData("there is no text in this row: fill it, or leave the row out") if not (text or "").strip() else None
        )
        yield Row(str(path), place, len(texts) == 1, text, wrong)


def _lines(name: str, file: Any) -> Iterator[Row]:
    """A text a line."""
    lines = [line.rstrip("\n").removesuffix("\r") for line in file]
    places = [k for k, line in enumerate(lines) if line.strip()]
    for k in places:
        yield Row(name, k, len(places) == 1 and name != str(STDIN), lines[k])


def _arrays(model: Predictor, path: Path) -> Iterator[Row]:
    """The rows in a file: (channels, height, width) or (width,) each."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".npy", ".npz")):
        rows = _array(path)
    elif "idx" in name or "ubyte" in name:
        rows = read_idx(path)
    else:
        rows = read_picture(path)[None]
    trained: Any = model.trained
    if rows.ndim != len(trained.shape) + 1:  # one row, or pictures without channels: the array as a whole tells
        rows = trained.rows(rows).x
    for place in range(len(rows)):
        yield Row(str(path), place, len(rows) == 1, rows[place])


def _array(path: Path) -> Tensor:
    array = (
        read_npy(path)
        if path.suffix == ".npy"
        else next(iter(read_npz(path, lambda names: _key(path, names)).values()))
    )
    try:
        return torch.from_numpy(array)
    except TypeError as error:
        raise BadData(f"{path} holds {array.dtype}: save rows as numbers") from error


def _key(path: Path, names: list[str]) -> list[str]:
    """Which of several arrays holds the rows."""
    found = [k for k in KEYS if k in names] or (names if len(names) == 1 else [])
    if not found:
        raise BadData(f"{path} holds {', '.join(names[:10]) or 'nothing'}: name its rows x")
    return found[:1]
