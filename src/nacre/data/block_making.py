"""Makes folders of blocks, see `blocks`; nothing of the rows is held in memory but the one that is being written."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..core.durable import make_folder, not_saved, sync, write_bytes
from ..core.errors import BadData, BadSetting
from ..core.rows import TensorRows
from .blocks import FORMAT, MANIFEST, PIECE, manifest, open_blocks
from .loading import given
from .source import Column, Source
from .splitting import Part
from .tokens import TokenRows
from .unread import Unread

AT_ONCE = 1024  # rows of memory that are written together


def make_blocks(
    source: Any,
    folder: str | Path,
    *,
    seed: int = 0,
    test_share: float = 0.2,
    label: str | None = None,
    image: str | None = None,
    size: int | Sequence[int] | None = None,
) -> Source:
    """Write data into a folder of blocks, which `load`, and `data.source` of a config, read where they lie.

    Pictures in files, and arrays that are mapped (`numpy.load(path, mmap_mode="r")`) are read row by row, so that data may be
    larger than memory; a source in memory, such as `load(...).tokenized(...)`, is written as it is. The folder is written under
    another name and renamed when it is complete and on disk: a crash leaves nothing that is read.

    Args:
        source: Anything that `load` reads, of pictures or vectors in uint8, or a source of tokens.
        folder: Where the blocks shall lie; it must not exist.
        seed: Draws the test rows where there are none; runs over blocks keep them, whatever their seed.
        test_share: How many of each class they are.
        label: See `load`.
        image: See `load`.
        size: See `load`.

    Returns:
        The same rows, read from the blocks.

    Raises:
        BadSetting: the folder exists.
        BadData: rows that cannot be read, or are neither uint8 nor tokens.
        NotSaved: the disk is full, or cannot be written to; nothing is left of it.

    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp(), "blocks")
    >>> x, y = torch.randint(256, (40, 1, 8, 8), dtype=torch.uint8), torch.arange(40) % 4
    >>> made = make_blocks((x, y), place)
    >>> len(made.train), bool((made.train.take(torch.tensor([3])).y < 4).all())
    (32, True)
    """
    folder = Path(folder).expanduser()
    if folder.exists():
        raise BadSetting(f"{folder} is there already, and blocks are made once: load them, or name another folder")
    said = {"label": label, "image": image, "size": size}
    held = given(source, seed, test_share, {name: value for name, value in said.items() if value is not None})
    held = held if isinstance(held, (Source, Unread)) else held.source(seed, test_share)
    new = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(new, ignore_errors=True)  # left behind by a crash
    try:
        make_folder(new)
        told = _unread(new, held, seed, test_share) if isinstance(held, Unread) else _source(new, held)
        write_bytes(new / MANIFEST, manifest({"format": FORMAT, **told}))
        sync(new)
        os.replace(new, folder)
        sync(folder.parent)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise not_saved(folder, error) from error
    except BaseException:
        shutil.rmtree(new, ignore_errors=True)
        raise
    return open_blocks(folder)


class _Writer:
    """Writes the files of blocks, and what `blocks.json` says of them."""

    def __init__(self, folder: Path):
        self.folder, self.files, self.whole = folder, {}, hashlib.sha256()

    def write(self, name: str, values: Iterable[Tensor], counts: bool = False) -> None:
        """Write tensors of rows one after the other; `counts` says that they are part of the digest of the source."""
        digests, found, rows, held, shape, dtype = [], hashlib.sha256(), 0, 0, [], ""
        with (self.folder / name).open("wb") as file:
            for tensor in values:
                bits = tensor.contiguous().numpy().data.cast("B")
                rows, shape, dtype = (
                    rows + len(tensor),
                    list(tensor.shape[1:]),
                    str(tensor.dtype).removeprefix("torch."),
                )
                file.write(bits)
                if counts:
                    self.whole.update(bits)
                while bits:
                    part, bits = bits[: PIECE - held], bits[PIECE - held :]
                    found.update(part)
                    held += len(part)
                    if held == PIECE:
                        digests.append(found.hexdigest())
                        found, held = hashlib.sha256(), 0
            file.flush()
            os.fsync(file.fileno())
        digests += [found.hexdigest()] if held else []
        self.files[name] = {"dtype": dtype, "shape": [rows, *shape], "sha256": digests}

    def columns(self, columns: Mapping[str, Column]) -> list[dict[str, Any]]:
        """Write what is known of rows beside; the digest of a source goes by their names."""
        for k, (_, column) in enumerate(sorted(columns.items())):
            self.write(f"train.column{k}", [column.train], counts=True)
            self.write(f"test.column{k}", [column.test], counts=True)
        return [{"name": name, "names": list(column.names)} for name, column in sorted(columns.items())]


def _unread(folder: Path, held: Unread, seed: int, test_share: float) -> dict[str, Any]:
    """Write rows as they are read; if one has colours, all have three channels."""
    parts, done = held.parted(seed, test_share)
    written = _written(folder, held, parts, len(held.first)) or _written(folder, held, parts, 3)
    assert written is not None
    train, test = parts["train"].beside, parts["test"].beside
    columns = {name: Column.of(train[name], test[name]) for name in train if name in test}
    return {
        **_about(held.name, held.classes, (), "; ".join(dict.fromkeys(done)), "rows", list(parts)),
        "columns": written.columns(columns),
        "source": written.whole.hexdigest(),
        "files": written.files,
    }


def _written(folder: Path, held: Unread, parts: Mapping[str, Part], channels: int) -> _Writer | None:
    """The writer, once all rows are on disk; None where one has more channels than that."""
    writer, more = _Writer(folder), False

    def rows(places: Tensor) -> Iterable[Tensor]:
        nonlocal more
        for row in held.rows(places.tolist()):
            if more := len(row) > channels and row.ndim == 3:
                return
            yield (row.expand(channels, -1, -1) if row.ndim == 3 else row)[None]

    for part in sorted(parts, key=("train", "test", "validation").index):
        places = parts[part].x
        assert isinstance(places, Tensor)
        writer.write(f"{part}.x", rows(places), counts=part != "validation")
        if more:
            return None
        writer.write(f"{part}.y", [parts[part].y], counts=part != "validation")
    return writer


def _source(folder: Path, source: Source) -> dict[str, Any]:
    """Write the rows of a source in memory."""
    writer = _Writer(folder)
    held = {"train": source.train, "test": source.test, "validation": source.validation}
    parts = {part: rows for part, rows in held.items() if rows is not None}
    for part, rows in parts.items():
        if isinstance(rows, TokenRows):
            for name, flat in rows.tokens.fields.items():
                if flat.dtype != torch.int32:
                    raise _unfit(f"{source.name}, the field {name!r}", str(flat.dtype))
                writer.write(f"{part}.tokens.{name}", flat.split(PIECE))
            writer.write(f"{part}.ends", [rows.tokens.ends])
        elif isinstance(rows, TensorRows) and isinstance(rows.x, Tensor) and rows.x.dtype == torch.uint8:
            index = torch.arange(len(rows)).split(AT_ONCE)
            writer.write(f"{part}.x", (rows.take(some).x for some in index))
        else:
            x = getattr(rows, "x", None)
            raise _unfit(source.name, str(x.dtype) if isinstance(x, Tensor) else "texts or several fields")
        writer.write(f"{part}.y", [rows.y])
    kind = "tokens" if isinstance(source.train, TokenRows) else "rows"
    made_by = {"made_by": source.train.made_by} if isinstance(source.train, TokenRows) else {}
    return {
        **_about(source.name, source.classes, source.groups, source.note, kind, list(parts)),
        **made_by,
        "columns": writer.columns(source.columns),
        "source": source.sha256,
        "files": writer.files,
    }


def _about(
    name: str, classes: Sequence[str], groups: Sequence[Sequence[int]], note: str, kind: str, parts: list[str]
) -> dict[str, Any]:
    groups = [list(group) for group in groups]
    return {"name": name, "classes": list(classes), "groups": groups, "note": note, "kind": kind, "parts": parts}


def _unfit(what: str, kind: str) -> BadData:
    return BadData(
        f"{what}: blocks hold pictures or vectors in uint8, or tokens in int32, not {kind}: convert pixels in 0..1 with "
        "(x * 255).round().to(torch.uint8), and texts with source.tokenized(body.tokenizer)"
    )
