"""Errors with a name of their own. Each message says the cause, the value and the cure; docs/errors.md lists them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

LONGEST = 120  # characters of a value that a message shows; longer names are not looked for among the known ones
SHOWN = 40  # known names that a message lists


class NacreError(Exception):
    """The base of the errors that are this library's own."""


class UnknownName(NacreError, ValueError):
    """A name that no part, source or setting carries; the message suggests the nearest."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        names = sorted(known)
        lowered = {n.lower(): n for n in names}
        asked = [name.lower()] if len(name) <= LONGEST else []
        near = [lowered[n] for a in asked for n in get_close_matches(a, lowered, n=1, cutoff=0.5)]
        hint = f"did you mean {near[0]!r}? " if near else ""
        more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
        super().__init__(f"unknown {kind} {shown(name)}: {hint}known are {', '.join(names[:SHOWN]) or 'none'}{more}")
        self.name, self.near = name, near[0] if near else None


class BadSetting(NacreError, ValueError):
    """A setting of the wrong type or out of its range."""


class BadData(NacreError, ValueError):
    """Rows that cannot be learned from: empty, of wrong shape, with impossible labels, or an unreadable file."""


class TooFewRows(BadData):
    """A part needs more rows than a task brings."""


class BadModel(NacreError, TypeError):
    """A model does not answer with what a part reads."""


class BadUse(NacreError, TypeError):
    """Parts are put together in a way in which one would stay unheard, or hold what cannot be kept."""


class BadStep(NacreError, RuntimeError):
    """An optimizer step around which a rule cannot keep what it promises."""


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


def shown(value: object) -> str:
    """A value as a message shows it: as Python writes it, cut in the middle where it is long.

    >>> shown("a"), len(shown("a" * 1000))
    ("'a'", 120)
    """
    try:
        text = repr(value[: 4 * LONGEST]) if isinstance(value, (str, bytes)) else repr(value)
    except (RecursionError, ValueError):  # too deep, or a number of too many digits
        text = f"a {type(value).__name__}"
    half = (LONGEST - 5) // 2
    return text if len(text) <= LONGEST else f"{text[:half]} ... {text[len(text) - LONGEST + 5 + half :]}"
