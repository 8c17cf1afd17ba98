"""Arrays in files of numpy, read without unpickling anything and without believing what a header says of sizes."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

import numpy as np

from ..core.errors import BadData
from ..core.files import allowed, bomb, reading

MAGIC, ZIP = b"\x93NUMPY", b"PK"
KINDS = "biufUS"  # numbers and texts


def read_npy(path: Path) -> Any:
    """The array in a .npy file.

    Raises:
        BadData: it is none, is damaged, or holds Python objects.
    """
    with reading(path, "an array", "write it again with numpy.save"), path.open("rb") as file:
        return _array(file, path.stat().st_size, str(path))


def read_npz(path: Path, wanted: Callable[[list[str]], Iterable[str]]) -> dict[str, Any]:
    """Some of the arrays in a .npz file, by name.

    Args:
        path: The file.
        wanted: Chooses among the names that there are; the others are not unpacked.

    Raises:
        BadData: it is no .npz file, is damaged, or a wanted array holds Python objects.
    """
    with reading(path, ".npz", "write it again with numpy.savez(path, x_train=..., ...)"), path.open("rb") as file:
        begin = file.read(len(MAGIC))
        if begin == MAGIC:
            raise BadData(f"{path} holds one array, not several: write it with numpy.savez(path, x_train=..., ...)")
        if not begin.startswith(ZIP):
            raise BadData(
                f"{path} is no .npz file: it begins with {begin[:4].hex() or 'nothing'}, not 504b: is it the right file? "
                "Pickles are not read; write arrays with numpy.savez(path, x_train=..., ...)"
            )
        with zipfile.ZipFile(file) as held:
            members = {info.filename.removesuffix(".npy"): info for info in held.infolist()}
            if len(members) < len(held.infolist()):
                raise BadData(f"{path} has two arrays of one name: write it again with numpy.savez")
            chosen = {name: members[name] for name in wanted(list(members))}
            packed = path.stat().st_size
            if sum(info.file_size for info in chosen.values()) > allowed(packed):
                raise bomb(path, packed, allowed(packed))
            found = {}
            for name, info in chosen.items():
                with held.open(info) as member:
                    found[name] = _array(member, info.file_size, f"{path}, {name}")
            return found


def _array(file: IO[bytes], size: int, what: str) -> Any:
    """One array out of `size` bytes: magic, header, numbers."""
    version = np.lib.format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise BadData(f"{what} has the .npy version {version}, as tables with named fields do: save plain arrays")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = read(file)
    if dtype.hasobject:
        raise BadData(
            f"{what} holds pickled Python objects; pickles are not read: save plain arrays of numbers or text with numpy.savez"
        )
    if dtype.kind not in KINDS or not dtype.itemsize:
        raise BadData(f"{what} holds {dtype}: save arrays of numbers or text")
    told, left = math.prod(shape) * dtype.itemsize, size - file.tell()
    if told != left or min(shape, default=0) < 0:
        raise BadData(
            f"{what} is truncated or damaged: its header says {' x '.join(map(str, shape)) or 'one number'} of {dtype} = "
            f"{told} bytes, {left} follow: write it again"
        )
    numbers = np.frombuffer(bytearray(file.read(told)), dtype)
    return numbers.astype(dtype.newbyteorder("="), copy=False).reshape(shape, order="F" if by_columns else "C")
