"""Where the package raises errors, and which of these places a row has reached."""

from __future__ import annotations

import ast
import traceback
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import nacre

PACKAGE = Path(nacre.__file__).parent
Site = tuple[str, int]
"""A file inside the package, and the line in which a `raise` begins."""

NOT_FOR_USERS = {
    "__init__.py": "how Python learns that a module has no such name",
    "methods/__init__.py": "the same of a method",
    "cli/work.py: KeyboardInterrupt": "hands the folder on to what tells it",
    "classifier.py: IndexError": "how a stream ends",
    "experiment/crew.py: KeyError": "is caught four lines below",
    "experiment/stopping.py: Stopped": "ends a process that was asked to end; its exit code says by which signal",
    "experiment/cache.py: ValueError": "is caught four lines below",
    "backbones/huggingface_text.py: ValueError": "is caught in the same function, and said as what it is",
    "data/tables.py: _Twice": "is caught in the same file",
    "memory/herding.py: NotImplementedError": "a step of adding rows that herding goes without",
    "learner.py: _RolledBack": "is caught in the same file",
    "checks/*: Failed": "what a check answers: the part breaks what it promises",
    "checks/*: Skipped": "what a check answers: it has nothing to look at",
    "checks/*: Excused": "what a check answers: the part says why it cannot hold",
    "checks/again.py: RuntimeError": "what failed in another process, which a check then reports as broken",
    "checks/rule.py: ZeroDivisionError": "a step that fails, which a check provokes and catches",
    "checks/mutants.py": "parts that are wrong on purpose",
}
"""Raises that nobody meets, by file or by file and name, and why; `*` stands for every file of a folder."""


def raises() -> dict[Site, int]:
    """Every `raise` of a new error, and the line in which it ends; those that nobody meets are left out."""
    return {
        (file, node.lineno): node.end_lineno or node.lineno
        for file, node, raised in _every_raise()
        if excuse(file, raised) is None
    }


def excuses_used() -> set[str]:
    """The excuses that some `raise` has."""
    return {found for file, _, raised in _every_raise() if (found := excuse(file, raised)) is not None}


def _every_raise() -> Iterator[tuple[str, ast.Raise, ast.expr]]:
    """The file of each `raise` of a new error, the statement and what it raises."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Raise) and node.exc is not None:
                yield path.relative_to(PACKAGE).as_posix(), node, node.exc


def excuse(file: str, raised: ast.expr) -> str | None:
    """Which excuse a `raise` in a file has, if any."""
    name = getattr(raised.func if isinstance(raised, ast.Call) else raised, "id", "")
    return next((e for e in NOT_FOR_USERS if fnmatchcase(file, e) or fnmatchcase(f"{file}: {name}", e)), None)


def reached(error: BaseException | None) -> Iterator[Site]:
    """Where an error, and those that it came from, were raised."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(str(PACKAGE))]
        yield from ((Path(f.filename).relative_to(PACKAGE).as_posix(), f.lineno or 0) for f in frames)
        error = error.__cause__ or error.__context__
