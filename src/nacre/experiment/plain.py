"""What a config may hold: plain values within bounds, so that whatever reads them further on need not fear them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from ..catalogue import join
from ..core.errors import BadSetting, shown

DEEPEST, LONGEST = 16, 10_000  # of tables in tables; of a text, and of a list
CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]"
)  # control characters but tab and line break; halves of letters


def refuse_unplain(tables: Any) -> None:
    """See that tables hold only what TOML can say, and nothing that is there to do harm.

    Raises:
        BadSetting: they are nested too deeply, or hold values of other types, control characters, or numbers that are not
            finite or have more than 64 bits.
    """
    left: list[tuple[str, Any, int]] = [("", tables, 0)]
    while left:  # without recursion: the depth is what is looked for
        place, value, depth = left.pop()
        if depth > DEEPEST:
            raise BadSetting(f"{shown(place)} is nested more than {DEEPEST} deep: no setting is")
        match value:
            case Mapping():
                if strange := [key for key in value if not isinstance(key, str) or CONTROL.search(key)]:
                    raise BadSetting(f"{place or 'the config'} has the key {shown(strange[0])}: keys are plain names")
                left += [(join(place, key), held, depth + 1) for key, held in value.items()]
            case list() | tuple():
                if len(value) > LONGEST:
                    raise BadSetting(f"{place} has {len(value)} entries: lists have at most {LONGEST}")
                left += [(join(place, k), held, depth + 1) for k, held in enumerate(value)]
            case str():
                if CONTROL.search(value) or len(value) > LONGEST:
                    raise BadSetting(
                        f"{place} is {shown(value)}: texts have no control characters and at most {LONGEST} letters"
                    )
            case bool() | None:
                pass
            case int():
                if not -(2**63) <= value < 2**63:
                    raise BadSetting(f"{place} is a number of {value.bit_length()} bits: whole numbers have at most 64")
            case float():
                if not math.isfinite(value):
                    raise BadSetting(f"{place} is {value}: settings are finite numbers")
            case _:
                kind = type(value).__name__
                raise BadSetting(
                    f"{place or 'a config'} is {shown(value)} ({kind}): write tables, lists, texts, numbers, true or false"
                )
