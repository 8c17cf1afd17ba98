"""What the command line refuses, and the exit code with which it leaves."""

from __future__ import annotations

import click
import numpy as np

from nacre.cli import work
from nacre.core.run import Run
from tests.errors.row import Place, Row
from tests.errors.rows_files import npy, npz

SMALL = '[backbone]\nsource = "mlp:64-16"\n[[stage]]\nmethods = ["SimpleCIL"]\n'


def small(at: Place, *words: str) -> None:
    """Run a small config."""
    at.command("run", at.write("small.toml", SMALL), *words)


COMPARED = '{"format": "nacre-comparison-1", "rows": [], "text": "", "bounds": [], "runs": []}'


def vast() -> Run:
    """A record with more settings than a page can hold."""
    return Run("a", "finished", {"run": {f"setting {k}": "x" * 250 for k in range(20_000)}}, seeds=[0])


def taken(at: Place) -> None:
    """As if every name of a folder were taken."""
    at.patch.chdir(at.folder)
    work.folder_for("run", exists=lambda path: True)


def known(at: Place, name: str, content: bytes = b"") -> None:
    """Ask a model that was trained on digits."""
    small(at, "--out", str(at / "run"))
    at.command("predict", at / "run", at.write(name, content) if content else at / name)


COMMANDS = [
    Row(
        "a command that there is not",
        2,
        "Error: No such command 'rnu'.…",
        lambda at: at.command("rnu"),
    ),
    Row(
        "a config that there is not",
        2,
        "the config PATH/gone.toml cannot be read: …: give a TOML file, or a run's folder",
        lambda at: at.command("run", at / "gone.toml"),
    ),
    Row(
        "seeds that are no numbers",
        2,
        "--seeds is a list of whole numbers such as 0,1,2, not 'a'",
        lambda at: small(at, "--seeds", "a"),
    ),
    Row(
        "data that are not there",
        1,
        "data: there is nothing at './gone.npz' (looked for PATH/gone.npz): give one of …",
        lambda at: small(at, "--set", "data.source=./gone.npz"),
    ),
    Row(
        "a package that is not installed",
        2,
        "backbone: the backbone 'timm:vit' needs the package 'timm', which is not installed: pip install "
        "'nacre[vision]'",
        lambda at: (
            at.patch.setitem(__import__("sys").modules, "timm", None),
            small(at, "--set", "backbone.source=timm:vit"),
        ),
    ),
    Row(
        "a kind of part that there is not",
        2,
        "unknown kind of part 'metods': did you mean 'methods'? known are …",
        lambda at: at.command("list", "metods"),
    ),
    Row(
        "a part that there is not",
        2,
        "unknown part 'ewcc': did you mean 'EWC'? known are …",
        lambda at: at.command("show", "ewcc"),
    ),
    Row(
        "a plugin that there is not",
        2,
        "--plugin no_such_module_here: there is no module 'no_such_module_here' in the present folder or "
        "among what is installed",
        lambda at: at.command("list", "--plugin", "no_such_module_here"),
    ),
    Row(
        "a run's folder that there is not",
        1,
        "there is no folder PATH/gone: give that of a run, as `nacre run --out` made it",
        lambda at: at.command("resume", at / "gone"),
    ),
    Row(
        "a folder that is no run's",
        1,
        "PATH is no run's folder: it has no config.toml; give a folder that `nacre run --out` made",
        lambda at: at.command("resume", at.folder),
    ),
    Row(
        "a run that is finished",
        3,
        "PATH/run holds a finished run: see PATH/run/run.json",
        lambda at: (small(at, "--out", str(at / "run")), at.command("resume", at / "run")),
    ),
    Row(
        "a picture that there is not",
        1,
        "there is no file PATH/gone.png: give pictures, .npy, .npz or idx files, texts, or a folder of pictures",
        lambda at: known(at, "gone.png"),
    ),
    Row(
        "no array of rows",
        1,
        "PATH/a.npz holds a, b: name its rows x",
        lambda at: known(at, "a.npz", npz(a=npy([0]), b=npy([0]))),
    ),
    Row(
        "rows that are no numbers",
        1,
        "PATH/a.npy holds <U1: save rows as numbers",
        lambda at: known(at, "a.npy", npy(np.array(["a"]))),
    ),
    Row(
        "a report of a folder without a run",
        1,
        "PATH holds no run.json: give the folder of a run, as `nacre run --out` made it",
        lambda at: at.command("report", at.folder),
    ),
    Row(
        "a report of a comparison of which nothing has begun",
        1,
        "none of the runs in PATH has a record yet: wait until one has begun",
        lambda at: (at.write("comparison.json", COMPARED), at.command("report", at.folder, "--html")),
    ),
    Row(
        "a page in the place of a folder",
        2,
        "--html takes a file, and PATH is a folder: say --html behind the folders, or name a file",
        lambda at: (Run("a", seeds=[0]).save(at.folder), at.command("report", "--html", at.folder, at.folder)),
    ),
    Row(
        "a comparison of one run",
        2,
        "nacre compare takes two folders or more, not 1: for one, use nacre report",
        lambda at: at.command("compare", at.folder),
    ),
    Row(
        "a page of more than 5 MB",
        1,
        "the page of 'a' would have … MiB, and 5 are the most: shorten the names of its tasks, classes or tensors, or use "
        "--csv",
        lambda at: (vast().save(at.folder), at.command("report", at.folder, "--html")),
    ),
    Row(
        "a run to be watched that there is not",
        1,
        "PATH/gone holds no run yet: give the folder that `nacre run` names when it begins (it prints 'in DIR')",
        lambda at: at.command("watch", at / "gone"),
    ),
    Row("a thousand runs in one second", click.UsageError, "give --out: runs/run-… is taken", taken),
]
