"""Blocks: rows on disk that are read where they lie, for data larger than memory.

A folder of blocks holds `blocks.json` and, for each part, raw files of fixed rows: `train.x` in uint8 or, of tokens, a vector
in int32 a field with the `ends` of its rows, and `train.y`. Files of inputs are mapped, not copied: `take` reads the rows that
it is asked for. `blocks.json` holds a SHA-256 of every piece of `PIECE` bytes; a piece of pictures is compared with it before
the first of its rows is used, all others are when the folder is opened.
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadData, shown
from ..core.files import reading
from ..core.ragged import Ragged
from ..core.rows import Batch, TensorRows
from .source import Column, Source
from .tokens import TokenRows

FORMAT, MANIFEST = "nacre-blocks-1", "blocks.json"
PIECE = 2**20  # bytes that share a digest
KEPT = 2**24  # bytes that are read before pages are given back to the system
PAGES = 2**16  # bytes that the system maps around each that is read
AGAIN = "make the blocks again, or bring the file back from a copy"


class Block:
    """A file of rows, mapped read-only.

    Args:
        path: The file.
        told: What `blocks.json` says of it: `dtype`, `shape` and the digests of its pieces.

    Raises:
        BadData: the file is missing, or of another size.
    """

    def __init__(self, path: Path, told: Mapping[str, Any]):
        self.path, self.digests = path, told["sha256"]
        shape, dtype = told["shape"], np.dtype(told["dtype"])
        self.bytes = math.prod(shape) * dtype.itemsize
        self.row = self.bytes // shape[0]
        with reading(path, "a block", AGAIN), path.open("rb") as file:
            size = path.stat().st_size
            if size != self.bytes:
                raise BadData(f"{path} has {size:,} bytes, {self.bytes:,} were written: {AGAIN}")
            self._mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        array = np.frombuffer(self._mapped, dtype).reshape(shape)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that nobody may write into it: nobody does
            self.values = torch.from_numpy(array)
        self._right = torch.zeros(len(self.digests), dtype=torch.bool)
        self._all_right, self._read = False, 0

    def __deepcopy__(self, memo: Any) -> Block:
        return self  # nothing in it changes

    def take(self, index: Tensor) -> Tensor:
        """A copy of the rows at these positions.

        Raises:
            BadData: a byte near them is not the one that was written; the message names the place.
        """
        if not self._all_right and len(index):
            self._check(index)
        found = self.values[index]
        self._read += len(index) * (self.row + PAGES)
        if self._read > KEPT:
            self._give_back()
        return found

    def check(self) -> Block:
        """See that all bytes are those that were written.

        Raises:
            BadData: one is not.
        """
        self._check(torch.arange(len(self.values)))
        return self

    def _check(self, index: Tensor) -> None:
        """Compare the pieces that hold these rows with their digests, each once."""
        first, last = index * self.row // PIECE, ((index + 1) * self.row - 1) // PIECE
        for k in range(int((last - first).max()) + 1):
            pieces = torch.minimum(first + k, last)
            for piece in pieces[~self._right[pieces]].unique().tolist():
                self._check_piece(piece)
        self._all_right = bool(self._right.all())

    def _check_piece(self, piece: int) -> None:
        low, high = piece * PIECE, min((piece + 1) * PIECE, self.bytes)
        with memoryview(self._mapped) as held, held[low:high] as part:
            found = hashlib.sha256(part).hexdigest()
        if found != self.digests[piece]:
            raise BadData(
                f"{self.path}: of bytes {low:,} to {high - 1:,} (rows {low // self.row:,} to {(high - 1) // self.row:,}) at "
                f"least one was altered since they were written: {AGAIN}"
            )
        self._right[piece] = True
        self._read += high - low
        if self._read > KEPT:
            self._give_back()

    def _give_back(self) -> None:
        """Let the system count pages that were read as its own again; it keeps them as long as it has room."""
        if hasattr(mmap, "MADV_DONTNEED"):
            self._mapped.madvise(mmap.MADV_DONTNEED)
        self._read = 0


@dataclass(frozen=True)
class BlockRows(TensorRows):
    """Labelled rows that lie on disk.

    Attributes:
        x: All rows of the block, mapped: reading them one way or another reads the disk, writing is not possible.
        block: The block.
        places: (rows,) which of its rows these are; None = all.
    """

    block: Block | None = None
    places: Tensor | None = None

    def __post_init__(self) -> None:
        assert self.block is not None
        if self.places is None:
            super().__post_init__()

    def take(self, index: Tensor) -> Batch:
        """The rows at these positions, read from disk."""
        assert self.block is not None
        task = torch.full((len(index),), self.task) if self.task is not None else None
        x = self.block.take(index if self.places is None else self.places[index])
        return Batch(x, self.y[index], index, task=task)

    def chosen(self, index: Tensor) -> BlockRows:
        """The rows at these positions as rows of their own; nothing is read."""
        places = index if self.places is None else self.places[index]
        return BlockRows(self.x, self.y[index], self.task, self.block, places)

    def written(self) -> str:
        """A digest of the rows, made of those of their block and their places."""
        assert self.block is not None
        found = hashlib.sha256("".join(self.block.digests).encode())
        if self.places is not None:
            found.update(self.places.numpy().data)
        return found.hexdigest()


def is_block_folder(folder: Path) -> bool:
    """Whether a folder holds blocks."""
    return (folder / MANIFEST).is_file()


def open_blocks(folder: Path) -> Source:
    """The source in a folder that `make_blocks` made; of the rows themselves only labels are read.

    Raises:
        BadData: a file is missing or damaged, or was written by another version.
    """
    told = _manifest(folder / MANIFEST)
    with reading(folder / MANIFEST, "what make_blocks writes", AGAIN):
        names = {Path(name).name: entry for name, entry in told["files"].items()}  # of files in this folder alone
        files = {name: Block(folder / name, entry) for name, entry in names.items()}
        parts = {part: _rows(part, files, told["kind"], told.get("made_by", "")) for part in told["parts"]}
        columns = {
            column["name"]: Column(
                _in_memory(files[f"train.column{k}"]), _in_memory(files[f"test.column{k}"]), tuple(column["names"])
            )
            for k, column in enumerate(told["columns"])
        }
        groups = tuple(tuple(group) for group in told["groups"])
    return Source(
        told["name"],
        parts["train"],
        parts["test"],
        tuple(told["classes"]),
        groups,
        told["source"],
        told["note"],
        parts.get("validation"),
        columns,
    )


def manifest(body: Mapping[str, Any]) -> bytes:
    """The bytes of `blocks.json`; the last entry is a digest of the others."""
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}).encode() + b"\n"


def _manifest(path: Path) -> dict[str, Any]:
    with reading(path, "JSON", AGAIN):
        raw = path.read_bytes()
        held = json.loads(raw)
    found = held.get("format") if isinstance(held, dict) else None
    if found != FORMAT:
        raise BadData(f"{path} has the format {shown(found)}, this version reads {FORMAT!r}: make the blocks again")
    body = {key: value for key, value in held.items() if key != "sha256"}
    if manifest(body) != raw:
        raise BadData(f"{path} was altered since it was written: {AGAIN}")
    return body


def _rows(part: str, files: Mapping[str, Block], kind: str, made_by: str) -> TensorRows | TokenRows:
    y = _in_memory(files[f"{part}.y"])
    if kind == "rows":
        block = files[f"{part}.x"]
        return BlockRows(block.values, y, None, block)
    begins = f"{part}.tokens."
    fields = {
        name.removeprefix(begins): block.check().values for name, block in files.items() if name.startswith(begins)
    }
    return TokenRows(Ragged(fields, _in_memory(files[f"{part}.ends"])), y, made_by)


def _in_memory(block: Block) -> Tensor:
    return block.check().values.clone()
