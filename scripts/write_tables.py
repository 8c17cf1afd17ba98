"""Write the tables of README.md and docs/ from the classes and the tests themselves: `python scripts/write_tables.py`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import MISSING, fields
from importlib import import_module
from pathlib import Path

from nacre.catalogue import entries
from nacre.checks import EVERY
from nacre.cli.exits import exit_code
from nacre.core.errors import NacreError
from nacre.experiment import recipes
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
            rows.append(f"| `{table.heading}` | `{f.name}` | `{shown}` | {f.metadata['help']} |")
    return "\n".join(rows) + "\n"


def streams() -> str:
    """One row a kind of stream, and one a setting of it."""
    rows = ["| kind | setting | default | what it does |", "|---|---|---|---|"]
    for entry in entries("stream"):
        rows.append(f"| **`{entry.name}`** | | | {entry.summary} |")
        for s in entry.settings:
            shown = (
                "none" if s.default is None else str(s.default).lower() if isinstance(s.default, bool) else s.default
            )
            span = f" ({s.range})" if s.range else ""
            rows.append(f"| | `{s.name}` | `{shown}` | {s.help}{span} |")
    return "\n".join(rows) + "\n"


def published() -> str:
    """One row a recipe: what it is, which data it takes, what others report."""
    rows = ["| recipe | what it is | data | published |", "|---|---|---|---|"]
    rows += [f"| `{r.name}` | {r.summary} | {r.data} | {r.published} |" for r in recipes()]
    return "\n".join(rows) + "\n"


def checks() -> str:
    """One row a check: what must hold, and what the machine must have."""
    rows = ["| check | what must hold | needs |", "|---|---|---|"]
    rows += [f"| `{check.name}` | {check.about} | {check.needs} |" for check in EVERY]
    return "\n".join(rows) + "\n"


def kinds() -> str:
    """One row a kind of error: what it means, what else it is, how the command line leaves."""
    rows = ["| error | means | also | exit code |", "|---|---|---|---|"]
    for kind in every_kind(NacreError):
        bare = kind.__new__(kind)
        meaning = (kind.__doc__ or "").partition("\n\n")[0].strip().removesuffix(".")
        above = ", ".join(f"`{base.__name__}`" for base in kind.__bases__ if base is not NacreError)
        rows.append(f"| `{kind.__name__}` | {meaning} | {above} | {exit_code(bare)} |")
    return "\n".join(rows) + "\n"


def every_kind(kind: type[Exception]) -> list[type[Exception]]:
    """The kinds of our errors below one, in the order of their definition."""
    below = [k for k in kind.__subclasses__() if k.__module__.startswith("nacre.")]
    return [k for b in below for k in (b, *every_kind(b))]


def errors() -> str:
    """One row a refusal, as tests/errors proves them."""
    sys.path[:0] = [place for place in (str(ROOT), str(ROOT / "tests")) if place not in sys.path]
    return import_module("tests.errors.rows").text()


PLACES: dict[str, dict[str, Callable[[], str]]] = {
    "README.md": {"methods": methods},
    "docs/run.md": {"settings": settings, "recipes": published},
    "docs/streams.md": {"streams": streams},
    "docs/own_method.md": {"checks": checks},
    "docs/errors.md": {"kinds": kinds, "refusals": errors},
}


def written(file: str) -> str:
    """The text of a file with its tables as they are now."""
    text = (ROOT / file).read_text(encoding="utf-8")
    for name, make in PLACES[file].items():
        place = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- end of {name} -->)", re.DOTALL)
        made = make()
        text = place.sub(lambda found, made=made: found[1] + made + found[2], text)
    return text


if __name__ == "__main__":
    for file in PLACES:
        (ROOT / file).write_text(written(file), encoding="utf-8")
