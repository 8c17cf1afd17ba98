"""Write the tables of README.md and docs/ from the classes themselves: `python scripts/write_tables.py`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path

from nacre.catalogue import entries
from nacre.checks import EVERY
from nacre.experiment.tables import TABLES

ROOT = Path(__file__).parents[1]


def methods() -> str:
    """One row a method: what happens to the weights, its paper, how sure we are."""
    rows = ["| method | what it does | paper | fidelity |", "|---|---|---|---|"]
    for entry in entries("method"):
        paper = entry.made_by.paper
        link = f"[{paper.title}](https://arxiv.org/abs/{paper.arxiv}) ({paper.year})" if paper.arxiv else str(paper)
        rows.append(f"| `{entry.name}` | {entry.summary} | {link} | {entry.made_by.fidelity} |")
    return "\n".join(rows) + "\n"


def settings() -> str:
    """One row a setting of a config."""
    rows = ["| table | setting | default | meaning |", "|---|---|---|---|"]
    for table in TABLES:
        for f in (f for f in fields(table) if "help" in f.metadata):
            default = f.default_factory() if f.default_factory is not MISSING else f.default
            shown = "none" if default is None else str(default).lower() if isinstance(default, bool) else default
            rows.append(f"| `{table.label}` | `{f.name}` | `{shown}` | {f.metadata['help']} |")
    return "\n".join(rows) + "\n"


def kinds() -> str:
    """One row a kind of stream, and one a setting of it."""
    rows = ["| kind | setting | default | what it does |", "|---|---|---|---|"]
    for entry in entries("stream"):
        rows.append(f"| **`{entry.name}`** | | | {entry.summary} |")
        for s in entry.settings:
            shown = "none" if s.default is None else str(s.default).lower() if isinstance(s.default, bool) else s.default
            span = f" ({s.range})" if s.range else ""
            rows.append(f"| | `{s.name}` | `{shown}` | {s.help}{span} |")
    return "\n".join(rows) + "\n"


def checks() -> str:
    """One row a check: what must hold, and what the machine must have."""
    rows = ["| check | what must hold | needs |", "|---|---|---|"]
    rows += [f"| `{check.name}` | {check.about} | {check.needs} |" for check in EVERY]
    return "\n".join(rows) + "\n"


PLACES: dict[str, tuple[str, Callable[[], str]]] = {
    "README.md": ("methods", methods),
    "docs/run.md": ("settings", settings),
    "docs/streams.md": ("kinds", kinds),
    "docs/own_method.md": ("checks", checks),
}


def written(file: str) -> str:
    """The text of a file with its table as it is now."""
    name, make = PLACES[file]
    place = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
    return place.sub(lambda found: found[1] + make() + found[2], (ROOT / file).read_text())


if __name__ == "__main__":
    for file in PLACES:
        (ROOT / file).write_text(written(file))
