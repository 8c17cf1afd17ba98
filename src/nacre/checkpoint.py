"""Checkpoints: a tree of plain values and tensors as two files, `state.json` and `tensors.safetensors`; no pickle.

A checkpoint is written into a folder beside its place and renamed when it is complete, so a reader meets a whole one or
none.
"""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .core.errors import BadCheckpoint

FORMAT = "nacre-checkpoint-1"
STATE, TENSORS = "state.json", "tensors.safetensors"


def save(folder: str | Path, tree: Any) -> None:
    """Write `tree` into `folder`, which is replaced as a whole.

    Args:
        folder: Where the two files shall lie.
        tree: Tensors, numbers, strings, booleans, None, and lists, tuples or dicts of these.

    Raises:
        TypeError: the tree holds something else; the message names its path.

    Example:
        >>> import tempfile, torch
        >>> place = Path(tempfile.mkdtemp()) / "here"
        >>> save(place, {"step": 3, "weights": [torch.ones(2)]})
        >>> load(place)
        {'step': 3, 'weights': [tensor([1., 1.])]}
    """
    folder = Path(folder)
    tensors: dict[str, Tensor] = {}
    skeleton = _plain(tree, "", tensors)
    new = folder.with_name(folder.name + ".new")
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(parents=True)
    save_file(_apart(tensors), new / TENSORS)
    (new / STATE).write_text(json.dumps({"format": FORMAT, "tree": skeleton}))
    for name in (TENSORS, STATE):
        _sync(new / name)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(new, folder)
    _sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: str | Path) -> Any:
    """The tree that was saved, its tensors on the CPU.

    Raises:
        BadCheckpoint: the folder holds no checkpoint of this format, or an unreadable one.
    """
    folder = _whole(Path(folder))
    missing = [name for name in (STATE, TENSORS) if not (folder / name).is_file()]
    if missing:
        held = sorted(p.name for p in folder.iterdir())[:6] if folder.is_dir() else "nothing"
        raise BadCheckpoint(f"{folder} is no checkpoint: {' and '.join(missing)} missing (it holds {held})")
    try:
        skeleton = json.loads((folder / STATE).read_text())
        tensors = load_file(folder / TENSORS)
    except (ValueError, SafetensorError, OSError) as error:
        raise BadCheckpoint(f"the checkpoint {folder} cannot be read: {error}; use an earlier one") from error
    if not isinstance(skeleton, dict) or skeleton.get("format") != FORMAT:
        found = skeleton.get("format") if isinstance(skeleton, dict) else type(skeleton).__name__
        raise BadCheckpoint(f"{folder} has format {found!r}, this version reads {FORMAT!r}")
    return _value(skeleton["tree"], tensors)


def _whole(folder: Path) -> Path:
    """The folder, or what stands beside it if a save was interrupted between its two renames."""
    if not folder.exists():
        for beside in (folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")):
            if (beside / STATE).is_file() and (beside / TENSORS).is_file():
                return beside
    return folder


def _plain(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    match value:
        case Tensor():
            name = f"{len(tensors)}:{path}"  # numbered: two paths may read alike
            tensors[name] = value.detach().cpu().contiguous()
            return {"tensor": name}
        case dict():
            return {"dict": [[k, _plain(v, f"{path}/{k}", tensors)] for k, v in value.items()]}
        case list() | tuple():
            return {type(value).__name__: [_plain(v, f"{path}/{i}", tensors) for i, v in enumerate(value)]}
        case float() if not math.isfinite(value):
            return {"float": repr(value)}
        case bool() | int() | float() | str() | None:
            return value
    raise TypeError(f"{path or 'the tree'}: a checkpoint cannot hold a {type(value).__name__}")


def _value(saved: Any, tensors: dict[str, Tensor]) -> Any:
    match saved:
        case {"tensor": path}:
            if path not in tensors:
                raise BadCheckpoint(f"the checkpoint names a tensor {path!r} that it does not hold")
            return tensors[path]
        case {"dict": items}:
            return {k: _value(v, tensors) for k, v in items}
        case {"list": items}:
            return [_value(v, tensors) for v in items]
        case {"tuple": items}:
            return tuple(_value(v, tensors) for v in items)
        case {"float": text}:
            return float(text)
    return saved


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors that share memory, each with its own: safetensors writes no two names for one storage."""
    seen: set[int] = set()
    apart: dict[str, Tensor] = {}
    for path, t in tensors.items():
        place = t.untyped_storage().data_ptr()
        apart[path] = t.clone() if place in seen or t.untyped_storage().nbytes() != t.nbytes else t
        seen.add(place)
    return apart


def _sync(path: Path) -> None:
    """Ask the system to put a file or a folder's entries on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
