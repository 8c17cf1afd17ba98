"""The format of MNIST: two numbers of magic, the dimensions, the bytes; gzipped or not.

A file begins with two zero bytes, one byte for the type (8 is uint8) and one for the number of dimensions; each dimension
follows as a big-endian 32-bit number.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path

import torch
from torch import Tensor

from ..core.errors import BadData
from ..core.files import contents, path_of

UINT8 = 8
NAMES = {  # what a folder must hold: by part, every spelling in use
    "x_train": ("train-images-idx3-ubyte", "train-images.idx3-ubyte"),
    "y_train": ("train-labels-idx1-ubyte", "train-labels.idx1-ubyte"),
    "x_test": ("t10k-images-idx3-ubyte", "t10k-images.idx3-ubyte", "test-images-idx3-ubyte", "test-images.idx3-ubyte"),
    "y_test": ("t10k-labels-idx1-ubyte", "t10k-labels.idx1-ubyte", "test-labels-idx1-ubyte", "test-labels.idx1-ubyte"),
}


def read_idx(path: str | Path) -> Tensor:
    """Read one idx file of uint8, plain or gzipped, as a tensor of its own shape.

    Raises:
        BadData: no idx file, numbers of another type, or fewer or more bytes than its dimensions say.
    """
    path = path_of(path)
    raw = contents(path, "an idx file", "is it the right file?")
    if len(raw) < 4 or raw[:2] != b"\0\0":
        raise BadData(
            f"{path} is no idx file: it begins with {raw[:4].hex() or 'nothing'}, not 0000: is it the right file?"
        )
    kind, ranks = raw[2], raw[3]
    if kind != UINT8 or not 1 <= ranks <= 4:
        raise BadData(
            f"{path} holds idx numbers of type {kind:#04x} in {ranks} dimensions (magic {raw[:4].hex()}); uint8 (0x08) in "
            "1 to 4 is read: convert it to .npz and load that"
        )
    begin = 4 + 4 * ranks
    if len(raw) < begin:
        raise BadData(f"{path} is truncated: it ends within its header of {begin} bytes: fetch it again")
    shape = struct.unpack(f">{ranks}I", raw[4:begin])
    if len(raw) - begin != math.prod(shape):
        raise BadData(
            f"{path} is truncated or damaged: its header says {' x '.join(map(str, shape))} = {math.prod(shape)} bytes, "
            f"{len(raw) - begin} follow: fetch it again"
        )
    if not math.prod(shape):
        raise BadData(f"{path} holds nothing: its header says {' x '.join(map(str, shape))}: is it the right file?")
    return torch.frombuffer(bytearray(raw[begin:]), dtype=torch.uint8).view(shape)


def is_idx_folder(folder: Path) -> bool:
    """Whether a folder holds any of the files of MNIST."""
    return any(_find(folder, names) for names in NAMES.values())


def read_idx_folder(folder: Path) -> dict[str, Tensor]:
    """The four files of a folder in MNIST format: `x_train`, `x_test` (rows, 1, height, width), `y_train`, `y_test` (rows,).

    Raises:
        BadData: a file is missing or broken, or images and labels differ in number.
    """
    found = {part: _find(folder, names) for part, names in NAMES.items()}
    if missing := [NAMES[part][0] for part, path in found.items() if path is None]:
        here = ", ".join(sorted(p.name for p in folder.iterdir())[:8]) or "nothing"
        raise BadData(
            f"{folder} has no {' and no '.join(missing)} (with or without .gz; found: {here}): give a folder of the four "
            "MNIST-format files, or a .npz file"
        )
    parts = {part: read_idx(path) for part, path in found.items() if path is not None}
    for which in ("train", "test"):
        x, y = parts[f"x_{which}"], parts[f"y_{which}"]
        if x.ndim != 3 or y.ndim != 1:
            raise BadData(
                f"{found[f'x_{which}']} has {x.ndim} dimensions and {found[f'y_{which}']} {y.ndim}; images have 3 and labels "
                "1: are the two files swapped?"
            )
        if len(x) != len(y):
            raise BadData(
                f"{found[f'x_{which}']} holds {len(x)} images, {found[f'y_{which}']} {len(y)} labels: "
                "they do not belong together, fetch both again"
            )
        parts[f"x_{which}"], parts[f"y_{which}"] = x[:, None], y.long()
    return parts


def _find(folder: Path, names: tuple[str, ...]) -> Path | None:
    places = [folder / (name + end) for name in names for end in ("", ".gz")]
    return next((p for p in places if p.is_file()), None)
