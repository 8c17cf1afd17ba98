"""Features on disk: what a frozen backbone made of data once, found again by what it was made of.

The folder is `features` in `$NACRE_CACHE`, else in `nacre` in the user's cache folder. It holds `MOST` bytes at most: what
was not read for the longest time is deleted first. A file is written under another name, renamed when complete, and read only
if its digest is that of its content. Nothing here is needed: what cannot be read or written is made again.
"""

from __future__ import annotations

import json
import logging
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

logger = logging.getLogger(__name__)
PLACE = "NACRE_CACHE"
MOST = 4 * 2**30  # bytes
FORMAT, ENDING = "nacre-features-1", ".safetensors"
NAMES = re.compile(r"[0-9a-f]{32}\.safetensors")
LEFT = 24 * 3600  # seconds after which a file that nobody completed is taken for left behind


@dataclass(frozen=True)
class Entry:
    """Some features on disk.

    Attributes:
        path: Their file.
        bytes: Its size.
        used: When it was last read or written, in seconds since 1970.
        about: What they were made of, as `keep` was told.
    """

    path: Path
    bytes: int
    used: float
    about: dict[str, Any]


def folder() -> Path:
    """Where features are kept."""
    above = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.environ.get(PLACE) or Path(above, "nacre")).expanduser() / "features"


def key_of(parts: dict[str, Any]) -> str:
    """The name of features by all that their bits depend on: plain values, ready for JSON."""
    return blake2b(json.dumps(parts, sort_keys=True).encode(), digest_size=16).hexdigest()


def find(key: str) -> Tensor | None:
    """The features of this name; None where there are none, or they were altered."""
    path = folder() / f"{key}{ENDING}"
    try:
        if not path.is_file():
            return None
        with safe_open(path, "pt") as file:
            told, found = file.metadata() or {}, file.get_tensor("features")
        if told.get("format") != FORMAT or told.get("digest") != _digest(found):
            raise ValueError("its content is not what was written")
        os.utime(path)
        return found
    except (OSError, ValueError, SafetensorError) as error:
        logger.warning("the kept features in %s are not used (%s): they are made again", path, error)
        with suppress(OSError):
            path.unlink()
        return None


def keep(key: str, features: Tensor, about: dict[str, Any]) -> None:
    """Write features down, if there is room, and delete what was not used for long where there is too much."""
    if features.nbytes > MOST:
        return
    path = folder() / f"{key}{ENDING}"
    new = path.with_name(f"{key}.{os.getpid()}.new")
    told = {"format": FORMAT, "digest": _digest(features), "about": json.dumps(about)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        save_file({"features": features.contiguous()}, new, told)
        os.replace(new, path)
    except (OSError, SafetensorError) as error:
        logger.warning("features are not kept in %s (%s); $%s names another folder", folder(), error, PLACE)
        with suppress(OSError):
            new.unlink()
        return
    held = sorted(entries(), key=lambda entry: entry.used)
    too_much = sum(entry.bytes for entry in held) - MOST
    for entry in held:
        if too_much > 0 and entry.path != path:
            too_much -= entry.bytes
            with suppress(OSError):
                entry.path.unlink()


def entries() -> Iterator[Entry]:
    """All features that are kept; files that nobody completed are deleted on the way."""
    place = folder()
    for path in sorted(place.iterdir()) if place.is_dir() else ():
        with suppress(OSError):
            held = path.stat()
            if path.suffix == ".new" and time.time() - held.st_mtime > LEFT:
                path.unlink()
            elif NAMES.fullmatch(path.name):
                yield Entry(path, held.st_size, held.st_mtime, _about(path))


def clear() -> int:
    """Delete all features that are kept; how many files that were."""
    held = list(entries())
    for entry in held:
        entry.path.unlink(missing_ok=True)
    return len(held)


def _about(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, "pt") as file:
            told = file.metadata() or {}
        return dict(json.loads(told.get("about", "{}")))
    except (OSError, ValueError, SafetensorError):
        return {}


def _digest(features: Tensor) -> str:
    bits: Any = features.contiguous().flatten().view(torch.uint8).numpy()
    plain = f"{features.dtype} {list(features.shape)} ".encode()
    return blake2b(plain + memoryview(bits), digest_size=16).hexdigest()
