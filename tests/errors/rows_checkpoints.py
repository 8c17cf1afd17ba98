"""What files of checkpoints are refused, and what is said where one cannot be written."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import torch

from nacre import checkpoint
from nacre.checkpoint import FILES, MANIFEST, STATE, TENSORS
from nacre.core import durable
from nacre.core.errors import BadCheckpoint, NotSaved
from nacre.core.tree import DEPTH
from nacre.experiment.folder import Folder
from tests.errors.row import Place, Row

UNTOUCHED = "what was saved before is untouched"
ALTERED = "use an earlier checkpoint, or bring the file back from a copy"


def kept(at: Place) -> Path:
    """A checkpoint with one tensor."""
    checkpoint.save(at / "a", {"x": torch.zeros(2)})
    return at / "a"


def changed(at: Place, name: str, content: bytes) -> Any:
    """Load a checkpoint one file of which is another, or that has one more."""
    place = kept(at)
    (place / name).write_bytes(content)
    return checkpoint.load(place)


def sealed(at: Place, state: bytes, tensors: bytes | None = None) -> Any:
    """Load a checkpoint with another tree, whose manifest fits: what somebody would send who knows the format."""
    place = kept(at)
    (place / STATE).write_bytes(state)
    if tensors is not None:
        (place / TENSORS).write_bytes(tensors)
    return manifest(place, {name: checkpoint._digest(place / name) for name in FILES})


def manifest(place: Path, files: Any) -> Any:
    """Load a checkpoint whose manifest says this of its files."""
    (place / MANIFEST).write_bytes(checkpoint._manifest(files))
    return checkpoint.load(place)


def linked(at: Place) -> Any:
    place = kept(at)
    (place / STATE).rename(at / "state.json")
    (place / STATE).symlink_to(at / "state.json")
    return checkpoint.load(place)


def failing(at: Place, name: str, number: int) -> Place:
    """As if the system refused a call."""

    def fails(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    at.patch.setattr(os, name, fails)
    return at


def unlisted(at: Place) -> Any:
    """As if the folder could not be listed."""
    place = kept(at)

    def fails(path: Path) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    at.patch.setattr(Path, "iterdir", fails)
    return checkpoint.load(place)


def nested(levels: int) -> Any:
    tree: Any = None
    for _ in range(levels):
        tree = [tree]
    return tree


def none_left(at: Place) -> Any:
    """Look for the newest checkpoint of a seed all of which are broken."""
    folder = Folder(at / "run")
    folder.save(0, {"x": 1}, "task0", 3)
    for place in (at / "run" / "checkpoints" / "seed-0").iterdir():
        (place / STATE).unlink()
    return folder.newest(0)


CHECKPOINTS = [
    Row(
        "what no checkpoint can hold",
        TypeError,
        "/x: a checkpoint cannot hold a object",
        lambda at: checkpoint.save(at / "a", {"x": object()}),
    ),
    Row(
        "a tensor of a kind that no checkpoint can hold",
        TypeError,
        "/x: a checkpoint cannot hold a tensor of torch.float32, torch.sparse_coo",
        lambda at: checkpoint.save(at / "a", {"x": torch.zeros(2).to_sparse()}),
    ),
    Row(
        "a key that is neither a string nor a whole number",
        TypeError,
        "/x: a key is a string or a whole number, not 1.5",
        lambda at: checkpoint.save(at / "a", {"x": {1.5: 0}}),
    ),
    Row(
        "a tree that is too deep",
        TypeError,
        "/0/0/0/0…...: a checkpoint holds at most 100 levels",
        lambda at: checkpoint.save(at / "a", nested(DEPTH + 1)),
    ),
    Row(
        "a folder that is no checkpoint",
        BadCheckpoint,
        "PATH is no checkpoint of this version: manifest.json and state.json and tensors.safetensors missing (it is empty)",
        lambda at: checkpoint.load(at.folder),
    ),
    Row(
        "a file in the place of a checkpoint",
        BadCheckpoint,
        "PATH/model.pt is no checkpoint but a zip archive, as torch.save writes: a checkpoint is a folder of "
        "manifest.json, state.json, tensors.safetensors; pickled files are never read",
        lambda at: (torch.save({}, at / "model.pt"), checkpoint.load(at / "model.pt")),
    ),
    Row(
        "a checkpoint with one file more",
        BadCheckpoint,
        "PATH/a holds 'more.pkl', a pickle, which is no part of a checkpoint: take it out, if you know where it comes from",
        lambda at: changed(at, "more.pkl", b"\x80\x04N."),
    ),
    Row(
        "a link in the place of a file",
        BadCheckpoint,
        "PATH/a/state.json is a link, where a plain file was written: use an earlier checkpoint",
        linked,
    ),
    Row(
        "a folder that may not be read",
        BadCheckpoint,
        "the checkpoint PATH/a cannot be read: …; use an earlier one",
        unlisted,
    ),
    Row(
        "a checkpoint of another format",
        BadCheckpoint,
        "PATH/a has format 'other', this version reads 'nacre-checkpoint-2': use the version that wrote it, or an earlier "
        "checkpoint",
        lambda at: changed(at, MANIFEST, b'{"format": "other"}'),
    ),
    Row(
        "a manifest that is none",
        BadCheckpoint,
        f"PATH/a/manifest.json, a file of 1 bytes, was altered or cut after it was written (its 1 bytes are no manifest): "
        f"{ALTERED}",
        lambda at: changed(at, MANIFEST, b"{"),
    ),
    Row(
        "a manifest that was altered",
        BadCheckpoint,
        "PATH/a/manifest.json, a file of … bytes, was altered or cut after it was written (its digest is that of another "
        f"content): {ALTERED}",
        lambda at: changed(at, MANIFEST, json.dumps({"format": checkpoint.FORMAT}).encode()),
    ),
    Row(
        "a manifest of other files",
        BadCheckpoint,
        "PATH/a/manifest.json names {'../secret': {}}, but a checkpoint is made of state.json and tensors.safetensors "
        "alone: use an earlier one",
        lambda at: manifest(kept(at), {"../secret": {}}),
    ),
    Row(
        "a checkpoint cut short",
        BadCheckpoint,
        "PATH/a/state.json, a file of 1 bytes, was altered or cut after it was written (37 bytes were written): "
        + ALTERED,
        lambda at: changed(at, STATE, b"{"),
    ),
    Row(
        "a checkpoint that was altered",
        BadCheckpoint,
        "PATH/a/state.json, a file of 37 bytes, was altered or cut after it was written (its SHA-256 is another than was "
        f"written down): {ALTERED}",
        lambda at: changed(at, STATE, b" " * 37),
    ),
    Row(
        "a checkpoint without a tensor that it names",
        BadCheckpoint,
        "PATH/a/state.json, a file of 19 bytes, is no part of a checkpoint: ValueError: it names a tensor '1:/y' that is "
        "not held, or names it twice; use an earlier checkpoint",
        lambda at: sealed(at, b'{"tensor":  "1:/y"}'),
    ),
    Row(
        "a checkpoint with tensors that it does not name",
        BadCheckpoint,
        "PATH/a/tensors.safetensors holds tensors that state.json does not name, ['0:/x']: use an earlier checkpoint",
        lambda at: sealed(at, b"null"),
    ),
    Row(
        "a checkpoint of what nobody saves",
        BadCheckpoint,
        "PATH/a/state.json, a file of 22 bytes, is no part of a checkpoint: ValueError: it holds {'class': 'os.system'}; "
        "use an earlier checkpoint",
        lambda at: sealed(at, b'{"class": "os.system"}'),
    ),
    Row(
        "a checkpoint that is too deep",
        BadCheckpoint,
        "PATH/a/state.json, a file of … bytes, is no part of a checkpoint: ValueError: it has more than 100 levels; use an "
        "earlier checkpoint",
        lambda at: sealed(at, b'{"list":[' * 120 + b"]}" * 120),
    ),
    Row(
        "a word that JSON does not know",
        BadCheckpoint,
        "PATH/a/state.json, a file of 3 bytes, is no part of a checkpoint: ValueError: it holds the word NaN; use an earlier "
        "checkpoint",
        lambda at: sealed(at, b"NaN"),
    ),
    Row(
        "tensors that are a pickle",
        BadCheckpoint,
        "PATH/a/tensors.safetensors, a pickle, is no part of a checkpoint: …; use an earlier checkpoint",
        lambda at: sealed(at, b"null", b"\x80\x04N."),
    ),
    Row(
        "a run all of whose checkpoints are broken",
        BadCheckpoint,
        "none of the 1 checkpoints in PATH/run/checkpoints/seed-0 can be read: bring one back from a copy, or delete that "
        "folder, and the seed begins anew. The newest: …",
        none_left,
    ),
]

SAVING = [
    Row(
        "a place of which a part is a file",
        NotSaved,
        f"PATH/a/b could not be written (Not a directory): see that the folder is there and can be written to; {UNTOUCHED}",
        lambda at: checkpoint.save(at.write("a", "") / "b", 1),
    ),
    Row(
        "a full disk",
        NotSaved,
        f"PATH/a could not be written (No space left on device): free some room on that disk; {UNTOUCHED}",
        lambda at: checkpoint.save(failing(at, "fsync", errno.ENOSPC) / "a", 1),
    ),
    Row(
        "a checkpoint that cannot be put into its place",
        NotSaved,
        "PATH/a could not be written (Permission denied): choose a folder that you may write to, or change the rights of "
        f"this one; {UNTOUCHED}",
        lambda at: checkpoint.save(failing(at, "replace", errno.EACCES) / "a", 1),
    ),
    Row(
        "a record in a folder that is gone",
        NotSaved,
        "PATH/gone/run.json could not be written (No such file or directory): see that the folder is there and can be "
        f"written to; {UNTOUCHED}",
        lambda at: durable.write_text(at / "gone" / "run.json", "{}"),
    ),
    Row(
        "a run's folder that cannot be made",
        NotSaved,
        f"PATH/a/run could not be written (Not a directory): see that the folder is there and can be written to; {UNTOUCHED}",
        lambda at: Folder(at.write("a", "") / "run").make(),
    ),
]
