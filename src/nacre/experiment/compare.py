"""Several runs side by side: the comparison that `nacre run` makes where it is given no config.

Each row is an ordinary run in a folder of its own, made of a numbered config in `recipes/` that can be run by itself. The
folder of the rows' folders holds `comparison.json`: their names in order, and the results once there are any.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.durable import write_text
from ..core.errors import BadData, BadSetting, NacreError
from ..core.run import Run
from .config import Config
from .crew import Row, Told, begin, read_mark, refuse_other, work_off
from .folder import CONFIG, Finished, Folder, slug

HERE = Path(__file__).parent
RECIPES = HERE / "recipes"
STORED = HERE / "stored.json"
MARK, FORMAT = "comparison.json", "nacre-comparison-1"


@dataclass
class Comparison:
    """Runs that share data and stream.

    Attributes:
        configs: A config a row, in the order of the table.
        text: What is to be seen, in sentences.
        bounds: Figures measured before and stored: `name`, `last`, `spread`, `seeds`, `command`.
        names: The folder of each row; made of the rows' places and names where it is empty.
    """

    configs: list[Config]
    text: str = ""
    bounds: list[dict[str, Any]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.names = self.names or [f"{i}-{slug(config.run.name)}" for i, config in enumerate(self.configs, 1)]

    def run(self, out: str | Path, workers: int = 1, told: Told | None = None) -> list[Run]:
        """Run every row that is not finished in its folder below `out`; the records in order.

        Args:
            out: The folder of the rows' folders.
            workers: How many rows run at a time, each in a process of its own.
            told: Hears how far the rows are.

        Raises:
            Finished: every row is there, finished, and so is the table.
            BadSetting: a folder there holds a run with other settings.
            NacreError: a row failed; the others have been run to their end.
        """
        rows = [Row(Path(out) / name, config) for name, config in zip(self.names, self.configs, strict=True)]
        folder = Folder(out)
        folder.make()
        with folder.alone():
            self._refuse_other(Path(out), rows)
            begin(rows)
            self.save(out, [])
            failed = work_off(rows, workers, told)
        if failed:
            raise NacreError(
                "; ".join(f"{row.config.run.name}: {failed[row.place]}" for row in rows if row.place in failed)
            )
        return [Run.load(row.place) for row in rows]

    def save(self, out: str | Path, runs: list[Run]) -> None:
        """Write `comparison.json`: which rows there are, and their records once they are finished."""
        tree = {"format": FORMAT, "rows": self.names, "text": self.text, "bounds": self.bounds}
        write_text(Path(out) / MARK, json.dumps({**tree, "runs": [r.to_json() for r in runs]}, indent=1) + "\n")

    def _refuse_other(self, out: Path, rows: list[Row]) -> None:
        if (out / CONFIG).is_file():
            raise BadSetting(f"{out} holds a run, no comparison of runs: choose another --out")
        mark = _mark(out) if (out / MARK).is_file() else None
        if mark is not None and mark["rows"] != self.names:
            raise BadSetting(f"{out} holds another comparison, of {', '.join(mark['rows'])}: choose another --out")
        refuse_other(rows)
        if mark is not None and mark["runs"] and all(Folder(row.place).status() == "finished" for row in rows):
            raise Finished(f"{out} holds this very comparison, finished: see {out / 'comparison.md'}")


def default_comparison(changes: Iterable[str] = ()) -> Comparison:
    """The embedded comparison, with changes to every one of its configs; stored bounds only where nothing was changed."""
    changes = list(changes)
    configs = [Config.load(path, changes) for path in sorted(RECIPES.glob("[0-9]*.toml"))]
    free = ("run.seeds", "run.device", "run.threads", "run.keep", "run.save_every", "run.save_seconds", "watch.")
    same = all(change.strip().startswith(free) for change in changes)
    text = (RECIPES / "about.md").read_text(encoding="utf-8").strip() if same else ""
    return Comparison(configs, text, stored() if same else [])


def compared_in(folder: str | Path) -> Comparison | None:
    """The comparison that was begun in a folder; None where none was.

    Raises:
        BadData: what it says of itself cannot be read.
        BadSetting: one of its rows has no config any more.
    """
    if not (Path(folder) / MARK).is_file():
        return None
    mark = _mark(Path(folder))
    return Comparison(
        [Config.load(Path(folder) / name) for name in mark["rows"]], mark["text"], mark["bounds"], mark["rows"]
    )


def _mark(folder: Path) -> dict[str, Any]:
    return read_mark(folder / MARK, FORMAT, lambda held: {key: held[key] for key in ("rows", "text", "bounds", "runs")})


def stored() -> list[dict[str, Any]]:
    """Bounds of the embedded comparison that were measured before, with seeds and command.

    Raises:
        BadData: the file that holds them is broken.
    """
    if not STORED.is_file():
        return []
    try:
        return list(json.loads(STORED.read_text(encoding="utf-8"))["bounds"])
    except (ValueError, KeyError, TypeError) as error:
        raise BadData(f"{STORED} cannot be read: {error}; install the package again") from error
