"""Pictures in files, and folders of them: a folder a class.

Shapes: a picture (channels, height, width), uint8, 1 channel (grey) or 3 (RGB).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadData, BadSetting
from ..core.files import reading
from .source import UNNAMEABLE
from .tables import listed, part_of
from .unread import Unread

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")  # of no other is a decoder run
SYSTEM = ("thumbs.db", "desktop.ini")  # what a system leaves in folders, beside files that begin with a dot
MOST_PIXELS = 2**26


def read_picture(path: Path, size: tuple[int, int] | None = None) -> Tensor:
    """The picture in a file, see `picture_of`.

    Args:
        path: The file.
        size: (height, width) that it is stretched to; None keeps its own.

    Raises:
        BadData: it is no picture, is cut short, is of a kind whose white is unknown, or has absurdly many pixels.
    """
    return picture_of(path, path, size)


def picture_of(path: Path | str, file: Path | IO[bytes], size: tuple[int, int] | None = None) -> Tensor:
    """A picture as it is meant to be seen: turned as its EXIF says, palettes resolved, the first frame, without alpha.

    Grey ones have one channel, also those of 16 bit, all others three.

    Args:
        path: What it is called in messages.
        file: Where it is read from.
        size: (height, width) that it is stretched to; None keeps its own.

    Raises:
        BadData: as `read_picture`.
    """
    from PIL import Image, ImageOps

    with reading(path, "a picture", "is it one, and whole? Fetch or save it again, or leave it out"):
        with Image.open(file, formats=FORMATS) as opened:
            wide, high = opened.size
            if wide * high > MOST_PIXELS:
                raise BadData(
                    f"{path} says that it has {wide} x {high} pixels, at most {MOST_PIXELS:,} are read: shrink it"
                )
            if opened.mode in ("I", "F"):
                raise BadData(
                    f"{path} holds {'whole' if opened.mode == 'I' else 'fractional'} numbers of 32 bit, whose white is "
                    "unknown: save it with 8 or 16 bit a channel"
                )
            picture: Any = ImageOps.exif_transpose(opened)
        grey = _is_grey(picture)
        if picture.mode.startswith("I;16"):  # Pillow would cut off what is above 255
            pixels = (np.array(picture).astype(np.uint32) * 255 + 32767) // 65535
            picture = Image.fromarray(pixels.astype(np.uint8))
        picture = picture.convert("L" if grey else "RGB")
        if size is not None and picture.size != size[::-1]:
            picture = picture.resize(size[::-1], Image.Resampling.BICUBIC)
        made = torch.from_numpy(np.array(picture, dtype=np.uint8))
    return made[None] if grey else made.permute(2, 0, 1)


def _is_grey(picture: Any) -> bool:
    if picture.mode == "P":
        colours = np.frombuffer(picture.palette.tobytes()[: 3 * 256], np.uint8)
        in_threes = picture.palette.mode == "RGB" and len(colours) % 3 == 0
        return in_threes and bool((colours.reshape(-1, 3) == colours.reshape(-1, 3)[:, :1]).all())
    return picture.mode in ("1", "L", "LA", "La") or picture.mode.startswith("I;16")


def is_picture_folder(folder: Path) -> bool:
    """Whether a folder holds folders of pictures: one for each class, or `train` with those."""
    inner = _folders(folder)
    inner += [deeper for part in inner if part_of(part.name) for deeper in _folders(part)]
    return any(_is_picture(file) for place in inner for file in place.iterdir())


def pictures_in(folder: Path, size: int | Sequence[int] | None = None) -> Unread:
    """The pictures in a folder, `train/CLASS/...` and `test/CLASS/...`, or `CLASS/...`, before any of them is read.

    Classes are numbered in the order of their names. All pictures are grey, or all are made RGB.

    Args:
        folder: Where they are.
        size: Side, or (height, width), that all pictures are stretched to; None: they must be of one size.

    Raises:
        BadData: a class has no picture, or pictures lie beside the classes.
        BadSetting: an impossible size.
    """
    sides = sides_of(size)
    roots = _roots(folder)
    files = {part: _pictures_by_class(place) for part, place in roots.items()}
    classes = sorted(files["train"])
    for part, held in files.items():
        if strange := sorted(set(held) - set(classes)):
            raise BadData(
                f"{roots[part] / strange[0]} is a class that has no folder in {roots['train']}: leave it out or add it"
            )
    done = [f"pictures were stretched to {sides[0]}x{sides[1]}"] if sides else []
    left = [file.name for place in roots.values() for inner in _folders(place) for file in _others(inner)]
    done += [f"{len(left)} files that are no pictures were left out: {listed(sorted(left))}"] if left else []
    paths = [file for held in files.values() for c in classes for file in held.get(c, [])]
    labels = {
        part: torch.tensor([k for k, c in enumerate(classes) for _ in held.get(c, [])], dtype=torch.long)
        for part, held in files.items()
    }
    return Unread(
        folder.resolve().name,
        labels,
        classes,
        read=lambda place: read_picture(paths[place], sides),
        called=lambda place: str(paths[place]),
        done=done,
    )


def _roots(folder: Path) -> dict[str, Path]:
    """The folders of the parts; without one for training, the folder itself is that."""
    named = [place for place in _folders(folder) if part_of(place.name)]
    roots = {part_of(place.name): place for place in named}
    if "train" not in roots:
        return {"train": folder}
    if len(roots) < len(named):
        raise BadData(
            f"{folder} has two folders of one part among {listed(p.name for p in named)}: keep one for each part"
        )
    return roots


def _pictures_by_class(root: Path) -> dict[str, list[Path]]:
    held: dict[str, list[Path]] = {}
    for place in _folders(root):
        if UNNAMEABLE.search(place.name):
            raise BadData(
                f"the folder {str(place)!r} has control characters in its name, which names a class: rename it"
            )
        if deeper := _folders(place):
            raise BadData(
                f"{deeper[0]} is a folder inside that of a class: put pictures into the folder of their class"
            )
        held[place.name] = [file for file in _files(place) if _is_picture(file)]
        if not held[place.name]:
            raise BadData(
                f"{place} holds no pictures ({', '.join(PICTURES)}): delete it, or put pictures of its class there"
            )
    if beside := [file for file in _files(root) if _is_picture(file)]:
        raise BadData(f"{beside[0]} lies beside the folders of the classes: put it into that of its class")
    if not held:
        raise BadData(f"{root} holds no folders with pictures: make one for each class")
    return held


def _others(place: Path) -> Iterator[Path]:
    return (file for file in _files(place) if not _is_picture(file))


def _folders(place: Path) -> list[Path]:
    return sorted(p for p in place.iterdir() if p.is_dir() and not p.name.startswith("."))


def _files(place: Path) -> list[Path]:
    held = (p for p in place.iterdir() if not p.name.startswith(".") and p.name.lower() not in SYSTEM)
    return sorted(p for p in held if p.is_file())


def _is_picture(file: Path) -> bool:
    return file.suffix.lower() in PICTURES and not file.name.startswith(".")


def sides_of(size: Any) -> tuple[int, int] | None:
    """Height and width that a setting means.

    Raises:
        BadSetting: it means none.
    """
    if size is None:
        return None
    sides: list[Any] = [size, size] if isinstance(size, int) else list(size) if isinstance(size, (list, tuple)) else []
    plain = len(sides) == 2 and all(isinstance(s, int) and not isinstance(s, bool) for s in sides)
    if not plain or min(sides) < 1 or sides[0] * sides[1] > MOST_PIXELS:
        raise BadSetting(
            f"size is a side in pixels or [height, width], each at least 1 and not absurdly large, not {size!r}"
        )
    return sides[0], sides[1]
