"""Experiments by name: published settings as configs, each over a folder of data that somebody has."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from ..core.errors import BadSetting, UnknownName
from .config import Config

RECIPES = Path(__file__).parent / "recipes"
PREFIX = "recipe:"
OPEN = "?"
"""What stands in a recipe where somebody has to say a folder."""


def names() -> list[str]:
    """The recipes that there are."""
    return sorted(path.stem for path in RECIPES.glob("[a-z]*.toml"))


def recipe(
    name: str, *, data: str | Path | None = None, backbone: str | Path | None = None, changes: Iterable[str] = ()
) -> Config:
    """The config of a recipe.

    Args:
        name: One of `names()`, with or without `recipe:` before it.
        data: Where its data lie.
        backbone: Another backbone than the recipe's own, such as a folder of the same one.
        changes: `place=value`, such as `stage.0.epochs=5`.

    Raises:
        UnknownName: there is no such recipe; the nearest is named.
        BadSetting: the recipe needs data, and nobody says where they are.

    >>> recipe("banking77", data="banking77").stream.settings["tasks"]
    7
    """
    name = name.removeprefix(PREFIX)
    if name not in names():
        raise UnknownName("recipe", name, names())
    given = {"data.source": data, "backbone.source": backbone}
    said = [f"{place}={json.dumps(str(value))}" for place, value in given.items() if value is not None]
    config = Config.load(RECIPES / f"{name}.toml", [*said, *changes])
    if config.data.source == OPEN:
        raise BadSetting(f"{PREFIX}{name} needs its data: say the folder in which they lie, as --data FOLDER")
    return config
