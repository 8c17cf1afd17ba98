"""What numbers come from: settings, versions, data, papers."""

from __future__ import annotations

from collections.abc import Sequence

from ..core.run import Run
from . import figures, words
from .pieces import Fold, Piece, References, Section, Table
from .sheet import Sheet


def settings_section(run: Run) -> Section:
    """Every setting, by table."""
    tables: dict[str, list[list[str]]] = {}
    for place, said in words.settings_of(run).items():
        parts = place.split(".")
        head = ".".join(parts[:2]) if parts[0] == "stage" and len(parts) > 2 else parts[0]
        tables.setdefault(head, []).append([place[len(head) + 1 :] or place, said])
    pieces = [
        Table(Sheet(["setting", "value"], rows, f"[{head}]", left=2), wraps=True, code=True)
        for head, rows in tables.items()
    ]
    about = "With their defaults; what a stage was made of is given as it was resolved."
    return Section("settings", "Settings", [Fold(f"All {sum(map(len, tables.values()))} settings", pieces)], about)


def environment_section(runs: Sequence[Run]) -> Section:
    """Versions, and what was learned from."""
    names = list(dict.fromkeys(name for run in runs for name in run.versions))
    rows = [[name, *(run.versions.get(name, "-") for run in runs)] for name in names]
    header = ["", "version"] if len(runs) == 1 else ["", *(run.name for run in runs)]
    pieces: list[Piece] = [
        Table(Sheet(header, rows, "What the numbers depend on beside the settings", left=len(header)))
    ]
    rows = []
    for run in runs:
        found = figures.fullest(run)
        data = found.data if found is not None else {}
        if data:
            counts = data.get("rows") or {}
            digest, note = str(data.get("sha256", "-")), str(data.get("note") or "-")
            many = [words.counted(counts[part]) if part in counts else "-" for part in ("train", "test")]
            rows.append(
                [run.name, str(data.get("source", "-")), note, digest[:12], *many, str(data.get("classes", "-"))]
            )
    if rows:
        header = ["run", "data", "note", "sha256", "train rows", "test rows", "classes"]
        pieces.append(Table(Sheet(header, rows, "Data", left=4), wraps=True))
    return Section("environment", "Environment", pieces)


def references_section(runs: Sequence[Run]) -> Section:
    """The papers of all methods that ran, each once."""
    entries = {e.method: e for run in runs for e in words.references(run)}
    pieces = [References(list(entries.values()))] if entries else []
    return Section(
        "references", "References", pieces, "How sure we are that a method is the published one stands beside it."
    )
