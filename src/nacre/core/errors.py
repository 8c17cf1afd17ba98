"""Errors with a name of their own. Each message says the cause, the value and the cure."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class NacreError(Exception):
    """The base of the errors that are this library's own."""


class UnknownName(NacreError, ValueError):
    """A name that no part, source or setting carries; the message suggests the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        names = sorted(known)
        lowered = {n.lower(): n for n in names}
        near = [lowered[n] for n in get_close_matches(name.lower(), lowered, n=1, cutoff=0.5)]
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"unknown {kind} {name!r}: {hint}known are {', '.join(names) or 'none'}")
        self.name, self.near = name, near[0] if near else None


class BadSetting(NacreError, ValueError):
    """A setting of the wrong type or out of its range."""


class BadData(NacreError, ValueError):
    """Rows that cannot be learned from: empty, of wrong shape, with impossible labels, or an unreadable file."""


class TooFewRows(BadData):
    """A part needs more rows than a task brings."""


class BadCheckpoint(NacreError, ValueError):
    """A folder that is no checkpoint, or one of another composition."""


class NotSaved(NacreError, OSError):
    """Something could not be written: no room, no permission. What was saved before is untouched."""


class MissingExtra(NacreError, ImportError):
    """An optional package is not installed; the message says which extra brings it."""

    def __init__(self, what: str, package: str, extra: str):
        super().__init__(f"{what} needs the package {package!r}, which is not installed: pip install 'nacre[{extra}]'")


class NonFinite(NacreError, ArithmeticError):
    """A loss or a weight became NaN or infinite."""


class LostRank(NacreError, RuntimeError):
    """A rank waits for others that have failed, ended, or are doing something else."""


class RanksDiffer(NacreError, RuntimeError):
    """Replicas that should be equal hold different bits."""
