"""One setting of a sweep and the values that are tried."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import Any

import tomli_w

from ..core.errors import BadSetting, shown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


@dataclass(frozen=True)
class Axis:
    """One setting and the values that are tried.

    Attributes:
        place: Where it stands in the config, such as `stage.0.methods.0.strength`.
        values: As `--set` takes them.

    >>> Axis.of("stage.0.optimizer.lr=1e-3,1e-2")
    Axis(place='stage.0.optimizer.lr', values=('0.001', '0.01'))
    """

    place: str
    values: tuple[str, ...]

    @staticmethod
    def of(text: str) -> Axis:
        """The axis that `place=value,value` means; values are those of TOML, or texts without quotes.

        Raises:
            BadSetting: it is written in another way, or a value comes twice.
        """
        place, sign, values = text.partition("=")
        if not sign or not place.strip() or not values.strip():
            raise BadSetting(
                f"--over takes place=value,value, such as stage.0.optimizer.lr=0.01,0.1, not {shown(text)}"
            )
        found = tuple(_values(values))
        if len(set(found)) < len(found):
            raise BadSetting(f"--over {shown(text)[1:-1]}: a value is named twice: name each once")
        return Axis(place.strip(), found)

    @property
    def name(self) -> str:
        """The last word of the place."""
        return self.place.rpartition(".")[2]

    def in_order(self) -> bool:
        """Whether its values are numbers that rise or fall."""
        try:
            numbers = [float(value) for value in self.values]
        except ValueError:
            return False
        return numbers in (sorted(numbers), sorted(numbers, reverse=True))


def _values(text: str) -> list[str]:
    """Values of TOML with commas between them; where TOML cannot read them, each is a text."""
    try:
        found = tomllib.loads(f"values = [{text}]")["values"]
    except (ValueError, RecursionError):
        pieces = [piece.strip() for piece in text.split(",")]
        if not all(pieces):
            raise BadSetting(f"--over: {shown(text)} has an empty value: leave out a comma") from None
        return pieces
    return [_as_toml(value) for value in found]


def _as_toml(value: Any) -> str:
    """A value as it stands in a line of TOML, a number as short as it can be."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {_as_toml(held)}" for key, held in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_as_toml, value)) + "]"
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"{value:.0f}"
    if isinstance(value, float) and float(f"{value:g}") == value:
        return f"{value:g}"
    return tomli_w.dumps({"value": value}).partition("=")[2].strip()
