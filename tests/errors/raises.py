"""Where the package raises errors, and which of these places a row has reached."""

from __future__ import annotations

import ast
import traceback
from collections.abc import Iterator
from pathlib import Path

import nacre

PACKAGE = Path(nacre.__file__).parent
Site = tuple[str, int]
"""A file inside the package, and the line in which a `raise` begins."""

NOT_FOR_USERS = {
    "__init__.py": "how Python learns that a module has no such name",
    "cli/work.py: KeyboardInterrupt": "hands the folder on to what tells it",
    "experiment/compare.py: KeyboardInterrupt": "ends a process that works on rows",
    "experiment/compare.py: KeyError": "is caught four lines below",
    "data/tables.py: _Twice": "is caught in the same file",
}
"""Raises that nobody meets, by file or by file and name, and why."""


def raises() -> dict[Site, int]:
    """Every `raise` of a new error, and the line in which it ends; those that nobody meets are left out."""
    found: dict[Site, int] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and node.exc is not None and not _excused(file, node.exc):
                found[file, node.lineno] = node.end_lineno or node.lineno
    return found


def _excused(file: str, raised: ast.expr) -> bool:
    name = raised.func if isinstance(raised, ast.Call) else raised
    return file in NOT_FOR_USERS or f"{file}: {getattr(name, 'id', '')}" in NOT_FOR_USERS


def reached(error: BaseException | None) -> Iterator[Site]:
    """Where an error, and those that it came from, were raised."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(str(PACKAGE))]
        yield from ((Path(f.filename).relative_to(PACKAGE).as_posix(), f.lineno or 0) for f in frames)
        error = error.__cause__ or error.__context__
