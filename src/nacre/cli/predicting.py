"""Predictions for files."""

from __future__ import annotations

import json
import zipfile
import zlib
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
        found = model.top(rows, top, task)
        for i, best in enumerate(found):
            row = str(path) if len(found) == 1 else f"{path}[{i}]"
            if as_json:
                named = [{"class": name, "score": value} for name, value in best]
                click.echo(json.dumps({"file": str(path), "row": i, "top": named}, ensure_ascii=False))
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
        with path.open("rb") as file:
            held = np.load(file, allow_pickle=False)
            if isinstance(held, np.ndarray):
                return torch.from_numpy(held)
            key = next(_keys(held.files), None)
            if key is None:
                raise BadData(f"{path} holds {', '.join(held.files) or 'nothing'}: name its rows x")
            return torch.from_numpy(held[key])
    except BadData:
        raise
    except (ValueError, OSError, TypeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise BadData(f"{path} cannot be read as an array ({error}): write it again with numpy.save") from error


def _keys(names: Sequence[str]) -> Iterator[str]:
    yield from (k for k in KEYS if k in names)
    if len(names) == 1:
        yield names[0]


def _picture(path: Path) -> torch.Tensor:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            mode = picture.mode
            if mode in ("I", "F"):
                raise BadData(
                    f"{path} holds {'whole' if mode == 'I' else 'fractional'} numbers of 32 bit, whose white is unknown: "
                    "save it with 8 or 16 bit a channel"
                )
            grey = mode in ("1", "L", "LA") or mode.startswith("I;16")
            if mode.startswith("I;16"):  # Pillow would cut off what is above 255
                pixels = (np.array(picture).astype(np.uint32) * 255 + 32767) // 65535
            else:
                pixels = np.array(picture.convert("L" if grey else "RGB"))
    except BadData:
        raise
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadData(f"{path} is no picture that Pillow reads: {error}") from error
    made = torch.from_numpy(pixels.astype(np.uint8))
    return made[None, None] if grey else made.permute(2, 0, 1)[None]
