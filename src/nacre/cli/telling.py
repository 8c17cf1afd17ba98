"""What there is, in words."""

from __future__ import annotations

import dataclasses
import time
from textwrap import fill
from typing import Any

from ..catalogue import KINDS, Entry, Setting, about, entries, settings_of
from ..core.errors import UnknownName
from ..experiment import PREFIX, TABLES, StreamTable, recipe_of, recipes
from ..experiment import cache as feature_cache
from ..report import Sheet, settings_sheet, show

PLURALS = {
    "method": "methods",
    "rule": "rules",
    "memory": "memories",
    "head": "heads",
    "drift": "drifts",
    "stream": "streams",
    "backbone": "backbones",
    "data": "data",
}
PLURALS |= {"arrival": "arrivals", "augment": "augments", "schedule": "schedules", "optimizer": "optimizers"}
RECIPES = "recipes"
WIDTH = 100  # letters of a line of running text


def list_parts(kind: str | None) -> None:
    """Print the parts of one kind, or of all."""
    singular = {plural: one for one, plural in PLURALS.items()} | {one: one for one in KINDS}
    of_recipes = kind is not None and kind.lower() in (RECIPES, "recipe")
    if kind is not None and kind.lower() not in singular and not of_recipes:
        raise UnknownName("kind of part", kind, [*PLURALS.values(), RECIPES])
    if of_recipes:
        show(_recipes())
        return
    asked = list(KINDS) if kind is None else [singular[kind.lower()]]
    asked += ["arrival"] if asked == ["stream"] else []  # how the rows of any of them arrive
    sheets = []
    for one in asked:
        found = entries(one)
        header, rows = [PLURALS[one], "what it does"], [[e.name, e.summary] for e in found]
        if any(e.paper for e in found):
            header[1:1] = ["fidelity", "paper"]
            for row, e in zip(rows, found, strict=True):
                row[1:1] = [e.fidelity or "-", e.paper.place if e.paper else "-"]
        sheets.append(Sheet(header, rows, left=len(header)))
    show(*sheets, *([_recipes()] if kind is None else []))


def _recipes() -> Sheet:
    rows = [[f"{PREFIX}{recipe.name}", recipe.summary] for recipe in recipes()]
    return Sheet([RECIPES, "what it is"], rows, left=2)


def show_part(name: str) -> None:
    """Print all that is known about a part, about a recipe, or about the config."""
    if name.startswith(PREFIX):
        show(*_recipe(name))
        return
    if name.lower() == "config":
        show(*(settings_sheet(map(_cells, settings_of(t)), (t.__doc__ or "").strip()) for t in TABLES))
        return
    parts: list[Sheet | str] = []
    for entry in about(name):
        lines = [f"{entry.name} ({entry.kind})", entry.summary]
        lines += ["", entry.text] if entry.text else []
        if entry.paper is not None:
            lines += ["", f"Paper: {entry.paper}", f"Fidelity: {entry.fidelity}"]
        parts.append("\n".join(lines))
        if entry.settings:
            every = [s for s in settings_of(StreamTable) if s.name != "kind"] if entry.kind == "stream" else []
            parts.append(settings_sheet(map(_cells, [*entry.settings, *every])))
        if told := snippet(entry):
            parts.append(f"In a config:\n\n{told}")
    show(*parts)


def _recipe(name: str) -> list[str]:
    """What a recipe is, and its config."""
    found = recipe_of(name)
    told = {"Data": found.data, "Published": found.published, "Here": found.here}
    command = f"nacre run {PREFIX}{found.name} --data FOLDER"
    lines = [fill(f"{label}: {text}", WIDTH) for label, text in told.items() if text]
    tries = [command, *([f"{command} {found.change}"] if found.change else [])]
    about = f"{PREFIX}{found.name}\n{fill(found.about, WIDTH)}"
    return [about, "\n".join(lines), "\n".join(tries), f"Its config:\n\n{found.toml}"]


def show_cache(clear: bool) -> None:
    """Print what features are kept on disk, or delete them."""
    place = feature_cache.folder()
    if clear:
        show(f"deleted {feature_cache.clear()} files in {place}")
        return
    rows = [
        [
            *(str(entry.about.get(key, "-")) for key in ("data", "part", "rows", "width", "backbone")),
            f"{entry.bytes / 2**20:.1f}",
            time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used)),
        ]
        for entry in sorted(feature_cache.entries(), key=lambda entry: -entry.used)
    ]
    held = sum(entry.bytes for entry in feature_cache.entries())
    header = ["data", "part", "rows", "width", "backbone", "MiB", "last used"]
    sheet = [Sheet(header, rows, left=len(header))] if rows else []
    show(*sheet, f"{held / 2**20:.1f} of {feature_cache.MOST / 2**20:.0f} MiB in {place}")


def _cells(setting: Setting) -> tuple[str, str, str, str, str]:
    return setting.name, as_in_config(setting.default), setting.type, setting.range or "-", setting.help


def as_in_config(value: Any) -> str:
    """A default as a config would say it."""
    if value is dataclasses.MISSING:
        return "(must be said)"
    if value is None:
        return '"none"'
    if isinstance(value, bool):
        return str(value).lower()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value).__name__
    return f'"{value}"' if isinstance(value, str) else str(list(value) if isinstance(value, tuple) else value)


def snippet(entry: Entry) -> str:
    """How a config names it, with its first settings at their defaults."""
    plain = (bool, int, float, str)
    told = [
        f"{s.name} = {as_in_config(s.default)}"
        for s in entry.settings
        if isinstance(s.default, plain) and s.name != "seed"
    ]
    table = ", ".join([f'name = "{entry.name}"', *told[:3]])
    source = "PATH" if entry.name.isupper() else entry.name
    return {
        "method": f"[[stage]]\nmethods = [{{ {table} }}]",
        "rule": f"[[stage]]\nmethods = [{{ {table} }}]",
        "memory": f"memory = {{ {table} }}",
        "head": f"head = {{ {table} }}",
        "drift": f"drift = {{ {table} }}",
        "stream": f'[stream]\nkind = "{entry.name}"',
        "arrival": f'[stream]\narrival = "{entry.name}"',
        "backbone": f'[backbone]\nsource = "{source}"',
        "data": f'[data]\nsource = "{entry.name}"',
        "augment": f'[backbone]\naugment = "{entry.name}"',
        "schedule": f"[[stage]]\nschedule = {{ {table} }}",
        "optimizer": f'[[stage]]\noptimizer = {{ name = "{entry.name}", lr = 0.001 }}',
    }[entry.kind]
