"""Plain values -> dataclasses, strictly: the one place where settings are checked.

Unknown names suggest the nearest, nothing is silently converted, and each message starts with the place in the config.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from ..core.errors import BadSetting, NacreError, UnknownName, shown
from ..core.state import Stateful
from .foreign import foreign

T = TypeVar("T")
NONE = "none"
"""How a config says None, for which TOML has no word."""


def build(kind: type[T], table: Mapping[str, Any], place: str = "") -> T:
    """Build a dataclass from plain values, strictly: a number is no text, a whole number may stand for a number.

    A field that holds a part takes a table with the part's name (without it, the default's class is meant), one that holds a
    dataclass its table, and the word "none" stands for None wherever None is allowed.

    Raises:
        UnknownName: no setting has that name.
        BadSetting: a value is of the wrong type or out of its range.
    """
    known = {f.name: f for f in fields(typing.cast(Any, kind)) if f.init}
    heading = getattr(kind, "heading", kind.__name__)
    with placed(place):
        for key in table:
            if key not in known:
                raise UnknownName(f"setting of {heading}", str(key), known)
    hints = get_type_hints(kind)
    values = {}
    for key, value in table.items():
        if isinstance(value, Mapping) and "name" not in value and isinstance(usual := default_of(known[key]), Stateful):
            value = {"name": type(usual).__name__, **value}
        values[key] = typed(hints[key], value, join(place, key))
    with placed(place):
        missing = [n for n, f in known.items() if n not in values and default_of(f) is dataclasses.MISSING]
        if missing:
            raise BadSetting(f"{heading} needs {' and '.join(missing)}: write what is missing")
        return kind(**values)


def typed(hint: Any, value: Any, place: str) -> Any:
    """A plain value as the annotation wants it.

    Raises:
        BadSetting: it is of another type.
    """
    options = _options(hint)
    if (value is None or value == NONE) and types.NoneType in options:
        return None
    if parts := [o for o in options if isinstance(o, type) and issubclass(o, Stateful)]:
        return _inner(parts, value, place)
    for option in options:
        if isinstance(option, type) and dataclasses.is_dataclass(option):
            if not isinstance(value, Mapping):
                raise BadSetting(f"{place} is a table, not {shown(value)} ({type(value).__name__})")
            return build(option, value, place)
        inner = get_args(option)
        if get_origin(option) is list and dataclasses.is_dataclass(inner[0]) and isinstance(value, list):
            return [typed(inner[0], v, join(place, i)) for i, v in enumerate(value)]
    if isinstance(value, list) and any(get_origin(o) is tuple for o in options):
        value = tuple(value)
    try:
        return TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value, strict=True)
    except ValidationError:
        wanted = " or ".join(words(o) for o in options)
        choices = [w for o in options if get_origin(o) is Literal for w in get_args(o)]
        near = UnknownName("choice", value, choices).near if isinstance(value, str) else None
        hint = f": did you mean {near!r}?" if near else ""
        raise BadSetting(f"{place} is {wanted}, not {shown(value)} ({type(value).__name__}){hint}") from None


def inner_class(kind: type, field: str, name: Any) -> type | None:
    """The class of the part that a field of `kind` holds under this name; None where it holds none."""
    parts = [o for o in _options(get_type_hints(kind)[field]) if isinstance(o, type) and issubclass(o, Stateful)]
    if parts and isinstance(name, str) and ":" in name:
        return foreign(name, _kinds(parts))
    able = {p.__name__.lower(): p for p in parts}
    return able.get(str(name).lower(), parts[0] if len(parts) == 1 else None)


def words(hint: Any) -> str:
    """A type in words.

    >>> words(int), words(list[float]), words(Literal["a", "b"])
    ('a whole number', 'a list of numbers', "'a' or 'b'")
    """
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join(map(words, inner))
    if origin is Literal:
        return " or ".join(map(repr, inner))
    if origin in (list, tuple, Sequence):
        return f"a list of {_PLURAL.get(inner[0], 'values')}"
    if isinstance(hint, type) and issubclass(hint, Stateful):
        return f"a table with name = {hint.__name__!r}"
    if dataclasses.is_dataclass(hint) or origin is dict:
        return "a table"
    return _WORDS.get(hint, getattr(hint, "__name__", str(hint)))


_WORDS: dict[Any, str] = {
    int: "a whole number", float: "a number", bool: "true or false", str: "a text", types.NoneType: f'"{NONE}"',
    dict: "a table", Any: "anything",
}  # fmt: skip
_PLURAL: dict[Any, str] = {int: "whole numbers", float: "numbers", str: "texts", bool: "true or false", dict: "tables"}


def join(place: str, key: str | int) -> str:
    """The place of an entry of a table."""
    return f"{place}.{key}" if place else str(key)


@contextmanager
def placed(place: str) -> Iterator[None]:
    """Put the place in front of the message of any error of ours."""
    try:
        yield
    except NacreError as error:
        if place:
            error.args = (f"{place}: {error}",)
            if isinstance(error, ImportError):
                error.msg = error.args[0]  # what it is shown as
        raise


def named(kind: str, table: Any) -> tuple[str, dict[str, Any]]:
    """The name and the settings of a part that is written as a table, or as its name alone.

    Raises:
        BadSetting: it is neither.
    """
    values = {"name": table} if isinstance(table, str) else dict(table) if isinstance(table, Mapping) else {}
    name = values.pop("name", None)
    if not isinstance(name, str):
        article = "an" if kind[0] in "aeiou" else "a"
        raise BadSetting(f'{article} {kind} is a table with a name, such as {{name = "..."}}, not {shown(table)}')
    return name, values


def default_of(f: dataclasses.Field[Any]) -> Any:
    """The value of a field where nothing is said; `MISSING` where something must be."""
    return f.default_factory() if f.default_factory is not dataclasses.MISSING else f.default


def _options(hint: Any) -> tuple[Any, ...]:
    """What a union is of; anything else alone."""
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _inner(parts: list[type[Stateful]], value: Any, place: str) -> Any:
    """A part inside a part: one of the classes that the annotation names; where it names one, the name may stay out."""
    if any(isinstance(value, p) for p in parts):
        return value
    if len(parts) == 1 and isinstance(value, Mapping) and "name" not in value:
        value = {"name": parts[0].__name__, **value}
    able = {p.__name__.lower(): p for p in parts}
    with placed(place):
        name, values = named("part", value)
        if ":" in name:
            able[name.lower()] = foreign(name, _kinds(parts))
        if name.lower() not in able:
            raise UnknownName("part", name, [p.__name__ for p in parts])
    return build(able[name.lower()], values, place)


def _kinds(parts: list[type[Stateful]]) -> tuple[type, ...]:
    """What somebody else's class must be to stand where one of these does: what they have in common, beside state."""
    alike = [c for c in parts[0].__mro__ if issubclass(c, Stateful) and all(issubclass(p, c) for p in parts)]
    return (alike[0],) if alike[0] is not Stateful else tuple(parts)
