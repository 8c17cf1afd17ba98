"""Files that outlast a crash: whole or not at all, and on disk when a function here returns."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from .errors import NotSaved

ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
RIGHTS = (errno.EACCES, errno.EPERM, errno.EROFS)


def write_text(path: str | Path, text: str) -> None:
    """Put `text` in the place of a file, as UTF-8; after a crash the file holds the old text or the new one.

    Raises:
        NotSaved: the disk is full, or the folder cannot be written to; the file is as it was.

    >>> import tempfile
    >>> place = Path(tempfile.mkdtemp()) / "note"
    >>> write_text(place, "kept")
    >>> place.read_text(encoding="utf-8"), [p.name for p in place.parent.iterdir()]
    ('kept', ['note'])
    """
    path = Path(path)
    new = path.with_name(path.name + ".new")
    try:
        write_bytes(new, text.encode())
        os.replace(new, path)
        sync(path.parent)
    except OSError as error:
        remove(new)
        raise not_saved(path, error) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def make_folder(path: Path) -> None:
    """Make a folder and those above it, so that they outlast a crash."""
    missing = [p for p in (path, *path.parents) if not p.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for made in missing:
        sync(made.parent)


def sync(path: Path) -> None:
    """Ask the system to put a file, or a folder's entries, on disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove(path: Path) -> None:
    """Delete a file if that is possible."""
    try:
        path.unlink()
    except OSError:
        return


def not_saved(path: Path, error: Exception) -> NotSaved:
    """The error that says why `path` was not written, and what to do."""
    number = getattr(error, "errno", None)
    why = getattr(error, "strerror", None) or str(error)
    cure = "see that the folder is there and can be written to"
    if number in ROOM or any(f"os error {n}" in why for n in ROOM):
        cure = "free some room on that disk"
    elif number in RIGHTS or any(f"os error {n}" in why for n in RIGHTS):
        cure = "choose a folder that you may write to, or change the rights of this one"
    return NotSaved(f"{path} could not be written ({why}): {cure}; what was saved before is untouched")
