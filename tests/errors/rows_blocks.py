"""What folders of blocks are refused, and what they are not made of."""

from __future__ import annotations

import json
from typing import Any

import torch

from nacre.core.errors import BadData, BadSetting, NotSaved
from nacre.core.ragged import Ragged
from nacre.data import Source, TokenRows, load, make_blocks
from tests.errors.row import Place, Row

X, Y = torch.zeros(12, 1, 4, 4, dtype=torch.uint8), torch.arange(12) % 2
AGAIN = "make the blocks again, or bring the file back from a copy"


def made(at: Place, name: str, content: bytes | None) -> Any:
    """Load blocks of which one file was changed, or taken away."""
    make_blocks((X, Y), at / "b", test_share=0.5)
    if content is None:
        (at / "b" / name).unlink()
    else:
        (at / "b" / name).write_bytes(content)
    return load(at / "b").train.take(torch.arange(6))


def long_tokens(at: Place) -> Any:
    rows = TokenRows(Ragged({"ids": Y.clone()}, torch.arange(12) + 1), Y)
    return make_blocks(Source("words", rows, rows, ("a", "b")), at / "b")


BLOCKS = [
    Row(
        "a folder that is there already",
        BadSetting,
        "PATH is there already, and blocks are made once: load them, or name another folder",
        lambda at: make_blocks((X, Y), at.folder),
    ),
    Row(
        "blocks of fractions",
        BadData,
        "arrays: blocks hold pictures or vectors in uint8, or tokens in int32, not torch.float32: convert pixels in 0..1 with "
        "(x * 255).round().to(torch.uint8), and texts with source.tokenized(body.tokenizer)",
        lambda at: make_blocks((X.float(), Y), at / "b"),
    ),
    Row(
        "blocks of long tokens",
        BadData,
        "words, the field 'ids': blocks hold pictures or vectors in uint8, or tokens in int32, not torch.int64: convert pixels "
        "in 0..1 with (x * 255).round().to(torch.uint8), and texts with source.tokenized(body.tokenizer)",
        long_tokens,
    ),
    Row(
        "a place that cannot be written to",
        NotSaved,
        "PATH/file/b could not be written (…): see that the folder is there and can be written to; what was saved before is "
        "untouched",
        lambda at: make_blocks((X, Y), at.write("file", "") / "b"),
    ),
    Row(
        "pictures of which a byte was altered",
        BadData,
        f"PATH/b/train.x: of bytes 0 to 95 (rows 0 to 5) at least one was altered since they were written: {AGAIN}",
        lambda at: made(at, "train.x", bytes(95) + b"x"),
    ),
    Row(
        "labels of which a byte was altered",
        BadData,
        f"PATH/b/test.y: of bytes 0 to 47 (rows 0 to 5) at least one was altered since they were written: {AGAIN}",
        lambda at: made(at, "test.y", bytes(48)),
    ),
    Row(
        "a file cut short",
        BadData,
        f"PATH/b/train.x has 90 bytes, 96 were written: {AGAIN}",
        lambda at: made(at, "train.x", bytes(90)),
    ),
    Row(
        "a file missing",
        BadData,
        f"PATH/b/test.x cannot be read as a block (No such file or directory): {AGAIN}",
        lambda at: made(at, "test.x", None),
    ),
    Row(
        "blocks of another version",
        BadData,
        "PATH/b/blocks.json has the format 'nacre-blocks-9', this version reads 'nacre-blocks-1': make the blocks again",
        lambda at: made(at, "blocks.json", json.dumps({"format": "nacre-blocks-9"}).encode()),
    ),
    Row(
        "a description that was altered",
        BadData,
        f"PATH/b/blocks.json was altered since it was written: {AGAIN}",
        lambda at: made(at, "blocks.json", json.dumps({"format": "nacre-blocks-1"}).encode()),
    ),
    Row(
        "a description cut short",
        BadData,
        f"PATH/b/blocks.json cannot be read as JSON (…): {AGAIN}",
        lambda at: made(at, "blocks.json", b"{"),
    ),
]
