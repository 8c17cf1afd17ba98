"""Checkpoints: a tree of plain values and tensors as a folder of three files; no pickle is written or read.

`state.json` holds the tree, `tensors.safetensors` its tensors, and `manifest.json` the format, the size and the SHA-256 of
each of the two, and a digest of itself. A checkpoint is written into a folder beside its place, synced, and renamed when it
is complete, so that a reader meets a whole one or none, after a crash too. Reading checks every byte before anything is made
of it; one that was altered is refused by the name of the file.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from .core.durable import make_folder, not_saved, sync, write_bytes
from .core.errors import BadCheckpoint, NacreError
from .core.tensor_file import write_tensors
from .core.tree import from_json, to_json

T = TypeVar("T")
FORMAT = "nacre-checkpoint-2"
MANIFEST, STATE, TENSORS = "manifest.json", "state.json", "tensors.safetensors"
FILES = (STATE, TENSORS)
LARGEST_MANIFEST = 1 << 16  # bytes
FOREIGN = {
    b"PK\x03\x04": "a zip archive, as torch.save writes",
    **{bytes((0x80, protocol)): "a pickle" for protocol in (2, 3, 4, 5)},
    b"\x1f\x8b": "a gzip archive",
    b"\x89HDF": "an HDF5 file",
}
"""How files begin that are none of ours: they are named, never opened."""
UNDESCRIBED = (
    *(LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError, AssertionError, MemoryError),
)
"""What code raises that is given values of other kinds than it was written for."""
PICKLED = (".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".bin", ".joblib", ".dill")


def save(folder: str | Path, tree: Any) -> None:
    """Write `tree` into `folder`, which is replaced as a whole.

    Args:
        folder: Where the files shall lie.
        tree: Tensors, numbers, strings, booleans, None, and lists, tuples or dicts of these; keys are strings or whole
            numbers. Tensors that share memory are written one by one.

    Raises:
        TypeError: the tree holds something else; the message names its path.
        NotSaved: the disk is full, or cannot be written to; what was in `folder` is untouched.

    Example:
        >>> import tempfile, torch
        >>> place = Path(tempfile.mkdtemp()) / "here"
        >>> save(place, {"step": 3, "weights": [torch.ones(2)]})
        >>> load(place)
        {'step': 3, 'weights': [tensor([1., 1.])]}
    """
    folder = Path(folder)
    tensors: dict[str, Tensor] = {}
    skeleton = to_json(tree, tensors)
    new = _beside(folder, "new")
    try:
        _write(new, skeleton, tensors)
    except OSError as error:
        shutil.rmtree(new, ignore_errors=True)
        raise not_saved(folder, error) from error
    try:
        _put(new, folder)
    except OSError as error:
        raise not_saved(folder, error) from error


def load(folder: str | Path) -> Any:
    """The tree that was saved, its tensors on the CPU.

    Raises:
        BadCheckpoint: the folder holds no checkpoint of this format, or one that was altered or cut; the message names the
            file. Nothing of it is used then.
    """
    folder = Path(folder)
    if not folder.exists():  # a save may have been interrupted between its two renames
        for beside in (_beside(folder, "new"), _beside(folder, "old")):
            try:
                return _read(beside)
            except BadCheckpoint:
                continue
    return _read(folder)


def outline(folder: str | Path) -> tuple[Any, Path]:
    """The tree that was saved, with the name of each tensor in its place, and the file in which they lie by these names.

    For who reads tensors one at a time; every byte is checked all the same.

    Raises:
        BadCheckpoint: see `load`.
    """
    folder = Path(folder)
    _checked(folder)
    with safe_open(folder / TENSORS, "pt") as file:
        names: dict[str, Any] = {name: name for name in file.keys()}  # noqa: SIM118
    return _tree(folder, names), folder / TENSORS


@contextmanager
def describing(what: str) -> Iterator[None]:
    """Whatever fails inside means that a checkpoint, whose bytes are right, is not of what was asked.

    Raises:
        BadCheckpoint: in the place of any error that is not one of ours.
    """
    try:
        yield
    except NacreError:
        raise
    except UNDESCRIBED as error:
        raise BadCheckpoint(
            f"the checkpoint does not describe {what} ({type(error).__name__}: {str(error)[:200]}): was it written by another "
            "version, or by hand?"
        ) from error


def _beside(folder: Path, ending: str) -> Path:
    return folder.with_name(f"{folder.name}.{ending}")


def _write(new: Path, skeleton: Any, tensors: dict[str, Tensor]) -> None:
    """Fill the folder `new`; it is on disk when this returns."""
    shutil.rmtree(new, ignore_errors=True)  # left behind by a save that was interrupted
    make_folder(new)
    write_bytes(new / STATE, json.dumps(skeleton, allow_nan=False).encode())
    write_tensors(tensors, new / TENSORS)
    sync(new / TENSORS)
    write_bytes(new / MANIFEST, _manifest({name: _digest(new / name) for name in FILES}))
    sync(new)


def _put(new: Path, folder: Path) -> None:
    """Rename a complete checkpoint to its place; what was there stays until it is done."""
    old = _beside(folder, "old")
    shutil.rmtree(old, ignore_errors=True)
    replaced = folder.exists()
    if replaced:
        os.replace(folder, old)
    try:
        os.replace(new, folder)
    except OSError:
        if replaced:
            os.replace(old, folder)
        raise
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


# ---------------------------------------------------------------------------------------------------- reading what was written


def _read(folder: Path) -> Any:
    """A whole checkpoint, every byte of which is what was written."""
    _checked(folder)
    return _tree(folder, _parsed(folder / TENSORS, load_file))


def _checked(folder: Path) -> None:
    """A whole checkpoint lies there, every byte of which is what was written."""
    try:
        _refuse_foreign(folder)
        _refuse_altered(folder)
    except OSError as error:
        raise BadCheckpoint(f"the checkpoint {folder} cannot be read: {error}; use an earlier one") from error


def _tree(folder: Path, tensors: dict[str, Tensor]) -> Any:
    """What the state says, made of these tensors."""
    tree = _parsed(
        folder / STATE, lambda path: from_json(json.loads(path.read_bytes(), parse_constant=_refused), tensors)
    )
    if tensors:
        raise BadCheckpoint(
            f"{folder / TENSORS} holds tensors that {STATE} does not name, {sorted(tensors)[:3]}: use an earlier checkpoint"
        )
    return tree


def _refuse_foreign(folder: Path) -> None:
    """The folder holds three plain files of these names and nothing else."""
    need = sorted((MANIFEST, *FILES))
    if folder.is_file():
        raise BadCheckpoint(
            f"{folder} is no checkpoint but {_kind(folder)}: a checkpoint is a folder of {', '.join(need)}; pickled files are "
            "never read"
        )
    held = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    if missing := [name for name in need if name not in held]:
        there = (
            f"holds {', '.join(map(repr, held[:6]))}" if held else "is empty" if folder.is_dir() else "does not exist"
        )
        raise BadCheckpoint(f"{folder} is no checkpoint of this version: {' and '.join(missing)} missing (it {there})")
    for path in (folder / name for name in held):
        if path.name not in need:
            raise BadCheckpoint(
                f"{folder} holds {path.name!r}, {_kind(path)}, which is no part of a checkpoint: take it out, if you know "
                "where it comes from"
            )
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BadCheckpoint(f"{path} is {_kind(path)}, where a plain file was written: use an earlier checkpoint")


def _refuse_altered(folder: Path) -> None:
    """The manifest is as it was written, and so are the files that it names."""
    path = folder / MANIFEST
    size = path.stat().st_size
    raw = path.read_bytes() if size <= LARGEST_MANIFEST else b""
    try:
        held = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _altered(path, f"its {size} bytes are no manifest") from error
    found = held.get("format") if isinstance(held, dict) else None
    if found != FORMAT:
        raise BadCheckpoint(
            f"{folder} has format {found!r}, this version reads {FORMAT!r}: use the version that wrote it, or an earlier "
            "checkpoint"
        )
    files = held.get("files")
    if _manifest(files) != raw:
        raise _altered(path, "its digest is that of another content")
    if not isinstance(files, dict) or sorted(files) != sorted(FILES):
        raise BadCheckpoint(
            f"{path} names {str(files)[:80]}, but a checkpoint is made of {' and '.join(FILES)} alone: use an earlier one"
        )
    for path in (folder / name for name in FILES):
        entry, size = files[path.name], path.stat().st_size
        written = entry.get("bytes") if isinstance(entry, dict) else None
        if size != written:
            raise _altered(path, f"{written!r} bytes were written")
        if _digest(path) != entry:
            raise _altered(path, "its SHA-256 is another than was written down")


def _manifest(files: Any) -> bytes:
    """The bytes of a manifest. There is one way to write it, so that each of its bits can be checked."""
    body = {"format": FORMAT, "files": files}
    digest = hashlib.sha256(json.dumps(body).encode()).hexdigest()
    return json.dumps({**body, "sha256": digest}, indent=1).encode() + b"\n"


def _digest(path: Path) -> dict[str, Any]:
    """Size and SHA-256 of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            size += len(piece)
    return {"bytes": size, "sha256": digest.hexdigest()}


def _parsed(path: Path, read: Callable[[Path], T]) -> T:
    try:
        return read(path)
    except (ValueError, SafetensorError, OSError, RecursionError, MemoryError) as error:
        raise BadCheckpoint(
            f"{path}, {_kind(path)}, is no part of a checkpoint: {type(error).__name__}: {str(error)[:200]}; use "
            "an earlier checkpoint"
        ) from error


def _altered(path: Path, how: str) -> BadCheckpoint:
    return BadCheckpoint(
        f"{path}, {_kind(path)}, was altered or cut after it was written ({how}): use an earlier checkpoint, or bring the file "
        "back from a copy"
    )


def _kind(path: Path) -> str:
    """What lies there, in words."""
    if path.is_symlink():
        return "a link"
    if not path.is_file():
        return "a folder" if path.is_dir() else "no plain file"
    with path.open("rb") as file:
        begins = file.read(8)
    if begins[3:8] != bytes(5):  # else the length of a header, which may begin like anything
        for magic, name in FOREIGN.items():
            if begins.startswith(magic):
                return name
    return "a pickled file" if path.suffix in PICKLED else f"a file of {path.stat().st_size} bytes"


def _refused(word: str) -> Any:
    raise ValueError(f"it holds the word {word}")
