"""Several runs side by side: the comparison that `nacre run` makes where it is given no config.

Each row is an ordinary run in a folder of its own, made of a config in `recipes/` that can be run by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from ..core.errors import BadData, NacreError
from ..core.run import Run
from .config import Config
from .experiment import Experiment
from .folder import CONFIG, Folder, slug

HERE = Path(__file__).parent
RECIPES = HERE / "recipes"
STORED = HERE / "stored.json"


@dataclass
class Comparison:
    """Runs that share data and stream.

    Attributes:
        configs: A config a row, in the order of the table.
        text: What is to be seen, in sentences.
        bounds: Figures measured before and stored: `name`, `last`, `spread`, `seeds`, `command`.
    """

    configs: list[Config]
    text: str = ""
    bounds: list[dict[str, Any]] = field(default_factory=list)

    def run(self, out: str | Path, workers: int = 1, told: Callable[[Config, Run], None] | None = None) -> list[Run]:
        """Run every row that is not finished in its folder below `out`; the records in order.

        Args:
            out: The folder of the rows' folders.
            workers: How many rows run at a time, each in a process of its own.
            told: Hears a row's record whenever it has grown by a moment, and once where it is finished already.

        Raises:
            BadSetting: a folder there holds a run with other settings.
            NacreError: a row failed; the others have been run to their end.
        """
        places = [Path(out) / f"{i}-{slug(config.run.name)}" for i, config in enumerate(self.configs, 1)]
        for place, config in zip(places, self.configs, strict=True):
            if not (place / CONFIG).is_file():
                Folder(place).refuse_other(config)
                Folder(place).begin(config)
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            rows = [_Row(place, config) for place, config in zip(places, self.configs, strict=True)]
            for row in sorted(rows, key=_Row.epochs, reverse=True):  # the longest first, so that none is left over
                row.work = None if Folder(row.place).status() == "finished" else pool.submit(_go_on, row.place)
            while True:
                working = [row for row in rows if row.work is not None and not row.work.done()]
                for row in rows:
                    row.tell(told)
                if not working:
                    break
                wait([row.work for row in working if row.work is not None], timeout=1.0, return_when=FIRST_COMPLETED)
        failed = [f"{row.config.run.name}: {error}" for row in rows if row.work and (error := row.work.result())]
        if failed:
            raise NacreError("; ".join(failed))
        return [Run.load(place) for place in places]


@dataclass
class _Row:
    """A run on its way in another process, seen through its folder."""

    place: Path
    config: Config
    work: Future[str] | None = None
    moments: int = 0

    def epochs(self) -> float:
        """About how long the row takes: epochs that it trains on the average task, replay counted double."""
        stages = [s for s in self.config.stage if s.optimizer is not None]
        share = [0.1 if s.when == "first" else 1.0 for s in stages]
        twice = [2.0 if any("memory" in m for m in s.methods) else 1.0 for s in stages]
        return sum(s.epochs * a * b for s, a, b in zip(stages, share, twice, strict=True))

    def tell(self, told: Callable[[Config, Run], None] | None) -> None:
        if told is None or not Folder(self.place).status():
            return
        record = Run.load(self.place)
        moments = sum(len(result.moments) for result in record.results.values())
        if moments > self.moments:
            self.moments = moments
            told(self.config, record)


def _go_on(place: Path) -> str:
    """Run a row, in a process of its own; what went wrong, or nothing."""
    try:
        Experiment(Config.load(place)).resume(place)
    except (NacreError, OSError, MemoryError) as error:
        return str(error)
    return ""


def default_comparison(changes: Iterable[str] = ()) -> Comparison:
    """The embedded comparison, with changes to every one of its configs; stored bounds only where nothing was changed."""
    changes = list(changes)
    configs = [Config.load(path, changes) for path in sorted(RECIPES.glob("*.toml"))]
    free = ("run.seeds", "run.device", "run.threads", "run.keep", "run.save_every", "watch.")
    same = all(change.strip().startswith(free) for change in changes)
    text = (RECIPES / "about.md").read_text(encoding="utf-8").strip() if same else ""
    return Comparison(configs, text, stored() if same else [])


def compared_in(folder: str | Path) -> Comparison | None:
    """The comparison whose runs lie in a folder; None where there is none."""
    places = sorted(p.parent for p in Path(folder).glob(f"*/{CONFIG}"))
    if not places or (Path(folder) / CONFIG).exists():
        return None
    given = default_comparison()
    held = [Config.load(place) for place in places]
    same = [c.to_dict() for c in held] == [c.to_dict() for c in given.configs]
    return Comparison(held, given.text if same else "", given.bounds if same else [])


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
