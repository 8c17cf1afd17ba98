"""Settings chosen without a look at test rows: a grid of runs scored on validation rows, and the config of the best.

Each point of the grid is an ordinary run in a folder of its own, whose config says on which rows it was scored. The folder of
these folders holds `sweep.json` (what was varied, and how the best is chosen) and at the end `best.toml`: the best point's
config, scored on the test rows again, on the whole stream and with all training rows.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ..core.durable import write_text
from ..core.errors import BadSetting, NacreError, UnknownName, shown
from ..core.run import Run
from ..metrics import Matrix
from .axis import Axis
from .config import Config
from .crew import Row, Told, begin, read_mark, refuse_other, work_off
from .folder import CONFIG, Finished, Folder, slug
from .named import config_of

MARK, BEST, TEST, FORMAT = "sweep.json", "best.toml", "test", "nacre-sweep-1"
MOST = 1000  # runs of a sweep
PRINTABLE = re.compile(r"[^/\\\x00-\x1f]{1,100}")  # names that a run may have
OWN = ("run.name", "run.seeds", "data.tested_on", "stream.first")  # places that no axis may vary
FIGURES = tuple(Matrix().summary())
SMALLER_IS_BETTER = ("forgetting",)


@dataclass
class Point:
    """One choice of values, and what came of it.

    Attributes:
        values: One for each axis.
        run: Its record, as far as it came.
        error: Why it failed, if it did.
    """

    values: tuple[str, ...]
    run: Run
    error: str = ""

    def score(self, by: str) -> tuple[float, float | None]:
        """Mean and spread of a figure over the seeds; NaN where the run failed."""
        return self.run.figure(by) if not self.error and self.run.status == "finished" else (math.nan, None)


@dataclass
class Sweep:
    """A grid of runs.

    Attributes:
        axes: What is varied; the runs are all combinations, the last axis moving fastest.
        configs: A config a run, in that order.
        names: The folder of each.
        select: Which rows they are scored on: "validation", or "first:3" for the validation rows of the first three tasks.
        by: The figure that the best is chosen by: by its mean over the seeds.
        best_differs: What the best point's config holds, at places that were changed for the sweep alone.
        test: Whether the best is then to be run on the test rows, which whoever called `run` does.
    """

    axes: list[Axis]
    configs: list[Config]
    names: list[str]
    select: str
    by: str
    best_differs: dict[str, Any]
    test: bool = False

    @staticmethod
    def over(
        path: str | Path,
        axes: Iterable[str],
        select: str = "validation",
        by: str = "last",
        changes: Iterable[str] = (),
        test: bool = False,
    ) -> Sweep:
        """The sweep of a config file.

        Where the test rows, or the data themselves, are drawn, every seed gets those of the first: what one seed trains on
        is no test row of another.

        Args:
            path: A config file, a run's folder, or the name of a recipe.
            axes: `place=value,value` each.
            select: "validation", or "first:K".
            by: The figure that the best is chosen by.
            changes: `place=value` for every run.
            test: Whether the best is then to be run on the test rows.

        Raises:
            BadSetting: an axis, a value or `select` does not fit.
            UnknownName: there is no such setting, or no such figure.
        """
        if by not in FIGURES:
            raise UnknownName("figure to choose by", by, FIGURES)
        several, changes = [Axis.of(axis) for axis in axes], list(changes)
        if not several:
            raise BadSetting("a sweep varies something: give --over place=value,value")
        _refuse_places([axis.place for axis in several])
        if (count := math.prod(len(axis.values) for axis in several)) > MOST:
            raise BadSetting(f"these axes make {count} runs: at most {MOST} are made; take fewer values")
        plain = config_of(path, changes)
        told = [*changes, *_selecting(select)]
        if not plain.run.threads:
            told.append("run.threads=1")  # whatever runs beside it, a run's bits are the same
        if plain.data.seed is None:
            told.append(f"data.seed={plain.run.seeds[0]}")
        configs, names = [], []
        for number, point in enumerate(product(*(axis.values for axis in several)), 1):
            name = " ".join(f"{axis.name}={value}" for axis, value in zip(several, point, strict=True))
            name = name if PRINTABLE.fullmatch(name) else f"point {number}"
            chosen = [f"{axis.place}={value}" for axis, value in zip(several, point, strict=True)]
            configs.append(config_of(path, [*told, *chosen, f"run.name={json.dumps(name)}"]))
            names.append(f"{number:0{len(str(count))}d}-{slug(name)}"[:60].rstrip("-"))
        before = {
            "run": {"name": plain.run.name, "threads": plain.run.threads},
            "data": {"tested_on": "test"},
            "stream": {"first": plain.stream.first},
        }
        return Sweep(several, configs, names, select, by, before, test)

    def run(self, out: str | Path, workers: int = 1, told: Told | None = None) -> list[Point]:
        """Run every point that is not finished, in its folder below `out`; a failed one does not stop the others.

        Args:
            out: The folder of the runs' folders.
            workers: How many run at a time, each in a process of its own.
            told: Hears how far they are.

        Raises:
            Finished: they are all there, finished.
            BadSetting: a folder there holds something else, another process works in it, or nothing was measured to choose by.
            NacreError: every point failed.
        """
        folder = Folder(out)
        folder.make()
        with folder.alone():
            return self._run(Path(out), workers, told)

    def _run(self, out: Path, workers: int, told: Told | None) -> list[Point]:
        rows = [Row(out / name, config) for name, config in zip(self.names, self.configs, strict=True)]
        self._refuse_other(out, rows)
        begin(rows)
        write_text(out / MARK, json.dumps(self._said(), indent=1) + "\n")
        failed = work_off(rows, workers, told)
        points = self.points(out, failed)
        if len(failed) == len(points):
            raise NacreError(f"every run of the sweep failed; the first: {points[0].error}")
        write_text(out / BEST, self.best(points)[1].to_toml())
        return points

    def points(self, out: str | Path, failed: Mapping[Path, str] | None = None) -> list[Point]:
        """What came of each point, by the records in the folders."""
        found, failed = [], failed or {}
        for name, values in zip(self.names, product(*(axis.values for axis in self.axes)), strict=True):
            place = Path(out) / name
            found.append(Point(values, Run.load(place), failed.get(place, "")))
        return found

    def best(self, points: Sequence[Point]) -> tuple[int, Config]:
        """The place of the best point, the first of equals; and its config for the test rows.

        Raises:
            BadSetting: no point has a figure to choose by.
        """
        sign = -1 if self.by in SMALLER_IS_BETTER else 1
        scores = [sign * point.score(self.by)[0] for point in points]
        if all(map(math.isnan, scores)):
            raise BadSetting(
                f"these runs measure no {self.by}: repeat the command with another --by (their records stay), or see what "
                "stream.evaluate measures"
            )
        place = max(range(len(scores)), key=lambda i: -math.inf if math.isnan(scores[i]) else scores[i])
        return place, self.best_of(self.configs[place])

    def best_of(self, config: Config) -> Config:
        """A point's config for all training rows, the whole stream, and the test rows."""
        tables = config.to_dict()
        for table, settings in self.best_differs.items():
            for key, value in settings.items():
                if value is None:
                    tables[table].pop(key, None)
                else:
                    tables[table][key] = value
        return Config.of(tables)

    def at_edge(self, place: int) -> list[str]:
        """Axes of numbers at whose end a point lies, so that a better value may lie beyond."""
        values = list(product(*(range(len(axis.values)) for axis in self.axes)))[place]
        return [
            axis.place
            for axis, k in zip(self.axes, values, strict=True)
            if len(axis.values) > 2 and axis.in_order() and k in (0, len(axis.values) - 1)
        ]

    def _said(self) -> dict[str, Any]:
        axes = [{"place": axis.place, "values": list(axis.values)} for axis in self.axes]
        told = {"axes": axes, "select": self.select, "by": self.by, "before": self.best_differs, "test": self.test}
        return {"format": FORMAT, **told, "rows": self.names}

    def _refuse_other(self, out: Path, rows: list[Row]) -> None:
        if (out / CONFIG).is_file():
            raise BadSetting(f"{out} holds a run, no sweep: choose another --out")
        if (out / MARK).is_file() and _mark(out)["rows"] != self.names:
            raise BadSetting(f"{out} holds another sweep: choose another --out")
        refuse_other(rows)
        same = (out / BEST).is_file() and _mark(out)["by"] == self.by
        if same and all(Folder(row.place).status() == "finished" for row in rows):
            raise Finished(f"{out} holds this very sweep, finished: see {out / 'sweep.md'} and {out / BEST}")


def swept_in(folder: str | Path) -> Sweep | None:
    """The sweep that was begun in a folder; None where none was.

    Raises:
        BadData: what it says of itself cannot be read.
        BadSetting: one of its runs has no config any more.
    """
    folder = Path(folder)
    if not (folder / MARK).is_file():
        return None
    mark = _mark(folder)
    configs = [Config.load(folder / name) for name in mark["rows"]]
    return Sweep(mark["axes"], configs, mark["rows"], mark["select"], mark["by"], mark["before"], mark["test"])


def _mark(folder: Path) -> dict[str, Any]:
    return read_mark(folder / MARK, FORMAT, _understood)


def _understood(held: dict[str, Any]) -> dict[str, Any]:
    axes = [Axis(str(axis["place"]), tuple(map(str, axis["values"]))) for axis in held["axes"]]
    if held["by"] not in FIGURES or math.prod(len(axis.values) for axis in axes) != len(held["rows"]):
        raise KeyError("rows")
    before = {str(table): dict(settings) for table, settings in held["before"].items()}
    told = {key: held[key] for key in ("rows", "select", "by")}
    return {"axes": axes, **told, "before": before, "test": held["test"] is True}


def _refuse_places(places: list[str]) -> None:
    """See that no place is varied twice, or is one that a sweep sets."""
    for place in places:
        if place in OWN:
            raise BadSetting(f"--over {place}: a sweep sets this itself: vary something else")
        if places.count(place) > 1:
            raise BadSetting(f"--over {place} is given twice: give all its values at once")


def _selecting(select: str) -> list[str]:
    """What `select` changes in a config."""
    kind, sign, count = select.partition(":")
    if kind == "validation" and not sign:
        return ['data.tested_on="validation"']
    if kind == "first" and count.isdecimal() and 0 < len(count) < 7 and int(count):
        return ['data.tested_on="validation"', f"stream.first={int(count)}"]
    raise BadSetting(
        f'--select is "validation", or "first:3" for the validation rows of the first three tasks, not {shown(select)}'
    )
