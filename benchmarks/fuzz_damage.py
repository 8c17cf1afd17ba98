"""Ways in which files are damaged, and what is told of the readers that are given them."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

JSON = (b'"', b":", b",", b"[", b"]", b"{", b"}", b"null", b"true", b"[]", b"{}")
"""The words of JSON; a reader with these is also given trees in which something else stands."""


@dataclass(frozen=True)
class Reader:
    """Something that reads files.

    Attributes:
        name: What it is called.
        file: The name of the files that it is given.
        read: Reads one.
        make: Valid files.
        packed: Makes a file of one of the things that `make` gives, where these are what is inside; checksums are right.
        around: Puts what else it needs into the folder.
        tokens: Words of the format, to be put in and taken out.
    """

    name: str
    file: str
    read: Callable[[Path], Any]
    make: Callable[[], list[bytes]]
    packed: Callable[[bytes], bytes] = bytes
    around: Callable[[Path], Any] = lambda folder: None
    tokens: tuple[bytes, ...] = ()

    @cached_property
    def inside(self) -> list[bytes]:
        """What is damaged."""
        return self.make()

    @cached_property
    def seeds(self) -> list[bytes]:
        """The valid files."""
        return [self.packed(raw) for raw in self.inside]

    def prepare(self, folder: Path) -> None:
        """Make the folder ready."""
        self.around(folder)

    def put(self, folder: Path, raw: bytes) -> Path:
        """Write a file for the reader."""
        path = folder / self.file
        path.write_bytes(raw)
        return path


Way = Callable[[random.Random, bytearray, Reader], None]
EXTREME = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**64 - 1)
NUMBERS = (
    b"-1",
    b"0",
    b"1e999",
    b"NaN",
    b"-Infinity",
    b"99999999999999999999",
    b"9" * 5000,
    b"0.5",
    b"1_000",
    b"true",
    b"null",
)
STRANGE = (
    b"\0",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"\xed\xa0\x80",
    b"\\ud800",
    b'"',
    b"'",
    b"[" * 2000,
    b"{" * 500,
    b",",
    b"\r",
    b"\n\n",
    b"../",
    b"\x1b[31m",
)
MAGIC = (
    b"\x93NUMPY",
    b"PK\x03\x04",
    b"\x1f\x8b\x08",
    b"\0\0\x08\x03",
    b"PAR1",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff",
    b"GIF89a",
    b"BM",
    b"II*\0",
    b"%!PS",
    b"\x80\x04",
)


def flip(dice: random.Random, raw: bytearray, reader: Reader) -> None:
    """Some bits turn over."""
    for _ in range(dice.choice((1, 1, 2, 8))):
        raw[dice.randrange(len(raw))] ^= 1 << dice.randrange(8)


def cut(dice: random.Random, raw: bytearray, reader: Reader) -> None:
    """The end is missing."""
    del raw[dice.randrange(len(raw)) :]


def drop(dice: random.Random, raw: bytearray, reader: Reader) -> None:
    """A piece is missing."""
    low = dice.randrange(len(raw))
    del raw[low : low + dice.choice((1, 2, 4, 16, 200))]


def insert(dice: random.Random, raw: bytearray, reader: Reader) -> None:
    """Something stands between."""
    low = dice.randrange(len(raw) + 1)
    raw[low:low] = dice.choice(
        (dice.randbytes(dice.choice((1, 4, 32))), dice.choice(STRANGE), dice.choice(reader.tokens or STRANGE))
    )


def repeat(dice: random.Random, raw: bytearray, reader: Reader) -> None:
    """A piece comes again, perhaps thousands of times."""
    low = dice.randrange(len(raw))
    piece = raw[low : low + dice.choice((1, 8, 64))]
    raw[low:low] = piece * dice.choice((1, 2, 100, 3000))


def move(dice: random.Random, raw: bytearray, reader: Reader) -> None:
    """A piece lies elsewhere."""
    low, to = dice.randrange(len(raw)), dice.randrange(len(raw))
    size = dice.choice((2, 8, 40))
    piece = raw[low : low + size]
    del raw[low : low + size]
    raw[to:to] = piece


def extreme(dice: random.Random, raw: bytearray, reader: Reader) -> None:
    """A number in a header, of some width and order, becomes absurd."""
    width, order = dice.choice((1, 2, 4, 8)), dice.choice(("<", ">"))
    low = dice.randrange(min(len(raw), dice.choice((16, 64, 10_000))))
    value = dice.choice(EXTREME) & (2 ** (8 * width) - 1)
    raw[low : low + width] = struct.pack(f"{order}{'BHIQ'[width.bit_length() - 1]}", value)


def magic(dice: random.Random, raw: bytearray, reader: Reader) -> None:
    """It begins as another format does."""
    new = dice.choice(MAGIC)
    raw[: len(new)] = new


def number(dice: random.Random, raw: bytearray, reader: Reader) -> None:
    """A number that is written out becomes another, or none."""
    places = [k for k, byte in enumerate(raw) if 48 <= byte <= 57]
    if places:
        low = high = dice.choice(places)
        while high < len(raw) and 48 <= raw[high] <= 57:
            high += 1
        raw[low:high] = dice.choice(NUMBERS)


def swap(dice: random.Random, raw: bytearray, reader: Reader) -> None:
    """One word of the format becomes another."""
    held = [token for token in reader.tokens if token in raw]
    if held:
        old = dice.choice(held)
        low = raw.index(old)
        raw[low : low + len(old)] = dice.choice((*reader.tokens, *NUMBERS))


def splice(dice: random.Random, raw: bytearray, reader: Reader) -> None:
    """It goes on as another file does."""
    other = dice.choice(reader.inside)
    raw[dice.randrange(len(raw)) :] = other[dice.randrange(len(other)) :]


def node(dice: random.Random, raw: bytearray, reader: Reader) -> None:
    """Somewhere in a tree of JSON stands something else."""
    try:
        tree = json.loads(raw) if reader.tokens is JSON else None
    except (ValueError, RecursionError):  # damaged before; or a tree deeper than this language goes
        return
    places: list[tuple[Any, Any]] = []

    def walk(held: Any) -> None:
        for key in held if isinstance(held, dict) else range(len(held)):
            places.append((held, key))
            if isinstance(held[key], (dict, list)):
                walk(held[key])

    if isinstance(tree, (dict, list)) and tree:
        with suppress(RecursionError):
            walk(tree)
        held, key = dice.choice(places)
        held[key] = dice.choice(NODES)
        if dice.random() < 0.2:
            del held[key]
        raw[:] = json.dumps(tree).encode()


NODES: tuple[Any, ...] = (
    *(
        None,
        True,
        -1,
        0,
        3,
        10**6,
        10**9,
        2**63,
        10**400,
        -0.5,
        1e300,
        float("nan"),
        float("inf"),
        "",
        "a",
        "../a",
        "\0",
        "\ud800",
    ),
    *(
        "os:system",
        "a" * 5000,
        [],
        [[]],
        [0],
        [None, 1],
        {},
        {"a": 1},
        [{}] * 3,
        [10**9, 10**9],
        ["a"] * 4,
        [-1, -1],
        10**5,
        1,
    ),
)
WAYS: tuple[Way, ...] = (
    flip,
    flip,
    cut,
    drop,
    insert,
    repeat,
    move,
    extreme,
    extreme,
    magic,
    number,
    swap,
    splice,
    node,
    node,
    node,
)


def damaged(reader: Reader, dice: random.Random) -> bytes:
    """A valid file, damaged in one to three ways."""
    raw = bytearray(dice.choice(reader.inside))
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        if raw:
            dice.choice(WAYS)(dice, raw, reader)
    return reader.packed(bytes(raw))
