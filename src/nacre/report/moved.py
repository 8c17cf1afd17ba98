"""The section on motion: what was asked to rest, what moved, how far, and where."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile

from ..core.run import Run
from . import figures, plots, words
from .figures import Grid, Value, evenly
from .pieces import Callout, Fold, Heat, Piece, Plot, Section, Side, Table, Text, heat
from .sheet import Sheet

LAYERS = 48  # rows of a heat map of layers
TASKS = 24  # its columns
ROWS = 200
LATER = {"from_start": "from the first weights, %", "effective_step": "of a step, %"}
DECADES = 3  # that the scale of distances spans at most


def moved_section(run: Run) -> Section:
    """Motion of a run."""
    pieces: list[Piece] = [rest_callout(run)]
    share, far = (figures.total_motion(run, key) for key in ("moved", "relative"))
    if not share:
        return Section("motion", "Motion", [*pieces, Text("No motion was measured.")])
    header = ["task", "entries that moved, %", "length of the move, % of the weights"]
    columns = [(share, words.percents), (far, words.length)]
    for key, told in LATER.items():
        held = figures.total_motion(run, key)
        if any(not math.isnan(v.mean) for _, v in held):  # records of earlier versions do not have it
            header.append(told)
            columns.append((held, words.length))
    rows = [[share[k][0], *(say(held[k][1]) for held, say in columns)] for k in evenly(len(share), ROWS)]
    numbers = Sheet(header, rows, "Motion of all tensors")
    if len(share) > 1:
        drawn = [
            Plot(
                "Share of entries that moved",
                "Of all parameters and buffers, in each task.",
                plots.moved("share-moved", [v for _, v in share], "entries, %"),
                numbers,
            ),
            Plot(
                "How far the weights moved",
                "Length of the change in each task, by the length of the weights.",
                plots.moved("far-moved", [v for _, v in far], "length, %"),
            ),
        ]
        pieces.append(Side(drawn))
    else:
        pieces.append(Table(numbers))
    pieces += _by_layer(run)
    return Section(
        "motion", "Motion", pieces, "What changed in the weights that answers are made with, buffers included."
    )


def rest_callout(run: Run) -> Callout:
    """How many entries were asked to rest, and how many of them moved."""
    held = [row for r in run.results.values() for row in r.rest]
    asked, moved = any(row["asked"] for row in held), sum(row["moved"] for row in held)
    if not held:
        trained = any(r.curves.get("loss") for r in run.results.values())
        text = "The record does not tell of rest." if trained else "No stage took optimizer steps."
        return Callout("Nothing was asked to rest", text)
    if not asked:
        return Callout("Nothing was asked to rest", "No method kept entries still throughout a stage.")
    stages = [row for row in held if row["asked"]]
    most = max(stages, key=lambda row: row["asked"])
    most_ = " at most" * (len({row["asked"] for row in stages}) > 1)
    over = f"{words.many(len(stages), 'stage')} of training{', all seeds together' * (len(run.results) > 1)}"
    place = f"task{most['task']}, stage {most['stage']}"
    part = f"Of the {words.counted(most['entries'])} entries that the optimizer held in {place}"
    verdict = "Rest was broken, which must not happen." if moved else "Every one has the bits that it had before."
    title = f"Asked to rest: {words.counted(most['asked'])} entries{most_}. Moved: {words.counted(moved)}."
    return Callout(title, f"{part}; compared when a stage ended, over {over}. {verdict}", "bad" if moved else "good")


def _rest_by_stage(run: Run) -> list[Piece]:
    rows = [
        [
            f"task{row['task']}",
            str(row["stage"]),
            str(seed),
            *(words.counted(row[k]) for k in ("entries", "asked", "moved")),
        ]
        for seed, result in run.results.items()
        for row in result.rest
        if row["asked"]
    ]
    header = ["task", "stage", "seed", "in training", "asked to rest", "moved"]
    sheet = Sheet(
        header, [rows[k] for k in evenly(len(rows), ROWS)], "Entries that were asked to rest at every step of a stage"
    )
    if len(rows) > ROWS:
        sheet.notes.append(f"{ROWS} of {len(rows)} stages are shown, evenly spread; run.json holds all.")
    return [Fold("Rest stage by stage", [Table(sheet)])] if rows else []


def _by_layer(run: Run) -> list[Piece]:
    far, share = figures.motion(run, ("relative", "moved"), (LAYERS, TASKS))
    if not far.rows or not far.columns:
        return []
    front = _front(far.rows)
    shown = [
        Grid(
            [n.removeprefix(front) for n in g.rows],
            g.columns,
            [[Value(v.mean) for v in row] for row in g.cells],
            g.counts,
        )
        for g in (far, share)
    ]
    named = f" Names begin with “{front}”." if front else ""
    named += f" Means over {len(run.results)} seeds." if len(run.results) > 1 else ""
    pieces: list[Piece] = [_distance(shown[0], named), _share(shown[1], named)]
    tensors = _tensors(run)
    tables = [Fold("Tensors one by one", [tensors])] if tensors is not None else []
    return [*pieces, *tables, *_rest_by_stage(run)]


def _front(names: Sequence[str]) -> str:
    """What the names of all layers but the head's begin with, so that it need not be repeated; no name is left a number.

    >>> _front(["body.net.layers.0", "body.net.norm", "head"]), _front(["body.layers.0", "body.layers.2"])
    ('body.net.', 'body.')
    """
    inner = [name for name in names if name.partition(".")[0] != "head"]
    parts = [name.split(".") for name in inner]
    shared = [words_[0] for words_ in takewhile(lambda at: len(set(at)) == 1, zip(*parts, strict=False))]
    while shared and any(len(p) == len(shared) or (len(p) == len(shared) + 1 and p[-1].isdigit()) for p in parts):
        shared.pop()
    return "".join(f"{word}." for word in shared)


def _distance(grid: Grid, named: str) -> Heat:
    known = [v.mean for row in grid.cells for v in row if v.mean > 0]
    high = max(known, default=1.0)
    low = max(min(known, default=high), high / 10**DECADES)
    span = math.log(high / low) or 1.0
    return heat(
        grid,
        words.length,
        lambda v: 0.0 if v <= 0 else (1.0 if low == high else 0.08 + 0.92 * math.log(max(v, low) / low) / span),
        title="How far each layer moved, percent of its length",
        about=f"A row a layer, a column a task; the stronger the colour the farther, on a logarithmic scale.{named}",
        corner="layer",
        scale="motion",
        ends=(words.length(Value(low)), words.length(Value(high))),
        what=("layers", "tasks"),
    )


def _share(grid: Grid, named: str) -> Heat:
    return heat(
        grid,
        words.percents,
        lambda v: v,
        title="Share of entries that moved, percent",
        about=f"A row a layer, a column a task; 0.0 is a layer that rested or was frozen.{named}",
        corner="layer",
        scale="motion",
        ends=("0", "100"),
        what=("layers", "tasks"),
    )


def _tensors(run: Run) -> Table | None:
    """The tensors of the first seed, over the tasks that are held: entries, share that moved, farthest."""
    shape = next(iter(run.results.values()))
    held: dict[str, list[dict[str, float]]] = {}
    for row in shape.motion.values():
        for name, tensor in (row.get("tensors") or {}).items():
            held.setdefault(name, []).append(tensor)
    if not held:
        return None
    rows = []
    for name in (list(held)[k] for k in evenly(len(held), ROWS)):
        most = max(held[name], key=lambda t: t["relative"] or 0.0)
        moved = figures.over(t["moved"] for t in held[name])
        highest = max((t["moved"] or 0.0 for t in held[name]), default=math.nan)
        cells = [words.counted(most["entries"]), words.percents(Value(moved.mean)), words.percents(Value(highest))]
        rows.append([name, *cells, words.length(Value(most["relative"] if most["relative"] is not None else math.nan))])
    header = ["tensor", "entries", "moved, mean %", "moved, most %", "farthest, %"]
    sheet = Sheet(header, rows, f"Tensors of seed {next(iter(run.results))}, over the tasks that are held")
    if len(rows) < len(held):
        sheet.notes.append(f"{len(rows)} of {len(held)} tensors are shown, evenly spread; run.json holds all.")
    return Table(sheet)
