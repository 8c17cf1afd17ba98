"""The page of several runs: what differs in their settings, what differs in what came of it, and then each by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..core.run import Run, percent
from . import figures, plots, words
from .colours import SERIES
from .figures import Value, evenly
from .pieces import Callout, Fold, Page, Piece, Plot, Section, Table, Text
from .run_page import LATER, ROWS, scores_heat
from .sheet import Sheet
from .sources import environment_section, references_section
from .tables import comparison

FIGURES = ("last", "average", "learning", "forgetting")
MATRICES = 12  # that are shown
ROWS_OF_PAIRS = "Runs of one seed meet the same rows in the same order."
NO_COMMON_ROWS = "These runs do not meet the same rows in the same order: equal seeds do not make equal conditions."


def comparison_page(runs: Sequence[Run], levels: Sequence[plots.Level] = (), text: str = "") -> Page:
    """The page of a comparison.

    Args:
        runs: The records; the first is what the others are compared with.
        levels: Figures of bounds that are known only for the end.
        text: What is to be seen, in sentences.
    """
    named = distinct(runs)
    paragraphs = [text] if text else []
    paragraphs.append(
        f"{words.many(len(named), 'run')}: {words.listed([run.name for run in named])}. The first is what the others are "
        "compared with."
    )
    problems = [f"{run.name}: {how}" for run in named if (how := words.how_it_stands(run))]
    sections = [_settings(named), _paired(named), _curves(named, levels), _table(named), _matrices(named)]
    sections += [environment_section(named), *(s for s in (references_section(named),) if s.pieces)]
    title = " · ".join(run.name for run in named) if len(named) <= 3 else f"{named[0].name} and {len(named) - 1} others"
    facts = [
        words.many(len(named), "run"),
        f"seeds {', '.join(map(str, sorted({s for run in named for s in run.seeds})[:12]))}",
    ]
    problem = " ".join(problems)
    return Page("Comparison of runs", title, "", facts, paragraphs, [], sections, "their run.json", problem)


def distinct(runs: Sequence[Run]) -> list[Run]:
    """The runs, numbered where several have one name."""
    names = [run.name for run in runs]
    if len(set(names)) == len(names):
        return list(runs)
    found = []
    for k, run in enumerate(runs):
        copy = Run(**vars(run))
        copy.name = f"{run.name} ({k + 1})" if names.count(run.name) > 1 else run.name
        found.append(copy)
    return found


def _settings(runs: Sequence[Run]) -> Section:
    differing = words.differences(runs)
    if not differing:
        same = Callout("All settings are equal", "What differs below differs by chance, by machine or by version.")
        return Section("settings", "What differs", [same])
    about = f"{words.many(len(differing), 'setting')} in which the runs differ; all others are equal."
    chosen = words.telling(differing)
    if len(chosen) == len(differing):
        return Section("settings", "What differs", [_side_by_side(runs, differing, "Settings that differ")], about)
    whole = Fold(f"All {len(differing)}", [_side_by_side(runs, differing, "All settings that differ")])
    title = "Settings that differ; of parts that are not the same, names and rates"
    return Section("settings", "What differs", [_side_by_side(runs, chosen, title), whole], about)


def _side_by_side(runs: Sequence[Run], differing: Sequence[words.Difference], title: str) -> Table:
    rows = [[place, *said] for place, said in differing]
    return Table(Sheet(["setting", *(run.name for run in runs)], rows, title, left=len(runs) + 1), wraps=True)


def _paired(runs: Sequence[Run]) -> Section:
    first, others = runs[0], runs[1:]
    gains = {run.name: [gain for _, gain in figures.paired(run, first, "last")] for run in others}
    known = {name: each for name, each in gains.items() if each}
    if not known:
        why = f"No other run shares a seed with {first.name} for which both have figures."
        return Section("paired", "Paired seeds", [Callout("No pairs", why)])
    rows = []
    for run in others:
        cells = []
        for name in FIGURES:
            each = [gain for _, gain in figures.paired(run, first, name)]
            cells.append(signed(figures.over(each)))
        seeds = [str(seed) for seed, _ in figures.paired(run, first, "last")]
        rows.append(
            [run.name, ", ".join(seeds[:10]) + ", …" * (len(seeds) > 10) or "-", _verdict(gains[run.name]), *cells]
        )
    header = ["run", "seeds", "better in", *FIGURES]
    title = f"Difference to {first.name} in points, mean ± spread over the pairs"
    notes = [ROWS_OF_PAIRS if _share_rows(runs) else NO_COMMON_ROWS, "For forgetting, less is better."]
    sheet = Sheet(header, rows, title, notes)
    hues = [f"c{(k + 1) % SERIES}" for k, run in enumerate(others) if run.name in known]
    about = f"Last score minus that of {first.name}, seed by seed."
    plot = Plot("Pairs of equal seed", about, plots.paired("paired", known, hues), wide=True)
    return Section("paired", "Paired seeds", [Table(sheet), plot])


def _share_rows(runs: Sequence[Run]) -> bool:
    """Whether all runs learn from the same rows, in streams and stages of the same shape."""
    told = [
        (
            [(result.data.get("sha256"), result.data.get("stream")) for _, result in sorted(run.results.items())][:1],
            [[stage.get(key) for key in ("epochs", "steps", "batch_size")] for stage in run.settings.get("stage", [])],
        )
        for run in runs
    ]
    return all(one == told[0] for one in told)


def sheets(runs: Sequence[Run]) -> list[Sheet]:
    """What differs in the settings, and in what came of equal seeds, as tables."""
    named = distinct(runs)
    pieces = [*_settings(named).pieces, *_paired(named).pieces]
    return [piece.sheet for piece in pieces if isinstance(piece, Table)]


def signed(value: Value) -> str:
    """A difference in points, with its sign.

    >>> signed(Value(0.012, 0.003)), signed(Value(-0.5))
    ('+1.2 ± 0.3', '−50.0')
    """
    if math.isnan(value.mean):
        return "-"
    sign = "+" if value.mean > 0 else "−" if value.mean < 0 else "±"
    spread = f" ± {100 * value.spread:.1f}" if value.spread is not None else ""
    return f"{sign}{abs(100 * value.mean):.1f}{spread}"


def _verdict(gains: Sequence[float]) -> str:
    return f"{sum(gain > 0 for gain in gains)} of {len(gains)}" if gains else "-"


def _curves(runs: Sequence[Run], levels: Sequence[plots.Level]) -> Section:
    score = runs[0].score.get("name", "accuracy")
    lines = [plots.Line(run.name, figures.mean_curve(run), f"c{k % SERIES}") for k, run in enumerate(runs)]
    lines = [line for line in lines if line.values]
    if not lines:
        return Section("curves", "Curves", [Text("Nothing was measured.")])
    longest = max(len(line.values) for line in lines)
    rows = [
        [str(i + 1), *(words.percents(line.values[i]) if i < len(line.values) else "-" for line in lines)]
        for i in evenly(longest, ROWS)
    ]
    sheet = Sheet(
        ["tasks learned", *(line.name for line in lines)], rows, f"Mean {score} over the tasks learned, percent"
    )
    about = f"Mean {score} over the tasks learned so far, after each task; a band is the spread over the seeds."
    svg = plots.over_tasks("over-tasks", lines, levels, score, plots.WIDE)
    return Section("curves", "Curves", [Plot(f"{score.capitalize()} over tasks", about, svg, sheet, wide=True)])


def _table(runs: Sequence[Run]) -> Section:
    return Section("figures", "Figures", [Table(comparison(runs, title="What was learned, forgotten and moved"))])


def _matrices(runs: Sequence[Run]) -> Section:
    pieces: list[Piece] = []
    for run in runs[:MATRICES]:
        if any(result.moments for result in run.results.values()):
            score = run.score.get("name", "accuracy")
            held = scores_heat(figures.scores(run, LATER), f"{run.name}: {score} in percent", score)
            pieces.append(Fold(f"{run.name}: {percent(*run.figure('last'))} % at the end", [held]))
    if len(runs) > MATRICES:
        pieces.append(Text(f"The matrices of the first {MATRICES} runs are shown."))
    return Section("matrices", "Matrices", pieces or [Text("Nothing was measured.")])
