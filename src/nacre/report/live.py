"""A run as it stands just now, for a terminal: state, place, time left, loss, watch sets, the matrix so far."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

from ..core.progress import Progress
from ..core.run import Result, Run, percent
from . import words
from .colours import STEPS, ink_on, mixed, step
from .figures import evenly, losses, over_tasks, watch

BLOCKS = "▁▂▃▄▅▆▇█"
SPARK = 48  # letters of a curve
SILENT = 120.0  # seconds without news after which it is said
MATRIX = (14, 10)  # moments and test sets that are shown, where the terminal has room for them
CELL = 7  # letters of a column
COLOURS = mixed(("#e8f1fa", "#9cc4e6", "#3f86c8", "#1d5596", "#0b2d66"), STEPS + 1)


def sparkline(values: Sequence[float | None], width: int = SPARK) -> str:
    """Numbers as a line of blocks, low to high; a gap where there is no number.

    >>> sparkline([0.0, 1.0, None, 2.0])
    '▁▅ █'
    """
    shown = [values[k] for k in evenly(len(values), width)]
    known = [v for v in shown if v is not None and math.isfinite(v)]
    if not known:
        return ""
    low, wide = min(known), (max(known) - min(known)) or 1.0
    places = (None if v is None or not math.isfinite(v) else (v - low) / wide for v in shown)
    return "".join(" " if p is None else BLOCKS[min(int(p * len(BLOCKS)), len(BLOCKS) - 1)] for p in places)


def view(run: Run, now: Progress | None, width: int = 80, at: float | None = None) -> Any:
    """What to show of a run, for the package rich.

    Args:
        run: Its record.
        now: Where it stands; None where it has ended, or has said nothing yet.
        width: Letters of a line.
        at: The present time, in seconds since 1970.
    """
    from rich import box
    from rich.console import Group
    from rich.panel import Panel
    from rich.text import Text

    state = _state(run, now, time.time() if at is None else at)
    hue = {"finished": "green", "failed": "red", "interrupted": "yellow"}.get(run.status, "cyan")
    parts: list[Any] = [Text(state, style=hue)]
    if now is not None and run.status == "running":
        parts += _bar(now, width - 6)
    result = _present(run, now)
    if result is not None:
        parts += [Text(), *_curves(result, now), Text(), _matrix(result, width - 6)]
        if len(run.results) > 1:
            done = ", ".join(f"seed {s} {percent(r.figure('last'))}" for s, r in run.results.items() if r.moments)
            parts += [Text(), Text(f"last, percent: {done}")]
    return Panel(
        Group(*parts), title=Text(words_of(run.name), style="bold"), title_align="left", box=box.ROUNDED, padding=(1, 2)
    )


def words_of(name: str) -> str:
    """A name that cannot steer a terminal."""
    return "".join(c if c.isprintable() else "·" for c in name)


def _state(run: Run, now: Progress | None, at: float) -> str:
    if run.status == "failed":
        return f"failed: {words_of(run.error)}"
    if run.status != "running":
        last = percent(*run.figure("last"))
        return f"{run.status}, {run.score.get('name', 'accuracy')} after the last task {last} %"
    if now is None:
        return "running; it has not said yet where it stands"
    seeds = f", seed {now.seed} ({run.seeds.index(now.seed) + 1} of {len(run.seeds)})" if now.seed in run.seeds else ""
    place = f"task {min(now.task + 1, now.tasks)} of {now.tasks}" if now.tasks else "before the first task"
    stage = f", stage {now.stage + 1} of {now.stages}" if now.stages > 1 and now.doing == "training" else ""
    steps = f", step {now.step} of {now.steps}" if now.steps and now.doing == "training" else ""
    silent = at - now.written
    quiet = f"; no news for {words.seconds(silent)}" if silent > SILENT else ""
    return f"{now.doing}{seeds}, {place}{stage}{steps}{quiet}"


def _bar(now: Progress, width: int) -> list[Any]:
    from rich.text import Text

    left = now.seconds_left()
    told = f" {100 * now.done:3.0f} %  {'' if left is None else 'about ' + words.seconds(left) + ' left'}"
    room = max(min(width - len(told), 60), 10)
    done = round(room * now.done)
    bar = Text("━" * done, style="cyan")
    bar.append("━" * (room - done), style="bright_black")
    return [bar.append(told, style="default")]


def _present(run: Run, now: Progress | None) -> Result | None:
    """The seed that is being learned, or the last one that has figures."""
    if now is not None and now.seed in run.results and run.results[now.seed].moments:
        return run.results[now.seed]
    held = [result for result in run.results.values() if result.moments]
    return held[-1] if held else None


def _curves(result: Result, now: Progress | None) -> list[Any]:
    from rich.text import Text

    kept = [v for v in losses(result)[1] if math.isfinite(v)]
    live = now.losses if now is not None and now.losses else None
    old = watch(result).old[1]
    rows = [
        ("loss, latest" if live else "loss", live or kept, ".3g"),
        ("earlier tasks", [100 * v for v in old], ".1f"),
        ("after each task", [100 * v for v in over_tasks(result)], ".1f"),
    ]
    found = []
    for name, values, form in rows:
        known = [v for v in values if v is not None and math.isfinite(v)]
        if known:
            line = Text(f"{name:<16}", style="bright_black")
            found.append(line.append(sparkline(values), style="cyan").append(f"  {known[-1]:{form}}", style="default"))
    return found


def _matrix(result: Result, width: int) -> Any:
    """The scores so far, coloured; of many, some."""
    from rich.text import Text

    names = [words_of(t["name"]) for t in result.tests]
    side = min(max(map(len, result.moments), default=0), 12)
    columns = evenly(len(names), max(min(MATRIX[1], (width - side) // (CELL + 1)), 2))
    rows = evenly(len(result.moments), MATRIX[0])
    counts = ((rows, result.moments, "moments"), (columns, names, "test sets"))
    cut = [f"{len(some)} of {len(all_)} {what}" for some, all_, what in counts if len(some) < len(all_)]
    table = Text(" " * side)
    for j in columns:
        table.append(f" {names[j][:CELL]:^{CELL}}", style="bright_black")
    for i in rows:
        table.append(f"\n{words_of(result.moments[i])[:side]:<{side}}", style="bright_black")
        for j in columns:
            value = result.matrix[i][j]
            table.append(" ").append(f"{percent(value):^{CELL}}", style=_style(value))
    return table.append(f"\n{', '.join(cut)} are shown" if cut else "", style="bright_black")


def _style(value: float) -> str:
    if math.isnan(value):
        return "bright_black"
    colour = COLOURS[step(value)]
    return f"{ink_on(colour)} on {colour}"
