"""Sparse deltas from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .exits import Commands

EXAMPLES = """\b
  nacre delta save base/ tuned/ task.safetensors
  nacre delta info task.safetensors
  nacre delta apply base/ task.safetensors model.safetensors
  nacre delta merge base/ a.safetensors b.safetensors --how ties both.safetensors

\b
A model is a .safetensors file, a folder of Hugging Face's form (one file, or several and their index), or the folder
of a run, whose exported model is read."""
DIGITS = 4

path = click.Path(path_type=Path)


@click.group(cls=Commands, epilog=EXAMPLES)
def delta() -> None:
    """What a tuned model has that its base has not, as a small file: save it, lay it on the base, merge several."""


@delta.command()
@click.argument("base", type=path)
@click.argument("new", type=path)
@click.argument("out", metavar="DELTA", type=path)
def save(base: Path, new: Path, out: Path) -> None:
    """Write to DELTA the entries of NEW whose bits differ from those of BASE.

    DELTA ends in .safetensors. Buffers count too; tensors that are new or grew are held whole. The file knows its base by the
    SHA-256 of each tensor.
    """
    from ..deltas import save as write

    _tell(write(base, new, out))


@delta.command()
@click.argument("base", type=path)
@click.argument("delta", type=path)
@click.argument("out", type=path)
def apply(base: Path, delta: Path, out: Path) -> None:
    """Write to OUT the model that DELTA was made of, bit for bit: BASE with the entries of DELTA in place.

    Another base than that of DELTA is refused, and nothing is written.
    """
    from ..deltas import apply as write

    click.echo(f"{write(base, delta, out)}: {base} with {delta}")


@delta.command()
@click.argument("base", type=path)
@click.argument("deltas", metavar="DELTA...", nargs=-1, required=True, type=path)
@click.argument("out", type=path)
@click.option(
    "--how",
    type=click.Choice(["sum", "mean", "max", "arithmetic", "ties"]),
    default="sum",
    show_default=True,
    help="What several moves of one entry make together.",
)
@click.option("--weights", metavar="1,0.5", help="With arithmetic: a factor for each delta; a negative one takes away.")
@click.option("--scale", default=1.0, show_default=True, help="A factor on the merged move.")
@click.option(
    "--share", default=0.2, show_default=True, help="With ties: the share of each delta's moves that it keeps."
)
def merge(
    base: Path, deltas: tuple[Path, ...], out: Path, how: Any, weights: str | None, scale: float, share: float
) -> None:
    """Write to OUT one delta of BASE that several DELTAs of it make together; `apply` then makes a model of it.

    sum and mean add the moves, max takes the one of largest absolute value, arithmetic adds them with weights, ties keeps the
    largest of each, elects a sign for each entry and takes the mean of those that agree.
    """
    from ..deltas import merge as write

    _tell(write(base, deltas, out, how, _numbers(weights), scale, share))


@delta.command()
@click.argument("delta", type=path)
@click.option("--json", "as_json", is_flag=True, help="Print all tensors as JSON, those that did not move too.")
def info(delta: Path, as_json: bool) -> None:
    """Tell what moved in DELTA: how many entries of how many, and how far, tensor by tensor."""
    from ..deltas import Delta

    held = Delta(delta)
    if as_json:
        click.echo(json.dumps({"total": held.total(), "tensors": held.rows()}, indent=1))
        return
    from ..report import Sheet, show

    rows = [_cells(row) for row in held.rows() if row["form"] != "same"]
    show(Sheet(["tensor", "form", "moved", "of", "distance", "relative"], rows, left=2, notes=[_said(held)]))


def _tell(held: Any) -> None:
    click.echo(f"{held.path}: {held.path.stat().st_size:,} bytes; {_said(held)}")


def _said(held: Any) -> str:
    total = held.total()
    return (
        f"{total['moved']:,} of {total['entries']:,} entries moved ({total['share']:.2%}), in {total['changed']} of "
        f"{total['tensors']} tensors"
    )


def _cells(row: dict[str, Any]) -> list[str]:
    far = ["-" if row[key] is None else f"{row[key]:.{DIGITS}g}" for key in ("distance", "relative")]
    return [row["name"], row["form"], f"{row['moved']:,}", f"{row['entries']:,}", *far]


def _numbers(text: str | None) -> list[float] | None:
    from ..core.errors import BadSetting

    if text is None:
        return None
    try:
        return [float(word) for word in text.split(",")]
    except ValueError as error:
        raise BadSetting(f"--weights is a list of numbers such as 1,0.5, not {text!r}") from error
