"""Claims about learning, held against small experiments."""

from __future__ import annotations

import json
from pathlib import Path

import click

from ..core.durable import write_text
from ..core.errors import UnknownName
from ..studies import STUDIES


def run_study(name: str, repeats: int, seed: int, out: Path | None) -> bool:
    """Run a study, tell its verdicts, and write figures and plot where that is asked for; whether every claim holds."""
    if name not in STUDIES:
        raise UnknownName("study", name, STUDIES)
    study = STUDIES[name](repeats=repeats, seed=seed)
    click.echo(study.text())
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / f"{name}.json", json.dumps(study.to_dict(), indent=1) + "\n")
        if study.draw is not None:
            study.draw(study, out / f"{name}.svg")
        click.echo(f"{out}: {name}.json, {name}.svg")
    return study.holds
