"""Files of users: where they are and what is in them, within bounds.

Whatever is wrong with a file is said as `BadData`, with its path as it was given.
"""

from __future__ import annotations

import gzip
import io
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import BadData, NacreError, shown

GZIP = b"\x1f\x8b"
PIECE = 2**20  # bytes that are unpacked at a time
ROOM, TIMES = 64 * 2**20, 200  # a packed file may become so many bytes, or so many times its size


def path_of(given: str | os.PathLike[str]) -> Path:
    """The path that somebody means; `~` is their home. It need not exist.

    Raises:
        BadData: no file can have that name.
    """
    text = os.fspath(given)
    try:
        path = Path(text).expanduser()
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return Path(text).expanduser()
    except (ValueError, RuntimeError, OSError) as error:  # a NUL byte; no such home; too long, or no way to it
        why = error.strerror if isinstance(error, OSError) else error
        raise BadData(f"{shown(text)} cannot be looked for ({why}): give the path of a file or a folder") from error
    return path


@contextmanager
def reading(path: Path | str, form: str, cure: str) -> Iterator[None]:
    """Say whatever a reader of others raises inside as `BadData`: they raise all kinds of errors over broken files."""
    try:
        yield
    except NacreError:
        raise
    except OSError as error:
        raise BadData(f"{path} cannot be read as {form} ({error.strerror or first_line(error)}): {cure}") from error
    except Exception as error:
        raise BadData(f"{path} cannot be read as {form} ({first_line(error)}): {cure}") from error


def contents(path: Path, form: str, cure: str) -> bytes:
    """All bytes of a file, unpacked where it is gzipped.

    Raises:
        BadData: it cannot be read, is broken, or unpacks to more than any honest file.
    """
    with reading(path, form, cure):
        raw = path.read_bytes()
    if not raw.startswith(GZIP):
        return raw
    most, unpacked = allowed(len(raw)), bytearray()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(raw)) as file:
            while len(unpacked) <= most and (piece := file.read(PIECE)):
                unpacked += piece
    except (EOFError, OSError, zlib.error) as error:
        raise BadData(f"{path} is a broken gzip file ({error}): fetch it again") from error
    if len(unpacked) > most:
        raise bomb(path, len(raw), most)
    return bytes(unpacked)


def allowed(packed: int) -> int:
    """How many bytes may come out of so many packed ones."""
    return max(ROOM, TIMES * packed)


def bomb(path: Path | str, packed: int, most: int) -> BadData:
    """The error for a file that unpacks to more than it may."""
    return BadData(
        f"{path} has {packed:,} bytes and unpacks to more than {most:,}, as files do that are made to fill a memory: if you "
        "trust it, unpack it first and give the unpacked file"
    )


def text_of(path: Path, form: str) -> str:
    """A file as text in UTF-8, with or without a byte order mark; unpacked where it is gzipped.

    Raises:
        BadData: it cannot be read, or is in another encoding.
    """
    raw = contents(path, form, "is it the right file?")
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise BadData(f"{path} is in UTF-16: save it in UTF-8")
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise BadData(
            f"{path} is not in UTF-8: line {line} has the byte 0x{raw[error.start]:02x} where none can be: save it in UTF-8, "
            "as `iconv -f latin1 -t utf-8` does"
        ) from error
    if (place := text.find("\0")) >= 0:
        line = text.count("\n", 0, place) + 1
        raise BadData(f"{path} has a NUL byte in line {line}: it is no text, or in UTF-16; save it as text in UTF-8")
    return text


def first_line(error: BaseException) -> str:
    """What an error of others says, in a line."""
    said = str(error).strip().partition("\n")[0] or type(error).__name__
    return said if len(said) <= 200 else said[:200] + " ..."
