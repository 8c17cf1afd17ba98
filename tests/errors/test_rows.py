"""Every row of docs/errors.md happens as it says, and every error that a user can meet has a row."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest

from nacre.backbones import choice, pixels
from nacre.core import files
from nacre.core.errors import BadCheckpoint, BadData, NacreError
from nacre.data import images, labels, tables
from nacre.experiment.config import LARGEST
from nacre.experiment.plain import DEEPEST, LONGEST
from tests.errors.raises import NOT_FOR_USERS, PACKAGE, Site, excuse, excuses_used, raises, reached
from tests.errors.row import Place, Row
from tests.errors.rows import SECTIONS

ROWS = [(section, row) for section, rows in SECTIONS.items() for row in rows]
PROTOCOL = (IndexError, TypeError)  # what ends a stream, and what a checkpoint cannot hold
CURES = (": ", "; ", "known are", ", not ", " such as ", "Give ")  # signs behind which a message says what to do
REACHED: set[Site] = set()
RAN: set[tuple[str, str]] = set()


@pytest.mark.parametrize(("section", "row"), ROWS, ids=[f"{s}: {r.what}" for s, r in ROWS])
def test_it_is_refused_as_the_page_says(section: str, row: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    RAN.add((section, row.what))
    folder = tmp_path.resolve()
    monkeypatch.chdir(folder)
    try:
        row.provoke(Place(folder, monkeypatch))
    except Exception as error:
        REACHED.update(reached(error))
        complaint = row.fits(error, folder)
    else:
        complaint = "nothing came"
    assert not complaint, complaint


def test_every_error_that_a_user_can_meet_has_a_row():
    if len(RAN) < len(ROWS):
        pytest.skip("needs every row to have run in this process")
    missing = [
        f"{file}:{first}: {(PACKAGE / file).read_text().splitlines()[first - 1].strip()}"
        for (file, first), last in raises().items()
        if not any((file, line) in REACHED for line in range(first, last + 1))
    ]
    assert not missing, "add a row to tests/errors/rows_*.py for each of:\n" + "\n".join(missing)


def test_excuses_are_needed():
    assert excuses_used() == set(NOT_FOR_USERS)
    assert excuse("checks/rule.py", ast.parse("BadSetting('it')", mode="eval").body) is None


def test_errors_are_our_own_and_messages_say_what_to_do():
    for section, row in ROWS:
        kind = row.error
        assert isinstance(kind, int) or issubclass(kind, (NacreError, *PROTOCOL)) or "command" in section, row.what
        cured = any(sign in row.message for sign in CURES) or kind in (*PROTOCOL, BadCheckpoint)
        assert cured, f"{row.what}: {row.message!r} does not say what to do"
    told = Counter((section, row.what) for section, row in ROWS)
    assert max(told.values()) == 1, told.most_common(3)


def test_the_page_says_the_limits_as_they_are():
    page = Path(PACKAGE.parents[1], "docs/errors.md").read_text(encoding="utf-8")
    limits = [f"{files.ROOM // 2**20} MiB, or {files.TIMES} times"]
    limits += [f"{images.MOST_PIXELS:,} pixels", f"| {tables.MOST_COLUMNS:,} |", f"| {labels.LONGEST_LABEL} |"]
    limits += [f"{LARGEST:,} bytes, tables {DEEPEST} deep, texts of {LONGEST:,} letters"]
    limits += [f"{choice.DEEPEST:,}, each {choice.WIDEST:,} wide", f"{pixels.MOST_PIXELS:,} pixels"]
    assert not [limit for limit in limits if limit not in page]


@pytest.mark.parametrize(
    ("message", "error", "complaint"),
    [
        ("a … of 3: repair it", BadData("a file of 3: repair it"), ""),
        ("PATH/a is bad", BadData("/here/a is bad"), ""),
        ("a of 3", BadData("a of 4"), "and was to say"),
        ("a of 3", BadData("a of 3, and more"), "and was to say"),
        ("a of 3", ValueError("a of 3"), "ValueError came"),
    ],
)
def test_a_row_that_lies_is_found_out(message: str, error: Exception, complaint: str):
    said = Row("it", BadData, message, lambda at: None).fits(error, Path("/here"))
    assert complaint in said and bool(said) == bool(complaint)
