"""Pages of the documentation that are made of the classes themselves, a page a method: a hook of mkdocs.

Nothing of it is kept in the repository, so nothing of it can be out of date.
"""

from __future__ import annotations

import doctest
import inspect
import re
from typing import Any

from nacre import memory
from nacre.catalogue import Entry, entries
from nacre.cli.telling import as_in_config, snippet

FOLDER = "methods"
FIDELITY = {
    "reproduced": "agrees with a trusted table, or with reference code that was run",
    "faithful": "follows the published formulas and is tested against them",
    "inspired": "rebuilt from the published idea; the exact rule was not available",
}
INDEX = """# Methods

A method says what happens to the weights of a model that goes through a stream. Methods of one stage compose: give several,
and what any of them asks to rest, rests. The empty list is plain fine-tuning.
"""


def on_config(config: Any) -> Any:
    """Put the pages of the methods into the navigation."""
    for part in config.nav:
        if isinstance(part, dict) and "Methods" in part:
            part["Methods"] = list(pages())
    return config


def on_files(files: Any, config: Any) -> Any:
    """Add the pages to those that lie in docs/."""
    from mkdocs.structure.files import File

    for path, text in pages().items():
        files.append(File.generated(config, path, content=text))
    return files


def pages() -> dict[str, str]:
    """Path below docs/ -> markdown."""
    known = entries("method")
    told = {f"{FOLDER}/index.md": index(known)}
    return told | {f"{FOLDER}/{entry.name}.md": page(entry) for entry in known}


def index(known: list[Entry]) -> str:
    """All methods in a table."""
    rows = ["| method | what it does | year | fidelity |", "|---|---|---|---|"]
    for entry in known:
        year = entry.paper.year if entry.paper is not None else ""
        rows.append(f"| [`{entry.name}`]({entry.name}.md) | {entry.summary} | {year} | {entry.fidelity} |")
    told = "\n".join(f"- *{name}*: {meaning}." for name, meaning in FIDELITY.items())
    return (
        f"{INDEX}\n"
        + "\n".join(rows)
        + f"\n\nFidelity says how sure we are that a method is the published one:\n\n{told}\n"
    )


def page(entry: Entry) -> str:
    """All that is known of one method."""
    parts = [f"# {entry.name}", f"**{entry.summary}**", entry.text]
    if entry.paper is not None:
        link = f"[arXiv {entry.paper.arxiv}](https://arxiv.org/abs/{entry.paper.arxiv})" if entry.paper.arxiv else ""
        parts.append(f"*Paper*: {entry.paper.title} ({', '.join(map(str, filter(None, (entry.paper.year, link))))})")
        parts.append(f"*Fidelity*: `{entry.fidelity}`: {FIDELITY[entry.fidelity or 'inspired']}.")
    if entry.settings:
        parts += ["## Settings", settings(entry)]
    parts += ["## Three lines to a first number", f"```python\n{example(entry)}\n```"]
    parts += ["## In a config", f"```toml\n{snippet(entry)}\n```"]
    if told := from_docstring(entry.made_by):
        parts += ["## In Python", f"```python\n{told}\n```"]
    return "\n\n".join(part for part in parts if part) + "\n"


def settings(entry: Entry) -> str:
    """A row a setting."""
    rows = ["| setting | default | type | range | meaning |", "|---|---|---|---|---|"]
    for s in entry.settings:
        kind = s.type.replace("|", "or")
        rows.append(f"| `{s.name}` | `{as_in_config(s.default)}` | {kind} | {s.range or '-'} | {s.help} |")
    return "\n".join(rows)


def example(entry: Entry) -> str:
    """A run over the embedded digits."""
    needed = {"SAGE": ', match="weight"'}.get(entry.name, "")  # whose default speaks of transformers
    return (
        "import nacre\n\n"
        f'run = nacre.fit("digits", method="{entry.name}"{needed}, backbone="mlp:64-64", tasks=5, epochs=1)\n'
        "print(run.table())"
    )


def from_docstring(kind: type) -> str:
    """The example in a class's docstring, without its prompts."""
    examples = doctest.DocTestParser().get_examples(inspect.getdoc(kind) or "")
    if not examples:
        return ""
    code = "".join(one.source for one in examples)
    kept = [name for name in memory.__all__ if re.search(rf"\b{name}\(", code)]
    lines = [f"from nacre.memory import {', '.join(kept)}"] if kept else []
    lines += [f"from nacre.methods import {kind.__name__}", ""]
    for one in examples:
        lines.append(one.source.rstrip())
        lines += [f"# {line}" for line in one.want.rstrip().splitlines()]
    return "\n".join(lines)
