"""A run's model as a folder for the hub, with its card."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from ..core.durable import write_text
from ..core.run import Run
from ..experiment import to_hub
from ..report import card


def export_run(run: Path, out: Path, seed: int | None) -> None:
    """Write the model and say what was written."""
    record = Run.load(run)
    made = to_hub(run, out, seed)
    write_text(out / "README.md", card(record, asdict(made), seed))
    told = [f"{out}: the model of {record.name}"]
    if made.auto:
        told.append("AutoModel loads its backbone")
    if made.adapters:
        told.append(f"PEFT loads its adapters {', '.join(made.adapters)}")
    told.append("nacre.load loads it with its head; README.md is its card")
    click.echo("; ".join(told))
