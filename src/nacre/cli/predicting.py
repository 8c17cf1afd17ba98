"""Predictions for files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import click
import torch

from ..core.errors import BadData, BadSetting
from ..core.files import text_of
from ..data import form_of, read_idx, read_npy, read_npz, read_picture, read_tables, texts_in
from ..experiment import load

KEYS = ("x", "x_test", "images")


def predict_files(
    folder: Path, files: Sequence[Path], top: int, task: int | None, device: str, as_json: bool, text: str | None
) -> None:
    """Print the likeliest classes of each row of each file."""
    model = load(folder, device=device)
    if text is not None and not model.reads_texts:
        raise BadSetting(f"--text {text} names a column of texts, and this model reads none: leave it out")
    for path in files:
        if not path.is_file():
            raise BadData(f"there is no file {path}: give pictures, .npy, .npz or idx files, or texts")
        places, rows = _texts(path, text) if model.reads_texts else (None, _rows(path))
        found = model.top(rows, top, task)
        for i, best in zip(places or range(len(found)), found, strict=True):
            row = str(path) if len(found) == 1 else f"{path}[{i}]"
            if as_json:
                named = [{"class": name, "score": value} for name, value in best]
                click.echo(json.dumps({"file": str(path), "row": i, "top": named}, ensure_ascii=False))
            else:
                click.echo(f"{row}: " + ", ".join(f"{name} ({value:.3g})" if top > 1 else name for name, value in best))


def _texts(path: Path, column: str | None) -> tuple[Sequence[int], list[str]]:
    """The texts in a file, a table's or one a line, and the places where they stand, from 0; empty lines hold none."""
    if not form_of(path):
        if path.name.lower().removesuffix(".gz").endswith((".txt", ".text")):
            lines = [line.removesuffix("\r") for line in text_of(path, "text").split("\n")]
            places = [k for k, line in enumerate(lines) if line.strip()]
            return places, [lines[k] for k in places]
        raise BadData(
            f"{path} holds no texts: give a .txt file with a text a line, or a table (.csv, .tsv, .jsonl, .parquet)"
        )
    tables = read_tables(path)
    if len(tables) > 1:
        raise BadData(f"{path} holds {' and '.join(tables)} rows: give a file with the rows to predict alone")
    texts = texts_in(tables["train"], column)
    return range(len(texts)), texts


def _rows(path: Path) -> torch.Tensor:
    """The rows in a file: (rows, channels, height, width) or (rows, width)."""
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".npy", ".npz")):
        return _array(path)
    if "idx" in name or "ubyte" in name:
        return read_idx(path)
    return read_picture(path)[None]


def _array(path: Path) -> torch.Tensor:
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
