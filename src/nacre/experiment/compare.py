"""Several runs side by side: the comparison that `nacre run` makes where it is given no config.

Each row is an ordinary run in a folder of its own, made of a config in `recipes/` that can be run by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..core.errors import BadData
from ..core.run import Run
from ..learner import Listener
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

    def run(self, out: str | Path, hearing: Callable[[Config], Listener] | None = None) -> list[Run]:
        """Run every row that is not finished in its folder below `out`; the records in order.

        Args:
            out: The folder of the rows' folders.
            hearing: Makes the listener of a row.

        Raises:
            BadSetting: a folder there holds a run with other settings.
        """
        places = [Path(out) / f"{i}-{slug(config.run.name)}" for i, config in enumerate(self.configs, 1)]
        for place, config in zip(places, self.configs, strict=True):
            if not (place / CONFIG).is_file():
                Folder(place).refuse_other(config)
                Folder(place).begin(config)
        runs = []
        for place, config in zip(places, self.configs, strict=True):
            if Folder(place).status() == "finished":
                runs.append(Run.load(place))
                continue
            runs.append(Experiment(config).resume(place, *([hearing(config)] if hearing is not None else [])))
        return runs


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
