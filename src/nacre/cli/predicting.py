"""Predictions for files."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import numpy as np
import torch

from ..core.errors import BadData
from ..data import read_idx
from ..experiment import load

KEYS = ("x", "x_test", "images")


def predict_files(folder: Path, files: Sequence[Path], top: int, task: int | None, device: str, as_json: bool) -> None:
    """Print the likeliest classes of each row of each file."""
    model = load(folder, device=device)
    for path in files:
        rows = _rows(path)
        for i, best in enumerate(model.top(rows, top, task)):
            row = str(path) if len(rows) == 1 else f"{path}[{i}]"
            if as_json:
                found = [{"class": name, "score": value} for name, value in best]
                click.echo(json.dumps({"file": str(path), "row": i, "top": found}, ensure_ascii=False))
            else:
                click.echo(f"{row}: " + ", ".join(f"{name} ({value:.3g})" if top > 1 else name for name, value in best))


def _rows(path: Path) -> torch.Tensor:
    """The rows in a file: (rows, channels, height, width) or (rows, width)."""
    if not path.is_file():
        raise BadData(f"there is no file {path}")
    name = path.name.lower().removesuffix(".gz")
    if name.endswith((".npy", ".npz")):
        return _array(path)
    if "idx" in name or "ubyte" in name:
        return torch.as_tensor(read_idx(path))
    return _picture(path)


def _array(path: Path) -> torch.Tensor:
    try:
        held = np.load(path, allow_pickle=False)
        if isinstance(held, np.ndarray):
            return torch.from_numpy(held)
        with held:
            key = next(_keys(held.files), None)
            if key is None:
                raise BadData(f"{path} holds {', '.join(held.files) or 'nothing'}: name its rows x")
            return torch.from_numpy(held[key])
    except (ValueError, OSError, TypeError) as error:
        if isinstance(error, BadData):
            raise
        raise BadData(f"{path} cannot be read: {error}") from error


def _keys(names: Sequence[str]) -> Iterator[str]:
    yield from (k for k in KEYS if k in names)
    if len(names) == 1:
        yield names[0]


def _picture(path: Path) -> torch.Tensor:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            grey = picture.mode in ("1", "L", "I;16")
            pixels = np.array(picture.convert("L" if grey else "RGB"))
    except (UnidentifiedImageError, OSError) as error:
        raise BadData(f"{path} is no picture that Pillow reads: {error}") from error
    return torch.from_numpy(pixels)[None, None] if grey else torch.from_numpy(pixels).permute(2, 0, 1)[None]
