"""Experiments by name: published settings as configs, each over a folder of data that somebody has.

A recipe is a file in `recipes/`. The comment at its head says what it is; paragraphs of it that begin with `Data:`,
`Published:`, `Here:` and `Try:` say which data it takes, what others report, where it differs from them, and what to change.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ..core.errors import BadSetting, UnknownName
from .config import Config

RECIPES = Path(__file__).parent / "recipes"
PREFIX = "recipe:"
OPEN = "?"
"""What stands in a recipe where somebody has to say a folder."""
LABEL = re.compile(r"(Data|Published|Here|Try): ")


@dataclass(frozen=True)
class Recipe:
    r"""What the head of a recipe's file says of it.

    Attributes:
        name: As it is called, without `recipe:`.
        about: What it is.
        data: Which data it takes, and in which form.
        published: What others report, and where.
        here: Where it differs from what others did; may be empty.
        change: What to change, as the command line takes it; may be empty.
        toml: The config itself, without its head.

    >>> Recipe.of("a", "# Two tasks. Of two\n# classes.\n# Data: a table.\n[run]\n").about
    'Two tasks. Of two classes.'
    """

    name: str
    about: str
    data: str
    published: str
    here: str
    change: str
    toml: str

    @staticmethod
    def of(name: str, text: str) -> Recipe:
        """The recipe that a file holds."""
        lines = text.splitlines()
        head = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
        told = {"": ""}
        for line in (line.lstrip("# ") for line in lines[:head]):
            label = LABEL.match(line)
            key = label[1] if label else list(told)[-1]
            told[key] = f"{told.get(key, '')} {line[label.end() :] if label else line}".strip()
        about, data, published, here, change = (told.get(key, "") for key in ("", "Data", "Published", "Here", "Try"))
        return Recipe(name, about, data, published, here, change, "\n".join(lines[head:]))

    @property
    def summary(self) -> str:
        """What it is, in a line."""
        return re.split(r"; |\. |\.$", self.about, maxsplit=1)[0]


def names() -> list[str]:
    """The recipes that there are."""
    return sorted(path.stem for path in RECIPES.glob("[a-z]*.toml"))


def config_of(path: str | Path, changes: Iterable[str] = ()) -> Config:
    """The config in a file or a run's folder, or that of `recipe:NAME`.

    Raises:
        UnknownName: there is no such recipe.
        BadSetting: there is no such file, or it is no config; or a recipe that needs data is not told where they lie.
    """
    return recipe(str(path), changes=changes) if str(path).startswith(PREFIX) else Config.load(path, changes)


def recipes() -> list[Recipe]:
    """All recipes, in the order of their names."""
    return [recipe_of(name) for name in names()]


def recipe_of(name: str) -> Recipe:
    """What there is to know about a recipe.

    Args:
        name: One of `names()`, with or without `recipe:` before it.

    Raises:
        UnknownName: there is no such recipe; the nearest is named.
    """
    path = _path_of(name)
    return Recipe.of(path.stem, path.read_text(encoding="utf-8"))


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
    path = _path_of(name)
    given = {"data.source": data, "backbone.source": backbone}
    said = [f"{place}={json.dumps(str(value))}" for place, value in given.items() if value is not None]
    config = Config.load(path, [*said, *changes])
    if config.data.source == OPEN:
        raise BadSetting(f"{PREFIX}{path.stem} needs its data: say the folder in which they lie, as --data FOLDER")
    return config


def _path_of(name: str) -> Path:
    name = name.removeprefix(PREFIX)
    if name not in names():
        raise UnknownName("recipe", name, names())
    return RECIPES / f"{name}.toml"
