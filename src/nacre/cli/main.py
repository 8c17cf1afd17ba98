"""The commands of `nacre`. Nothing heavy is imported until a command needs it.

It is over 300 lines because every command with its options is declared in one place.
"""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from .deltas import delta
from .exits import CODES, FAILED, Commands

F = TypeVar("F", bound=Callable[..., Any])


def _version(ctx: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        click.echo(f"nacre {version('nacre')}")
        ctx.exit()


@click.group(cls=Commands, epilog=CODES, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
@click.option("--debug", is_flag=True, help="Show where an error happened.")
def cli(debug: bool) -> None:
    """Continual learning for pre-trained models: what was learned, what was forgotten, how far what moved."""
    import logging

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter shows "?"
    logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.DEBUG if debug else logging.WARNING)


def _plugins(ctx: click.Context, _: click.Parameter, names: tuple[str, ...]) -> None:
    if names:
        from ..catalogue import import_plugins

        import_plugins(names)


plugin = click.option(
    "--plugin",
    multiple=True,
    metavar="MODULE",
    expose_value=False,
    callback=_plugins,
    help="Import this Python module first, so that its parts can be named as MODULE:Class; several are given one by one.",
)

EXAMPLES = """\b
  nacre run                                     the comparison on drawn glyphs, some minutes
  nacre run my.toml --set stage.0.epochs=5      one experiment
  nacre run my.toml --seeds 0,1,2 --out runs/a  three seeds, in this folder
  nacre run recipe:banking77 --data DIR         a published setting, over the data in DIR"""


@cli.command(epilog=EXAMPLES)
@click.argument("config", required=False, type=click.Path(path_type=Path))
@click.option(
    "--set", "changes", multiple=True, metavar="PLACE=VALUE", help="Change a setting, such as stage.0.epochs=5."
)
@click.option("--out", type=click.Path(path_type=Path), help="The run's folder; by default runs/NAME-DATE-TIME.")
@click.option("--seeds", metavar="0,1,2", help="Several give mean and spread; the same as --set run.seeds=[0,1,2].")
@click.option("--device", help='"auto", "cpu", "cuda"; the same as --set run.device=...')
@click.option("--data", metavar="SOURCE", help="A name or a path; the same as --set data.source=...")
@click.option("--backbone", metavar="SOURCE", help="A name, folder or hub id; the same as --set backbone.source=...")
@plugin
def run(
    config: Path | None,
    changes: tuple[str, ...],
    out: Path | None,
    seeds: str | None,
    device: str | None,
    data: str | None,
    backbone: str | None,
) -> None:
    """Run what CONFIG says: a TOML file or recipe:NAME; without one, the embedded comparison."""
    from .work import run_comparison, run_one

    said = [*changes, *_said(seeds, device, data, backbone)]
    if config is None:
        run_comparison(said, out)
    else:
        run_one(config, said, out)


def _said(seeds: str | None, device: str | None, data: str | None, backbone: str | None) -> list[str]:
    """The changes that these options mean."""
    given = {"run.device": device, "data.source": data, "backbone.source": backbone}
    return [*(f"{place}={json.dumps(value)}" for place, value in given.items() if value is not None), *_seeds(seeds)]


def _seeds(text: str | None) -> list[str]:
    """The change that `--seeds` means."""
    from ..core.errors import BadSetting

    if text is None:
        return []
    if not all(s.strip().isdecimal() and len(s) < 20 for s in text.split(",")):
        raise BadSetting(f"--seeds is a list of whole numbers such as 0,1,2, not {text!r}")
    return [f"run.seeds={[int(s) for s in text.split(',')]}"]


SWEEPS = """\b
  nacre sweep my.toml --over stage.0.methods.0.strength=1,10,100
  nacre sweep my.toml --over stage.0.optimizer.lr=0.01,0.1 --over stage.0.epochs=1,5 --select first:3 --seeds 0,1,2 --test"""


@cli.command(epilog=SWEEPS)
@click.argument("config", type=click.Path(path_type=Path))
@click.option(
    "--over",
    "axes",
    multiple=True,
    required=True,
    metavar="PLACE=V,V",
    help="A setting and its values; several: all pairs.",
)
@click.option(
    "--select",
    default="validation",
    show_default=True,
    help='Rows to be judged on: "validation", or "first:3", those of the first three tasks; never test rows.',
)
@click.option("--by", default="last", show_default=True, help="The figure whose mean over the seeds decides.")
@click.option("--set", "changes", multiple=True, metavar="PLACE=VALUE", help="Change a setting of every run.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="The sweep's folder; by default runs/NAME-sweep-DATE-TIME."
)
@click.option("--seeds", metavar="0,1,2", help="Several give mean and spread.")
@click.option("--device", help='"auto", "cpu", "cuda"; the same as --set run.device=...')
@click.option("--data", metavar="PATH", help="The data; the same as --set data.source=PATH.")
@click.option("--backbone", metavar="NAME", help="The backbone; the same as --set backbone.source=NAME.")
@click.option("--workers", type=click.IntRange(min=1), help="Runs at a time; by default one a core, on a GPU one.")
@click.option("--test", is_flag=True, help="Then run the best on the test rows, with all training rows.")
@plugin
def sweep(
    config: Path,
    axes: tuple[str, ...],
    select: str,
    by: str,
    changes: tuple[str, ...],
    out: Path | None,
    seeds: str | None,
    device: str | None,
    data: str | None,
    backbone: str | None,
    workers: int | None,
    test: bool,
) -> None:
    """Choose settings of CONFIG, a TOML file or recipe:NAME, without a look at test rows.

    All combinations of values are run, and the best is named.
    Each run is scored on validation rows (the data's own, or a tenth of the training rows). The best config is written to
    best.toml, set to be trained on all training rows and scored on the test rows.
    """
    from ..experiment import Sweep
    from .sweeping import run_sweep

    said = [*changes, *_said(seeds, device, data, backbone)]
    run_sweep(Sweep.over(config, axes, select, by, said, test), out, workers)


@cli.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@plugin
def resume(folder: Path) -> None:
    """Go on with the run, comparison or sweep in DIR from the newest checkpoint, as if it had never stopped."""
    from .resuming import resume_any

    resume_any(folder)


REPORTS = """\b
  nacre report runs/a                           tables on the terminal
  nacre report runs/a --html                    the page, in runs/a/report.html
  nacre report runs/a --html a.html --bound runs/joint --bound runs/fine-tuning
  nacre report runs/a --latex > table.tex       tables for a paper; --markdown, --csv likewise"""


def _formed(command: F) -> F:
    """The options that say in which form runs are told."""
    for option in (
        click.option("--latex", "form", flag_value="latex", help="Print the tables for LaTeX, with booktabs."),
        click.option("--markdown", "form", flag_value="markdown", help="Print the tables as markdown."),
        click.option("--csv", "form", flag_value="csv", help="Print scores, figures and motion, one number a line."),
        click.option("--html", "page", is_flag=False, flag_value="", metavar="[FILE]", help="Write a page."),
    ):
        command = option(command)
    return command


@cli.command(epilog=REPORTS)
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@_formed
@click.option(
    "--bound",
    "bounds",
    multiple=True,
    metavar="DIR",
    type=click.Path(path_type=Path),
    help="A run to draw the accuracy against in the page, such as a joint training; several are given one by one.",
)
def report(folder: Path, page: str | None, form: str | None, bounds: tuple[Path, ...]) -> None:
    """Tell what came of the run in DIR, or of the comparison in it: from run.json alone.

    --html writes one page that needs neither network nor other files, by default DIR/report.html; the other forms are
    printed.
    """
    from .reporting import report as tell

    tell(folder, page, form, bounds)


COMPARISONS = """\b
  nacre compare runs/a runs/b                   tables on the terminal
  nacre compare runs/a runs/b runs/c --html     the page, in ./compare.html"""


@cli.command(epilog=COMPARISONS)
@click.argument("folders", metavar="DIR DIR...", nargs=-1, required=True, type=click.Path(path_type=Path))
@_formed
def compare(folders: tuple[Path, ...], page: str | None, form: str | None) -> None:
    """Tell several runs side by side: settings that differ, seeds in pairs, curves, figures.

    The first is what the others are compared with. --html writes one page, by default ./compare.html.
    """
    from .reporting import compare_folders

    compare_folders(folders, page, form)


@cli.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
def watch(folder: Path) -> None:
    """Look on while the run in DIR works, from another terminal; ends when it ends. Ctrl-C ends the view, not the run."""
    from .watching import watch as follow

    follow(folder)


@cli.command()
@click.argument("folder", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--top", default=1, show_default=True, type=click.IntRange(min=1), help="How many classes to name.")
@click.option("--task", type=int, help="The task that the rows come from, for models trained with tasks told.")
@click.option(
    "--text", metavar="COLUMN", help="The column of the texts in tables; by default the names of columns tell."
)
@click.option("--device", default="cpu", show_default=True, help="Where to run.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["lines", "table", "csv", "jsonl"]),
    default="lines",
    show_default=True,
    help="How answers are written.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format jsonl.")
@plugin
def predict(
    folder: Path,
    files: tuple[Path, ...],
    top: int,
    task: int | None,
    text: str | None,
    device: str,
    form: Any,
    as_json: bool,
) -> None:
    """Name the classes of FILES by the model in DIR, a run's folder or an export.

    FILES are pictures (png, jpg, ...), folders of them, or arrays of rows: .npy, .npz (its x, x_test or only array), idx (gz
    or not). For a model of texts they are .txt, a text a line, tables (.csv, .tsv, .json, .jsonl, .parquet), or - for lines
    that come in by a pipe. What cannot be read is named and left out.
    """
    from .predicting import predict_files

    predict_files(folder, files, top, task, device, "jsonl" if as_json else form, text)


@cli.command()
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("out", metavar="OUT", type=click.Path(path_type=Path))
@click.option("--seed", type=int, help="Of several seeds, which; by default the first.")
@plugin
def export(run: Path, out: Path, seed: int | None) -> None:
    """Write the model of RUN to the new folder OUT in the hub's form, with a model card.

    A transformers backbone is loaded by AutoModel, its adapters by PEFT, and all of it with its head by nacre.load. The card
    tells the method, the data, the matrix, what moved and the limits, as the record says them.
    """
    from .exporting import export_run

    export_run(run, out, seed)


cli.add_command(delta)


@cli.command()
@click.option("--clear", is_flag=True, help="Delete all of it.")
def cache(clear: bool) -> None:
    """Show the features that frozen backbones gave and that are kept on disk, so that heads need not wait for them again.

    They lie in $NACRE_CACHE, by default in the user's cache folder; the oldest go once there are 4 GiB of them.
    """
    from .telling import show_cache

    show_cache(clear)


@cli.command("list")
@click.argument("kind", required=False)
@plugin
def list_(kind: str | None) -> None:
    """List what there is: all, or one KIND such as methods, streams, backbones, data, optimizers, recipes."""
    from .telling import list_parts

    list_parts(kind)


@cli.command()
@click.argument("name")
@plugin
def show(name: str) -> None:
    """Say what NAME is: its paper, how faithful it is, its settings and their meaning.

    `show config` tells of the config, `show recipe:NAME` of a recipe: its data, what is published, its config.
    """
    from .telling import show_part

    show_part(name)


CHECKS = """\b
  nacre check my_module:MyMethod                every check that applies, on every instance of its examples()
  nacre check my_module.py                      every method, rule and memory that the file defines
  nacre check EWC --only resumes_exactly,grows  one of ours, by its name"""


@cli.command(epilog=CHECKS)
@click.argument("names", metavar="PART...", nargs=-1, required=True)
@click.option("--only", metavar="CHECK,CHECK", help="Some checks, by name.")
@click.option("--seed", default=0, show_default=True, help="Seeds the worlds and the choice of steps.")
@click.option("--fast", is_flag=True, help="Leave out what compiles a model or starts several processes.")
def check(names: tuple[str, ...], only: str | None, seed: int, fast: bool) -> None:
    """Prove that PART keeps the contract: it resumes exactly, grows, composes, does not peek, and so on.

    PART is `module:Class`, a file, or a method of ours. What it names is imported. Exit code 1 says that a check fails.
    """
    import logging

    from .checking import check_parts

    chosen = [name.strip() for name in only.split(",")] if only else []
    logger = logging.getLogger("nacre")
    level = logger.level
    logger.setLevel(logging.ERROR)  # checks do on purpose what is warned of
    try:
        good = check_parts(names, chosen, seed, fast)
    finally:
        logger.setLevel(level)
    if not good:
        sys.exit(FAILED)


@cli.command()
@click.argument("name", default="update-magnitude")
@click.option("--repeats", type=click.IntRange(min=2), default=200, show_default=True, help="Repeats of a setting.")
@click.option("--seed", default=0, show_default=True, help="Seeds all draws.")
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write figures (JSON) and the plot (SVG) into this folder."
)
def study(name: str, repeats: int, seed: int, out: Path | None) -> None:
    """Hold a theory against a simulation, claim by claim: NAME is update-magnitude, how far to move for a new task.

    Exit code 1 says that a claim does not hold.
    """
    from .studying import run_study

    if not run_study(name, repeats, seed, out):
        sys.exit(FAILED)


def main() -> None:
    """The entry point of the command `nacre`."""
    cli()


if __name__ == "__main__":
    main()
