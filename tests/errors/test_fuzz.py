"""Damaged files of every format are read or refused; `benchmarks/fuzz.py` is the long form, with its result kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.fuzz import Reader, fuzz
from benchmarks.fuzz_files import READERS
from nacre.core.errors import BadData

INPUTS = 60


@pytest.mark.parametrize("name", sorted(READERS))
def test_whatever_is_damaged_is_read_or_refused_by_name(name: str, tmp_path: Path):
    found = fuzz(READERS[name], tmp_path, seed=1, inputs=INPUTS)
    assert not found.failures and found.inputs == INPUTS
    assert found.refused, "no input was damaged enough to be refused"


def test_a_reader_that_crashes_or_says_nothing_is_seen(tmp_path: Path):
    def crashes(path: Path) -> None:
        if path.read_bytes() != b"sound":
            raise KeyError("a foreign error")

    def says_nothing(path: Path) -> None:
        if path.read_bytes() != b"sound":
            raise BadData("")

    for read, said in ((crashes, "KeyError"), (says_nothing, "says nothing")):
        found = fuzz(Reader("odd", "a.odd", read, lambda: [b"sound"]), tmp_path, inputs=20)
        assert found.failures and said in found.failures[0]["what"]
