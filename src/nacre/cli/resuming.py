"""Going on with whatever lies in a folder."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import BadData
from ..experiment import compared_in, swept_in
from .sweeping import run_sweep
from .work import compare, resume_one


def resume_any(folder: Path) -> None:
    """Go on with a run, a comparison of runs, or a sweep."""
    if not folder.is_dir():
        raise BadData(f"there is no folder {folder}: give that of a run, as `nacre run --out` made it")
    if (several := compared_in(folder)) is not None:
        compare(several, folder)
        return
    if (swept := swept_in(folder)) is not None:
        run_sweep(swept, folder)
        return
    if not (folder / "config.toml").is_file():
        raise BadData(f"{folder} is no run's folder{_held(folder)}")
    resume_one(folder)


def _held(folder: Path) -> str:
    """The runs in a folder that is none itself, in words."""
    held = sorted(p.parent.name for p in folder.glob("*/config.toml"))
    more = ", ..." if len(held) > 5 else ""
    return (
        f"; it holds runs {', '.join(held[:5])}{more}: name one"
        if held
        else ": it has no config.toml; give a folder that `nacre run --out` made"
    )
