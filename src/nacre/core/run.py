"""The record of a run: what was set, what was measured and when, how far what moved, and what it cost.

A record is plain values and is kept as `run.json`. For one seed a key holds the value itself; for several it holds one entry a
seed, and where it holds numbers also their `mean` and `spread`, the sample standard deviation over the seeds.
"""

from __future__ import annotations

import io
import json
import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from .durable import write_text
from .errors import BadData

FORMAT = "nacre-run-1"
FILE = "run.json"
MEASURED = ("seconds", "peak_memory_bytes", "versions", "started")
"""Keys of a record that differ between two equal runs: clocks, memory, machines."""
AVERAGED = ("matrix", "summary", "motion", "seconds", "peak_memory_bytes")
NAN = math.nan
SHOWN = 40  # moments that are printed one by one


@dataclass
class Result:
    """What one seed gave.

    Attributes:
        data: Digest and sizes of the rows, and what the source says of itself.
        moments: Names of the moments of measurement, in order; a task's moment is when it had been learned.
        tests: The test sets: `name`, `rows`, and `learned`, the moment at which its task had been learned.
        matrix: Scores, a row a moment and a column a test set; NaN where none was taken.
        curves: `loss`: learning rate and loss over the steps; `watch`: scores of the watch sets over the steps.
        summary: Figures read off the matrix, by name.
        motion: Moment -> what had moved since its task began: `total`, and `tensors` by name.
        stale: Moment -> tasks that were answered with statistics of another backbone.
        drift: Task -> how well the statistics of earlier tasks could be taken along when it had moved the backbone: `rows` seen
            before and after, their mean `cosine`, the share of the squared drift of classes left out that the map `explained`,
            `r2`, the same around its mean, and what was chosen.
        rest: For each stage (`task`, `stage`) how many `entries` it trained, how many of these were `asked` to rest at each of
            its steps, and how many of those `moved` all the same.
        nonfinite: Where a loss, a gradient or a weight became NaN or infinite, which tensor was the first, and what was done.
        seconds: Time of `training`, `evaluation` and `saving`.
        peak_memory_bytes: The most memory used.
    """

    data: dict[str, Any] = field(default_factory=dict)
    moments: list[str] = field(default_factory=list)
    tests: list[dict[str, Any]] = field(default_factory=list)
    matrix: list[list[float]] = field(default_factory=list)
    curves: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, float] = field(default_factory=dict)
    motion: dict[str, Any] = field(default_factory=dict)
    stale: dict[str, list[int]] = field(default_factory=dict)
    drift: dict[str, dict[str, float]] = field(default_factory=dict)
    rest: list[dict[str, int]] = field(default_factory=list)
    nonfinite: list[dict[str, Any]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0

    def figure(self, name: str) -> float:
        """One number by its name: a summary's, `moved` or `relative` (the most in any task), `stale`, `training`, `peak`."""
        if name in self.summary:
            return self.summary[name]
        if name in ("moved", "relative"):
            found = (row["total"][name] for row in self.motion.values())
            return max((v for v in found if v is not None and not math.isnan(v)), default=NAN)  # a saved NaN is None
        if name == "stale":
            return float(len(self.stale[self.moments[-1]])) if self.moments and self.stale else NAN
        if name in ("training", "evaluation", "saving"):
            return self.seconds.get(name, NAN)
        return float(self.peak_memory_bytes or NAN) if name == "peak" else NAN


PER_SEED = tuple(f.name for f in fields(Result))


@dataclass
class Run:
    """The record of an experiment, over all its seeds.

    Attributes:
        name: The run's name.
        status: `running`, `finished`, `failed` or `interrupted`.
        settings: The whole config, as run.
        stages: Each stage with every setting of its methods, optimizer and schedule.
        versions: Of Python, Nacre and the packages that numbers depend on.
        seeds: In order.
        score: Its `name`, and whether the `higher` or the `lower` is `better`.
        papers: Method -> where it comes from.
        fidelity: Method -> how sure we are that it is what was published.
        results: Seed -> what it gave.
        started: When the run was begun.
        error: Why it failed, if it did.

    >>> run = Run("demo", seeds=[0, 1])
    >>> run.results = {s: Result(summary={"last": value}) for s, value in ((0, 0.5), (1, 0.75))}
    >>> run.figure("last")[0], run.to_json()["summary"]["mean"]
    (0.625, {'last': 0.625})
    """

    name: str
    status: str = "running"
    settings: dict[str, Any] = field(default_factory=dict)
    stages: list[dict[str, Any]] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)
    score: dict[str, str] = field(default_factory=lambda: {"name": "accuracy", "better": "higher"})
    papers: dict[str, str] = field(default_factory=dict)
    fidelity: dict[str, str] = field(default_factory=dict)
    results: dict[int, Result] = field(default_factory=dict)
    started: str = ""
    error: str = ""

    def figure(self, name: str) -> tuple[float, float | None]:
        """The mean of a figure over the seeds, and its spread; None for one seed. Names: see `Result.figure`."""
        values = [r.figure(name) for r in self.results.values()]
        values = [v for v in values if not math.isnan(v)]
        mean = statistics.fmean(values) if values else NAN
        return mean, statistics.stdev(values) if len(values) > 1 else None

    def to_json(self) -> dict[str, Any]:
        """Plain values, NaN as None."""
        alone = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "results"}
        return _plain({"format": FORMAT, **alone, **{key: self._over_seeds(key) for key in PER_SEED}})

    def repeatable(self) -> dict[str, Any]:
        """The record without what differs between two equal runs: clocks, memory, versions."""
        return {key: value for key, value in self.to_json().items() if key not in MEASURED}

    @staticmethod
    def from_json(saved: Any) -> Run:
        """The record that `to_json` gave.

        Raises:
            BadData: it has another format.
        """
        found = saved.get("format") if isinstance(saved, dict) else type(saved).__name__
        if found != FORMAT:
            raise BadData(
                f"a run record has format {FORMAT!r}, this one has {found!r}: is it a run.json of this version?"
            )
        run = Run(**{f.name: saved[f.name] for f in fields(Run) if f.name != "results" and f.name in saved})
        for seed in run.seeds:
            here = saved if len(run.seeds) == 1 else {k: saved[k].get(str(seed)) for k in PER_SEED if k in saved}
            held: dict[str, Any] = {k: here[k] for k in PER_SEED if k in here}
            if held["moments"] is not None:
                held["matrix"] = [[NAN if v is None else float(v) for v in row] for row in held["matrix"]]
                held["summary"] = {k: NAN if v is None else float(v) for k, v in held["summary"].items()}
                run.results[seed] = Result(**held)
        return run

    @staticmethod
    def load(folder: str | Path) -> Run:
        """The record in a run's folder.

        Raises:
            BadData: there is none, or it cannot be read.
        """
        path = Path(folder) / FILE if Path(folder).is_dir() else Path(folder)
        if not path.is_file():
            raise BadData(f"{folder} holds no {FILE}: give the folder of a run, as `nacre run --out` made it")
        try:
            run = Run.from_json(json.loads(path.read_text(encoding="utf-8")))
            run.table()  # what cannot be shown is no record
            return run
        except BadData:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, OSError) as error:
            raise BadData(f"{path} cannot be read ({error}): resume the run, which writes it anew") from error

    def save(self, folder: str | Path) -> None:
        """Write `run.json`, whole or not at all.

        Raises:
            NotSaved: the disk is full, or cannot be written to.
        """
        text = io.StringIO()  # as text a record is small, in the pieces that json makes of it a hundred times larger
        json.dump(self.to_json(), text, indent=1, allow_nan=False)
        write_text(Path(folder) / FILE, text.getvalue() + "\n")

    def table(self) -> Text:
        """The run in a few lines of plain text: the first seed's scores and the summary over all seeds."""
        seeds = f"seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"
        lines = [f"{self.name} ({self.status}, {seeds}): {self.score['name']} in percent"]
        first = next(iter(self.results.values()), None)
        if first is not None:
            header = ["", *(t["name"] for t in first.tests)]
            rows = [[m, *map(percent, row)] for m, row in zip(first.moments, first.matrix, strict=True)]
            if len(rows) > SHOWN:
                rows[2:-2] = [["..."] * len(header)]
            lines += [aligned([header, *rows]), ""]
            lines += [", ".join(f"{n.replace('_', ' ')} {percent(*self.figure(n))}" for n in [*first.summary, "moved"])]
        return Text("\n".join(lines))

    def _over_seeds(self, key: str) -> Any:
        if len(self.seeds) == 1:
            held = self.results.get(self.seeds[0])
            return getattr(held if held is not None else Result(), key)
        values = {str(seed): getattr(r, key) for seed, r in self.results.items()}
        if key in AVERAGED and len(values) == len(self.seeds) > 1:
            each = list(values.values())
            values |= {"mean": _over(statistics.fmean, each), "spread": _over(statistics.stdev, each)}
        return values


class Text(str):
    """Text that a Python prompt shows as it reads."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


def percent(value: float, spread: float | None = None) -> str:
    """A share in percent with one decimal; "-" for what was not measured.

    >>> percent(0.7344), percent(0.5, 0.0123), percent(math.nan)
    ('73.4', '50.0 ± 1.2', '-')
    """
    if math.isnan(value):
        return "-"
    return f"{100 * value:.1f}" + (f" ± {100 * spread:.1f}" if spread is not None else "")


def aligned(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows of cells as columns of plain text, the first `left` flush left and the others flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = enumerate(zip(row, widths, strict=True))
        lines.append("  ".join(c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in cells).rstrip())
    return "\n".join(lines)


def _over(use: Any, values: list[Any]) -> Any:
    """One structure out of several alike, `use` being asked about the numbers at each place; None where one is missing."""
    if all(isinstance(v, dict) for v in values):
        return {k: _over(use, [v[k] for v in values]) for k in values[0] if all(k in v for v in values)}
    if all(isinstance(v, list) for v in values) and len({len(v) for v in values}) == 1:
        return [_over(use, list(held)) for held in zip(*values, strict=True)]
    numbers = [v for v in values if isinstance(v, (int, float)) and math.isfinite(v)]
    return use([float(n) for n in numbers]) if len(numbers) == len(values) else None


def _plain(value: Any) -> Any:
    match value:
        case Result():
            return {key: _plain(getattr(value, key)) for key in PER_SEED}
        case dict():
            return {str(k): _plain(v) for k, v in value.items()}
        case list() | tuple():
            return [_plain(v) for v in value]
        case float() if not math.isfinite(value):
            return None
    return value
