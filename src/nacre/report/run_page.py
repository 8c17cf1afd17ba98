"""The page of one run: which sections it has and what they hold."""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..core.run import Result, Run, percent
from . import figures, plots, training_plots, words
from .figures import Grid, Value, evenly, over
from .moved import moved_section
from .pieces import Bar, Callout, Card, Cards, Fold, Heat, Page, Piece, Plot, Section, Share, Side, Table, Text, heat
from .sheet import Sheet
from .sources import environment_section, references_section, settings_section
from .statistics import statistics_section

MATRIX = 40  # rows, and columns, of the matrix
LATER = 25  # likewise, of those of single seeds and of runs that are compared
SEEDS = 12  # that are shown one by one
ROWS = 200  # of a table that only repeats what is drawn


def run_page(run: Run, lines: Sequence[plots.Line] = (), levels: Sequence[plots.Level] = ()) -> Page:
    """The page of a run.

    Args:
        run: The record.
        lines: Curves of bounds, to be drawn beside its accuracy.
        levels: Figures of bounds that are known only for the end.
    """
    sections = [*_measured(run, lines, levels), settings_section(run), environment_section([run])]
    sections += [s for s in (references_section([run]),) if s.pieces]
    problem = words.how_it_stands(run)
    paragraphs = [p for p in (words.what_was_run(run), words.what_came_of_it(run)) if p]
    return Page(
        "Report of a run", run.name, run.status, facts_of(run), paragraphs, [_cards(run)], sections, "run.json", problem
    )


def _measured(run: Run, lines: Sequence[plots.Line], levels: Sequence[plots.Level]) -> list[Section]:
    shape = figures.fullest(run)
    if shape is None or not shape.moments:
        nothing = "Nothing was measured yet" if run.status == "running" else "Nothing was measured"
        return [Section("accuracy", "Accuracy", [Callout(nothing, "Figures come once a first task has been learned.")])]
    parts = [accuracy_section(run, lines, levels), _forgetting(run), _training(run, shape), moved_section(run)]
    return [*parts, statistics_section(run), *_trouble(run), _cost(run)]


def facts_of(run: Run) -> list[str]:
    """Short facts below the title."""
    seeds = f"{words.many(len(run.seeds), 'seed')}: {', '.join(map(str, run.seeds[:8]))}{', …' * (len(run.seeds) > 8)}"
    started = run.started.replace("T", " ")[:16]
    return [f for f in (seeds, f"begun {started}" if started else "", run.versions.get("device", "")) if f]


def _cards(run: Run) -> Cards:
    score = run.score.get("name", "accuracy")
    about = {
        "last": ("Last", f"mean {score} over all tasks, after the last one"),
        "average": ("Average", "the same, averaged over all moments"),
        "learning": ("Learning", "each task just after it was learned"),
        "forgetting": ("Forgetting", "best minus last, of earlier tasks"),
        "moved": ("Moved", "share of entries, in the task with the most motion"),
    }
    cards = []
    for name, (title, meaning) in about.items():
        mean, spread = run.figure(name)
        unit = "" if math.isnan(mean) else "%" if name != "forgetting" else "points"
        said = "–" if math.isnan(mean) else f"{100 * mean:.1f}"
        cards.append(Card(title, said, unit, "" if spread is None else f"± {100 * spread:.1f}", meaning))
    value, _, unit = words.seconds(run.figure("training")[0]).partition(" ")
    cards.append(Card("Training", value, unit, "", "of one seed, testing left out"))
    return Cards(cards)


# -------------------------------------------------------------------------------------------------------------- accuracy


def accuracy_section(run: Run, lines: Sequence[plots.Line], levels: Sequence[plots.Level]) -> Section:
    """The matrix, and the curves that are read off it."""
    score = run.score.get("name", "accuracy")
    several = len(run.results) > 1
    grid = figures.scores(run, MATRIX)
    mine = plots.Line(run.name, figures.mean_curve(run))
    every = [mine, *lines]
    tasks = max(len(line.values) for line in every)
    rows = [
        [str(i + 1), *(words.percents(line.values[i]) if i < len(line.values) else "-" for line in every)]
        for i in evenly(tasks, ROWS)
    ]
    numbers = Sheet(
        ["tasks learned", *(line.name for line in every)], rows, f"Mean {score} over the tasks learned, percent"
    )
    numbers.notes += [f"{level.name}: {words.percents(level.value)} after the last task" for level in levels]
    beside = " Dashed: what it is compared with." if lines or levels else ""
    band = " The band is the spread over the seeds." if several else ""
    curve = Plot(
        f"Mean {score} over the tasks learned so far",
        f"After each task.{band}{beside}",
        plots.over_tasks("over-tasks", every, levels, score),
        numbers,
    )
    tests = Plot(
        "Each task on its own",
        f"{score.capitalize()} on each task's test rows; from the first task in violet to the last in amber.",
        plots.each_task("each-task", grid, score),
    )
    mean = f", mean {'± spread ' if several else ''}over {words.many(len(run.results), 'seed')}" if several else ""
    pieces: list[Piece] = [scores_heat(grid, f"{score.capitalize()} in percent{mean}", score), Side([curve, tests])]
    if several:
        shown = list(run.results)[:SEEDS]
        folds = [scores_heat(figures.scores(run, LATER, s), f"Seed {s}: {score} in percent", score) for s in shown]
        left = len(run.results) - len(shown)
        more = (
            [Text(f"Seeds beyond the first {SEEDS} are left out here ({left}); run.json holds them.")] if left else []
        )
        pieces.append(Fold("Seeds one by one", [_per_seed(run), *folds, *more]))
    return Section("accuracy", score.capitalize(), pieces)


def scores_heat(grid: Grid, title: str, score: str) -> Heat:
    """A matrix of scores."""
    known = [v.mean for row in grid.cells for v in row if not math.isnan(v.mean)]
    low, high = (0.0, 1.0) if "accuracy" in score else (min(known, default=0.0), max(known, default=1.0))
    wide = (high - low) or 1.0
    return heat(
        grid,
        words.percents,
        lambda v: (v - low) / wide,
        title=title,
        about="A row a moment: after that task had been learned. A column a test set. “-” was not measured.",
        corner="after",
        scale="score",
        ends=(percent(low), percent(high)),
    )


def _per_seed(run: Run) -> Table:
    names = ("last", "average", "union", "learning", "forgetting", "backward_transfer", "forward_transfer", "moved")
    rows = [
        [f"seed {seed}", *(percent(run.results[seed].figure(name)) for name in names)]
        for seed in (list(run.results)[k] for k in evenly(len(run.results), ROWS))
    ]
    rows.append(["mean ± spread", *(words.percents(Value(*run.figure(name))) for name in names)])
    return Table(Sheet(["", *(n.replace("_", " ") for n in names)], rows, "Figures of each seed, percent"))


def _forgetting(run: Run) -> Section:
    tasks = figures.by_task(run)
    lost = [t[4] for t in tasks]
    rows = [[t[0], *map(words.percents, t[1:])] for t in (tasks[k] for k in evenly(len(tasks), ROWS))]
    header = ["test set", "when learned", "best", "last", "lost"]
    sheet = Sheet(header, rows, "What each task scored and lost, percent")
    if len(rows) < len(tasks):
        sheet.notes.append(f"{len(rows)} of {len(tasks)} test sets are shown, evenly spread; run.json holds all.")
    if all(math.isnan(v.mean) for v in lost):
        why = "It takes a task that was tested again after another one was learned."
        return Section(
            "forgetting", "Forgetting", [Callout("Nothing that could have been forgotten", why), Table(sheet)]
        )
    some = "" if len(tasks) <= plots.BARS else f" {plots.BARS} of {len(tasks)} tasks are drawn, evenly spread."
    bars = Plot(
        "Points lost by each task",
        f"Best score since it was learned, minus the last one; below zero it got better. The last task has none.{some}",
        plots.forgetting("forgetting", [t[0] for t in tasks], lost),
        sheet,
        wide=True,
    )
    return Section("forgetting", "Forgetting", [bars])


# ---------------------------------------------------------------------------------------------------------- while it trains


def _training(run: Run, shape: Result) -> Section:
    seed = next(s for s, r in run.results.items() if r is shape)
    score = run.score.get("name", "accuracy")
    of = f" Seed {seed}." if len(run.results) > 1 else ""
    pieces: list[Piece] = []
    watch = figures.watch(shape)
    if watch.curves:
        order = [t["name"] for t in shape.tests]
        known = sum(name in watch.curves for name in order)
        some = f" {plots.LINES} of {known} test sets are drawn, evenly spread." if known > plots.LINES else ""
        about = f"Fixed samples of the test sets, scored while training went on. ▲: the lowest point behind a border.{some}{of}"
        svg = training_plots.watching("watch", watch, order, score)
        pieces.append(Plot("What earlier tasks went through", about, svg, _drops(watch), wide=True))
    else:
        pieces.append(
            Text("There were no watch sets; with watch.every = 10 in the config there are curves and drops here.")
        )
    x, y = figures.losses(shape)
    if x:
        about = f"What each stage minimised, noted every ten steps.{of}"
        pieces.append(Plot("Loss", about, training_plots.loss("loss", x, y, watch.borders), _losses(shape), wide=True))
    else:
        pieces.append(Text("No stage took optimizer steps, so there is no loss."))
    return Section("training", "While it trained", pieces)


def _drops(watch: figures.Watch) -> Sheet:
    rows = []
    for drop in (watch.drops[k] for k in evenly(len(watch.drops), ROWS)):
        values = (drop.before, drop.lowest, drop.after)
        rows.append([f"task{drop.task}", *map(percent, values), percent(drop.before - drop.lowest), f"{drop.at:.0f}"])
    header = ["when it began", "before", "lowest", "at its end", "drop", "lowest at step"]
    notes = ["before: when they were scored last; drop: before minus lowest."]
    return Sheet(header, rows, "Mean score of earlier tasks' watch sets behind each border, percent", notes)


def _losses(shape: Result) -> Sheet:
    curves = [c for c in shape.curves.get("loss") or [] if c["loss"]]
    rows = []
    for k in evenly(len(curves), ROWS):
        curve = curves[k]
        ends = [_number(v) for v in (curve["loss"][0], curve["loss"][-1])]
        rows.append(
            [f"task{curve['task']}", str(curve["stage"]), str(curve["steps"]), *ends, _number(max_of(curve["lr"]))]
        )
    return Sheet(["task", "stage", "steps", "first loss", "last loss", "highest rate"], rows, "Loss of each stage")


def max_of(values: Sequence[float | None]) -> float:
    """The largest number that is known; NaN of none."""
    return max((v for v in values if v is not None), default=math.nan)


def _number(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{value:.4g}"


def _trouble(run: Run) -> list[Section]:
    events = [(seed, event) for seed, r in run.results.items() for event in r.nonfinite]
    if not events:
        return []
    keys = ("task", "stage", "step", "tensor", "done", "back_to")
    rows = [
        [str(seed), *("-" if event.get(k) is None else str(event[k]) for k in keys)]
        for seed, event in (events[k] for k in evenly(len(events), ROWS))
    ]
    sheet = Sheet(
        ["seed", *(k.replace("_", " ") for k in keys)], rows, "Where a loss, a gradient or a weight was not finite"
    )
    title = f"NaN or infinity came up {words.many(len(events), 'time')}"
    return [
        Section(
            "nonfinite",
            "NaN and infinity",
            [Callout(title, "What was done goes by on_nonfinite.", "bad"), Table(sheet)],
        )
    ]


# --------------------------------------------------------------------------------------------------- cost


def _cost(run: Run) -> Section:
    kinds = list(dict.fromkeys(kind for r in run.results.values() for kind in r.seconds))
    means = {kind: over(r.seconds.get(kind) for r in run.results.values()).mean for kind in kinds}
    whole = sum(v for v in means.values() if not math.isnan(v))
    shares = [
        Share(kind, words.seconds(means[kind]), 100 * means[kind] / whole, f"c{k % 8}")
        for k, kind in enumerate(kinds)
        if whole and not math.isnan(means[kind])
    ]
    rows = [
        [f"seed {s}", *(words.seconds(r.seconds.get(k, math.nan)) for k in kinds), words.memory(r.peak_memory_bytes)]
        for s, r in (list(run.results.items())[k] for k in evenly(len(run.results), ROWS))
    ]
    sheet = Sheet(["", *kinds, "most memory"], rows, "Time and memory of each seed")
    title = f"{words.seconds(whole)} for a seed, at most {words.memory(run.figure('peak')[0])} of memory"
    return Section("cost", "Time and memory", [Bar(title, shares), Table(sheet)])
