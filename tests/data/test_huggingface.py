"""Datasets in Hugging Face form: what `save_to_disk` writes is read without the package, and names are asked of it."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nacre.core.errors import BadData, MissingExtra
from nacre.core.rows import TensorRows
from nacre.data import Source, TextRows, load, make_blocks

pyarrow: Any = pytest.importorskip("pyarrow")

LABEL = {"names": ["never", "zebra", "ape"], "_type": "ClassLabel"}
TEXT = {"dtype": "string", "_type": "Value"}
TOPICS: dict[str, list[Any]] = {"sentence": [f"text {k}" for k in range(8)], "topic": [1, 2] * 4}


def png(level: int, mode: str = "RGB") -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3)[: 3 if mode == "RGB" else 2], level, np.uint8)).save(file, "PNG")
    return file.getvalue()


def save(folder: Path, features: dict[str, Any], columns: dict[str, list[Any]], files: int = 1) -> Path:
    """Write a folder as `Dataset.save_to_disk` does."""
    folder.mkdir(parents=True)
    names = [f"data-{k:05d}-of-{files:05d}.arrow" for k in range(files)]
    table = pyarrow.table(columns)
    for k, name in enumerate(names):
        piece = table.slice(k * len(table) // files, (k + 1) * len(table) // files - k * len(table) // files)
        with pyarrow.OSFile(str(folder / name), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(piece)
    state = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0" * 16, "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text(json.dumps({"citation": "", "features": features}))
    return folder


def save_parts(folder: Path, features: dict[str, Any], **parts: dict[str, list[Any]]) -> Path:
    """Write a folder as `DatasetDict.save_to_disk` does."""
    for part, columns in parts.items():
        save(folder / part, features, columns)
    (folder / "dataset_dict.json").write_text(json.dumps({"splits": list(parts)}))
    return folder


def texts(source: Source) -> list[str]:
    assert isinstance(source.train, TextRows)
    return source.train.texts


@pytest.mark.parametrize("files", [1, 3])
def test_texts_are_found_with_the_names_of_their_classes_in_the_order_given(files: int, tmp_path: Path):
    place = save(tmp_path / "topics", {"sentence": TEXT, "topic": LABEL}, TOPICS, files)
    data = load(place, seed=2, test_share=0.25)
    assert data.classes == ("zebra", "ape"), "not by the alphabet; a class without a row is none"
    assert "classes without a training row were left out: never" in data.note
    assert "labels are in 'topic'; texts are in 'sentence'" in data.note and "split by seed 2" in data.note
    assert len(texts(data)) == 6 and data.test.y.bincount().tolist() == [1, 1]
    assert all(int(text[-1]) % 2 == y for text, y in zip(texts(data), data.train.y.tolist(), strict=True))
    assert data.sha256 == load(place, seed=2, test_share=0.25).sha256


def test_parts_are_kept_and_those_without_labels_left_out(tmp_path: Path):
    features = {"sentence": TEXT, "topic": LABEL}
    few = {"sentence": ["held", "back"], "topic": [2, 1]}
    hidden = {"sentence": ["a", "b"], "topic": [-1, -1]}
    made = save_parts(tmp_path / "a", features, train=TOPICS, validation=few, test=hidden, unsupervised=hidden)
    data = load(made)
    assert isinstance(data.test, TextRows) and data.test.texts == ["held", "back"] and data.validation is None
    for said in ("these parts have no labels and were left out: test", "left out: unsupervised", "for testing"):
        assert said in data.note
    three = load(save_parts(tmp_path / "b", features, train=TOPICS, val=few, test=few))
    assert three.validation is not None and (len(three.train), len(three.test), len(three.validation)) == (8, 2, 2)


def test_pictures_are_read_from_their_bytes(tmp_path: Path):
    cells = [{"bytes": png(10 * k, "RGB" if k == 3 else "L"), "path": None} for k in range(6)]
    columns = {"img": cells, "coarse": [0, 0, 1, 1, 2, 2], "fine": [0, 1, 2, 0, 1, 2]}
    place = save(tmp_path / "p", {"img": {"_type": "Image"}, "coarse": LABEL, "fine": LABEL}, columns, files=2)
    with pytest.raises(BadData, match="none of them is called label"):
        load(place)
    data = load(place, label="coarse", test_share=0.5)
    assert isinstance(data.train, TensorRows) and data.train.x.shape == (3, 3, 4, 5), "one has colours, so all do"
    levels = sorted([*data.train.x[:, 0, 0, 0].tolist(), *data.test.take(torch.arange(3)).x[:, 0, 0, 0].tolist()])
    assert levels == [0, 10, 20, 30, 40, 50] and data.classes == ("never", "zebra", "ape")
    blocks = make_blocks(place, tmp_path / "blocks", label="coarse", test_share=0.5)
    assert blocks.sha256 == data.sha256 and blocks.note == data.note
    small = load(place, label="coarse", image="img", size=[2, 3])
    assert isinstance(small.train, TensorRows) and small.train.x.shape[1:] == (3, 2, 3)
    assert "pictures were stretched to 2x3" in small.note


def test_numbers_are_rows_as_in_any_table(tmp_path: Path):
    columns = {"height": [1.5, 2.5] * 4, "width": [3, 4] * 4, "y": [0, 1] * 4}
    value = {"dtype": "float64", "_type": "Value"}
    data = load(save(tmp_path / "n", {"height": value, "width": value, "y": LABEL}, columns))
    assert isinstance(data.train, TensorRows) and data.train.x[0].tolist() == [
        1.5 + data.train.y[0],
        3 + data.train.y[0],
    ]


def test_a_run_learns_from_such_a_folder(tmp_path: Path):
    from nacre import Config
    from nacre.experiment import Experiment

    cells = [{"bytes": png(40 * (k % 3) + k), "path": None} for k in range(30)]
    columns = {"image": cells, "label": [k % 3 for k in range(30)]}
    place = save(tmp_path / "p", {"image": {"_type": "Image"}, "label": LABEL}, columns)
    told = {"data": {"source": str(place)}, "backbone": {"source": "mlp:60-8"}, "stage": [{"methods": ["SimpleCIL"]}]}
    run = Experiment(Config.of(told, ["stream.tasks=3"])).run()
    assert run.status == "finished" and len(run.results[0].matrix[-1]) == 3


# --------------------------------------------------------------------------------------------------------- names on the hub


class Kept:
    """One part of a dataset, as the package hands it out."""

    def __init__(self, columns: dict[str, Any]):
        self.table = pyarrow.table(columns)
        self.features: Any = ModuleType("features")
        self.features.to_dict = lambda: {"sentence": TEXT, "topic": LABEL}

    def with_format(self, name: str) -> Any:
        return {"arrow": self}[name]

    def __getitem__(self, key: slice) -> Any:
        assert key == slice(None)
        return self.table


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A `datasets` that knows one name; what it was asked."""
    asked: dict[str, Any] = {"calls": []}

    def load_dataset(*told: Any, **more: Any) -> Any:
        asked["calls"].append((told, more))
        if told[0] != "org/topics":
            raise FileNotFoundError(f"no dataset {told[0]}")
        return {"train": Kept(TOPICS), "test": Kept({"sentence": ["x"], "topic": [2]})}

    module: Any = ModuleType("datasets")
    module.load_dataset, module.__version__ = load_dataset, "5.2.0"
    monkeypatch.setitem(sys.modules, "datasets", module)
    asked["module"] = module
    return asked


def test_names_are_asked_of_the_package_and_nothing_of_them_is_run(hub: dict[str, Any]):
    data = load("hf:org/topics:small")
    assert hub["calls"] == [(("org/topics", "small"), {})], "no code is trusted"
    assert (data.name, data.classes, len(data.train), len(data.test)) == ("topics", ("zebra", "ape"), 8, 1)
    with pytest.raises(BadData, match="the dataset 'hf:org/none' cannot be fetched"):
        load("hf:org/none")
    hub["module"].__version__ = "3.6.0"
    with pytest.raises(MissingExtra, match=r"'datasets>=4'.*nacre\[hf\]"):
        load("hf:org/topics")
    assert len(hub["calls"]) == 2, "an old version, which may run code, is not asked"


def test_what_the_package_itself_writes_is_read(tmp_path: Path):
    datasets: Any = pytest.importorskip("datasets", reason="datasets is not installed: pip install 'nacre[hf]'")
    datasets.disable_progress_bars()
    names = datasets.Features(
        {"sentence": datasets.Value("string"), "topic": datasets.ClassLabel(names=LABEL["names"])}
    )
    held = datasets.Dataset.from_dict(TOPICS, features=names)
    parts = datasets.DatasetDict({"train": held, "test": held.select([3, 4])})
    parts.save_to_disk(tmp_path / "texts", num_shards={"train": 2, "test": 1})
    data = load(tmp_path / "texts")
    assert texts(data) == TOPICS["sentence"] and data.test.y.tolist() == [1, 0] and data.classes == ("zebra", "ape")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    pictures = [Image.fromarray(np.full((4, 5), 9 * k, np.uint8)) for k in range(8)]
    made = datasets.Dataset.from_dict({"image": pictures, "label": [0, 1] * 4}, features=features)
    made.shuffle(seed=1).save_to_disk(tmp_path / "pictures")
    seen = load(tmp_path / "pictures", test_share=0.25)
    assert isinstance(seen.train, TensorRows) and seen.train.x.shape == (6, 1, 4, 5)
    assert (seen.train.x[:, 0, 0, 0] // 9 % 2).tolist() == seen.train.y.tolist()
