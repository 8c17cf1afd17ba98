"""Every recipe loads, says which data it takes, and runs from its data's form to a record with a tiny backbone."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from nacre.cli.main import cli
from nacre.core.dice import dice
from nacre.core.run import Run
from nacre.experiment import Config, Experiment, recipe, recipe_of, recipes
from nacre.experiment.named import OPEN, RECIPES
from nacre.experiment.trial import trial
from tests.end_to_end.small import idx
from tests.texts import small

NAMES = [found.name for found in recipes()]
TRAIN, TEST = 2, 1  # rows of each class


def mnist(folder: Path) -> None:
    """The four files, ten digits."""
    for part, rows in (("train", TRAIN), ("t10k", TEST)):
        y = np.tile(np.arange(10, dtype=np.uint8), rows)
        idx(folder / f"{part}-images-idx3-ubyte.gz", np.repeat(y * 20, 28 * 28).reshape(-1, 28, 28))
        idx(folder / f"{part}-labels-idx1-ubyte.gz", y)


def pictures(folder: Path, classes: int) -> None:
    """A folder for each class in `train` and `test`, pictures of different sizes where they are not of CIFAR."""
    for part, rows in (("train", TRAIN), ("test", TEST)):
        for k in range(classes):
            place = folder / part / f"{k + 1:03d}.kind"
            place.mkdir(parents=True)
            for row in range(rows):
                side = 8 if classes == 100 else 8 + row
                Image.new("RGB", (side, side), (k, 255 - k, 10 * row)).save(place / f"{row}.png")


def banking(folder: Path) -> None:
    """Two tables of 77 intents, and the file of their names that lies beside them."""
    for part, rows in (("train", TRAIN), ("test", TEST)):
        with (folder / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "category"), *sentences(77, rows, part)])
    (folder / "categories.json").write_text(json.dumps([f"intent {k}" for k in range(77)]))


def clinc(folder: Path) -> None:
    """All parts in one object, what is out of scope too, and the domains."""
    parts: dict[str, Any] = {
        part: sentences(150, n, part) for part, n in (("train", TRAIN), ("val", 1), ("test", TEST))
    }
    parts |= {f"oos_{part}": [["word1", "oos"]] for part in ("train", "val", "test")}
    (folder / "data_full.json").write_text(json.dumps(parts))
    domains = {f"domain {d}": [f"intent {k}" for k in range(150) if k % 10 == d] for d in range(10)}
    (folder / "domains.json").write_text(json.dumps(domains))


def sentences(classes: int, rows: int, part: str) -> list[tuple[str, str]]:
    """Texts of words that the tiny encoder knows."""
    words = small.vocabulary()[len(small.SPECIAL) :]
    drawn = torch.randint(len(words), (rows * classes, 3), generator=dice("recipes", part)).tolist()
    return [(" ".join(words[k] for k in row), f"intent {i % classes}") for i, row in enumerate(drawn)]


FORMS: dict[str, Callable[[Path], None]] = {
    "banking77": banking,
    "clinc150": clinc,
    "split-cifar100": lambda folder: pictures(folder, 100),
    "imagenet-r": lambda folder: pictures(folder, 200),
    "cub200": lambda folder: pictures(folder, 200),
}
"""What lies in the folder of a recipe's data; in all others, MNIST."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a recipe's data, made once for each form."""
    made: dict[str, Path] = {}

    def folder(name: str) -> Path:
        form = "cub200" if name == "imagenet-r" else name if name in FORMS else "mnist"
        if form not in made:
            made[form] = tmp_path_factory.mktemp(form)
            FORMS.get(form, mnist)(made[form])
        return made[form]

    return folder


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with its tokenizer."""
    return small.model(tmp_path_factory.mktemp("encoder"))


def quick(name: str, folder: Path, encoder: Path) -> list[str]:
    """What makes a recipe a matter of a second: one seed, two steps, a narrow read-out, a tiny backbone."""
    config = recipe(name, data=folder)
    told = ["run.seeds=[0]", "run.threads=1"]
    told += ["data.size=8"] if config.data.size else []
    for i, stage in enumerate(config.stage):
        told += [f"stage.{i}.steps=2"] if stage.steps else []
        told += [f"stage.{i}.methods.{k}.width=20" for k, m in enumerate(stage.methods) if "width" in m]
    kind, _, widths = config.backbone.source.partition(":")
    tiny = {"mlp": f"mlp:{widths.partition('-')[0]}-8", "timm": "convnet:4"}.get(kind, str(encoder))
    return [*told, f"backbone.source={tiny}"]


@pytest.mark.parametrize("name", NAMES)
def test_it_loads_and_says_what_it_needs(name: str):
    found, config = recipe_of(name), recipe(name, data="somewhere")
    assert found.summary and found.data and found.published, f"{name}.toml lacks a line # Data: or # Published:"
    assert Config.load(RECIPES / f"{name}.toml").data.source == OPEN
    assert config.data.source == "somewhere" and config.backbone.source != "convnet"
    given = recipe(f"recipe:{name}", data="somewhere", backbone="mlp:4-2", changes=["run.seeds=[7]"])
    assert (given.backbone.source, given.run.seeds) == ("mlp:4-2", [7])


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_on_a_folder_of_its_form(name: str, folders: Callable[[str], Path], encoder: Path):
    folder = folders(name)
    config = recipe(name, data=folder, changes=quick(name, folder, encoder))
    run = Experiment(config).run()
    tasks = config.stream.settings["tasks"]
    assert run.status == "finished" and len(run.results[0].matrix) == tasks
    assert run.results[0].data["classes"] == {"banking77": 77, "clinc150": 150, "split-cifar100": 100}.get(
        name, 10 if "mnist" in name else 200
    )


@pytest.mark.parametrize(("name", "classes"), [("split-cifar100", 100), ("imagenet-r", 200), ("cub200", 200)])
def test_classes_come_in_the_order_of_the_reference_code(
    name: str, classes: int, folders: Callable[[str], Path], encoder: Path
):
    order = np.random.RandomState(1993).permutation(classes).tolist()
    made = trial(recipe(name, data=folders(name), changes=quick(name, folders(name), encoder)), 0)
    met = [made.split.class_names[c] for i in range(10) for c in made.stream[i].task.classes]
    assert met == [f"{k + 1:03d}.kind" for k in order]
    assert {len(made.stream[i].task.classes) for i in range(10)} == {classes // 10}


def test_cifar_is_read_from_arrays_too(tmp_path: Path, encoder: Path):
    y = np.arange(100)
    x = np.tile(y.astype(np.uint8)[:, None, None, None], (1, 8, 8, 3))
    np.savez(tmp_path / "cifar100.npz", x_train=np.tile(x, (2, 1, 1, 1)), y_train=np.tile(y, 2), x_test=x, y_test=y)
    told = quick("split-cifar100", tmp_path / "cifar100.npz", encoder)
    made = trial(recipe("split-cifar100", data=tmp_path / "cifar100.npz", changes=told), 0)
    assert made.split.class_names[:3] == ("68", "56", "78") and made.source.train.x.shape[1:] == (3, 8, 8)


def test_domains_of_clinc_stay_together(folders: Callable[[str], Path], encoder: Path):
    made = trial(
        recipe("clinc150", data=folders("clinc150"), changes=quick("clinc150", folders("clinc150"), encoder)), 0
    )
    for i in range(10):
        names = [made.split.class_names[c] for c in made.stream[i].task.classes]
        assert len(names) == 15 and len({int(name.split()[1]) % 10 for name in names}) == 1


def test_the_commands_know_recipes(folders: Callable[[str], Path], encoder: Path, tmp_path: Path):
    def call(*words: object) -> str:
        done = CliRunner().invoke(cli, [str(w) for w in words])
        assert done.exit_code == 0, done.output
        return done.stdout

    listed = call("list", "recipes")
    assert all(f"recipe:{name} " in listed for name in NAMES) and "recipe:cub200" in call("list")
    shown = call("show", "recipe:cub200")
    for word in ("Data: the folders", "88.7", "Here: ", "--data FOLDER", "timm:vit_base", "168, 136, 51"):
        assert word in shown, word
    folder = folders("split-mnist-class")
    changes = [w for told in quick("split-mnist-class", folder, encoder) for w in ("--set", told)]
    call("run", "recipe:split-mnist-class", "--data", folder, *changes, "--out", tmp_path / "run")
    assert Run.load(tmp_path / "run").status == "finished"
    wrong = CliRunner().invoke(cli, ["show", "recipe:cub20"])
    assert wrong.exit_code == 2 and "did you mean 'cub200'" in wrong.stderr
