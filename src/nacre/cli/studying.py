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
        written = [f"{name}.json"]
        write_text(out / written[0], json.dumps(study.to_dict(), indent=1) + "\n")
        if study.draw is not None:
            written.append(f"{name}.svg")
            study.draw(study, out / written[1])
        click.echo(f"{out}: {', '.join(written)}")
    return study.holds
