"""Proving that a part keeps the contract, in words."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ..catalogue import find
from ..checks import EVERY, Case, Verdict, cases_of, checks_for
from ..core.errors import BadSetting, NacreError, UnknownName
from ..report import Sheet, show
from .progress import counting

SLOW = ("compile", "ranks")
"""What takes seconds rather than moments; left out by `--fast`."""


def check_parts(names: Sequence[str], only: Sequence[str], seed: int, fast: bool) -> bool:
    """Run the checks of these parts, print what they said, and say whether all hold.

    Args:
        names: `module:Class`, `path/to/file.py:Class`, a module, or a method of ours by its name.
        only: Names of checks; empty = all.
        seed: Seeds worlds and the choice of steps.
        fast: Leave out what takes long.
    """
    path = list(sys.path)
    try:
        return _checked(names, only, seed, fast)
    finally:
        sys.path[:] = path


def _checked(names: Sequence[str], only: Sequence[str], seed: int, fast: bool) -> bool:
    pairs = [
        (case, check) for name in names for case in cases_of(found(name), seed) for check in checks_for(case.part, only)
    ]
    if not pairs:
        raise BadSetting(
            f"none of the checks {', '.join(only)} looks at {', '.join(names)}: leave --only out to run all that do"
        )
    said: list[tuple[Case, Verdict]] = []
    for case, check in counting(pairs, lambda pair: f"{pair[0].name} {pair[1].name}"):
        left_out = fast and check.needs in SLOW
        verdict = Verdict(check, "skipped", f"left out by --fast ({check.needs})") if left_out else check.verdict(case)
        said.append((case, verdict))
    show(*_sheets(said))
    failures = [verdict.why for _, verdict in said if verdict.outcome == "failed"]
    for why in failures:
        print(f"\n{why}")
    print(f"\n{closing(said)}")
    return not failures


def closing(said: Sequence[tuple[Case, Verdict]]) -> str:
    """The closing line: how many of each outcome, and why some were skipped."""
    counts = Counter(verdict.outcome for _, verdict in said)
    whys = Counter(verdict.why for _, verdict in said if verdict.outcome == "skipped")
    words = [
        f"{counts[outcome]} {outcome}" for outcome in ("passed", "failed", "excused", "skipped") if counts[outcome]
    ]
    skipped = "; ".join(f"{n} x {why}" for why, n in whys.most_common())
    return ", ".join(words or ["nothing to check"]) + (f" ({skipped})" if skipped else "")


def found(name: str) -> Any:
    """The class, instance or module that a name means; importing is what the name asks for.

    Raises:
        BadSetting: there is no such module, or nothing of that name in it.
    """
    place, _, attribute = name.partition(":")
    if not attribute and Path(place).suffix != ".py" and "." not in place:
        try:
            return find("method", place).made_by
        except UnknownName as unknown:
            if not Path(f"{place}.py").is_file() and place not in sys.modules:
                raise UnknownName("method or module", name, [e for e in (unknown.near,) if e]) from None
    module = _module(place)
    if not attribute:
        return module
    held: Any = module
    for step in attribute.split("."):
        held = getattr(held, step, None)
    if held is None:
        offered = [n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__]
        raise UnknownName(f"part in {place}", attribute, offered)
    return held


def _module(place: str) -> ModuleType:
    path = Path(place)
    folder = path.parent if path.suffix == ".py" else Path.cwd()
    if path.suffix == ".py" and not path.is_file():
        raise BadSetting(f"there is no file {place}: give module:Class, path/to/file.py:Class, or the name of a method")
    before = list(sys.path)
    sys.path.insert(0, str(folder.resolve()))  # where it is found it stays: other processes must find the module, too
    try:
        module = importlib.import_module(path.stem if path.suffix == ".py" else place)
    except NacreError:
        raise
    except (Exception, SystemExit) as error:
        sys.path[:] = before
        raise BadSetting(
            f"{place} cannot be imported ({type(error).__name__}: {error}): see that Python can import it here"
        ) from error
    if path.suffix == ".py" and Path(module.__file__ or "").resolve() != path.resolve():
        sys.path[:] = before
        raise BadSetting(f"{place} has the name of another module, {module.__file__}: rename one of them")
    return module


def _sheets(said: Sequence[tuple[Case, Verdict]]) -> list[Sheet | str]:
    """One line a check: what must hold, and how it went for the cases."""
    cases = list(dict.fromkeys(case.name for case, _ in said))
    rows = []
    for check in EVERY:
        mine = Counter(verdict.outcome for _, verdict in said if verdict.check is check)
        if mine:
            told = ", ".join(f"{n} {outcome}" if len(cases) > 1 else outcome for outcome, n in mine.most_common())
            rows.append([check.name, told, check.about])
    return [f"{', '.join(cases)}", Sheet(["check", "outcome", "what must hold"], rows, left=3)]
