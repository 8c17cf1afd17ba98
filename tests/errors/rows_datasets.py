"""What datasets in Hugging Face form are refused."""

from __future__ import annotations

import io
import json
import sys
from types import ModuleType
from typing import Any

from PIL import Image

from nacre.core.errors import BadData, BadSetting, MissingExtra, UnknownName
from nacre.data import load
from tests.errors.row import Place, Row

LABEL = {"names": ["a", "b"], "_type": "ClassLabel"}
VALUE = {"dtype": "string", "_type": "Value"}
IMAGE = {"_type": "Image"}
TEXTS = {"text": ["one", "two", "three", "four"], "label": [0, 1, 0, 1]}
FEATURES = {"text": VALUE, "label": LABEL}
CUT = "is the file cut short? Fetch or write it again"


def arrow(columns: dict[str, Any]) -> bytes:
    """Columns as an Arrow stream."""
    import pyarrow

    file, table = io.BytesIO(), pyarrow.table(columns)
    with pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    return file.getvalue()


def saved(at: Place, columns: Any = TEXTS, features: Any = FEATURES, part: str = "", **changed: Any) -> Any:
    """A folder as `save_to_disk` writes it, with some of its files changed."""
    files = {
        "data.arrow": arrow(columns),
        "state.json": json.dumps({"_data_files": [{"filename": "data.arrow"}]}),
        "dataset_info.json": json.dumps({"features": features}),
    }
    for name, content in {**files, **{key.replace("__", "."): value for key, value in changed.items()}}.items():
        at.write(part + name, content)
    return at.folder


def parts(at: Place, *names: str) -> Any:
    for name in names:
        saved(at, part=f"{name}/")
    at.write("dataset_dict.json", json.dumps({"splits": list(names)}))
    return load(at.folder)


def pictures(at: Place, cell: Any = None, others: dict[str, Any] | None = None, **said: Any) -> Any:
    """A folder of pictures; `cell` stands in the place of the second of four."""
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "PNG")
    usual = {"bytes": file.getvalue(), "path": None}
    cells = [usual, usual if cell is None else cell, usual, usual]
    columns = {"label": [0, 1, 0, 1]} if others is None else others
    columns = columns if "image_a" in columns else {"image": cells, **columns}
    features = {name: IMAGE if name.startswith("image") else LABEL if name == "label" else VALUE for name in columns}
    return load(saved(at, columns, features), **said)


def hub(at: Place, version: str, name: str = "hf:org/name") -> Any:
    """Ask a `datasets` that reaches no hub."""

    def load_dataset(*_: Any) -> Any:
        raise ConnectionError("no way to the hub")

    module: Any = ModuleType("datasets")
    module.__version__, module.load_dataset = version, load_dataset
    at.patch.setitem(sys.modules, "datasets", module)
    return load(name)


def without(at: Place, package: str, source: Any) -> Any:
    at.patch.setitem(sys.modules, package, None)
    return load(source)


def two_texts() -> bytes:
    """An Arrow stream with two columns of one name."""
    import pyarrow

    table = pyarrow.table([pyarrow.array(["a"]), pyarrow.array(["b"])], names=["text", "text"])
    file = io.BytesIO()
    with pyarrow.ipc.new_stream(file, table.schema) as stream:
        stream.write_table(table)
    return file.getvalue()


def two_of_pictures() -> dict[str, Any]:
    cells = [{"bytes": b"", "path": None}] * 4
    return {"image_a": cells, "image_b": cells}


def unlike(at: Place) -> Any:
    """Pictures for training, texts for testing."""
    pictures(at)
    for name in ("data.arrow", "state.json", "dataset_info.json"):
        at.write(f"train/{name}", (at / name).read_bytes())
        (at / name).unlink()
    saved(at, part="test/")
    at.write("dataset_dict.json", '{"splits": ["train", "test"]}')
    return load(at.folder)


DATASETS = [
    Row(
        "a folder of a dataset without the package that reads it",
        MissingExtra,
        "PATH needs the package 'pyarrow', which is not installed: pip install 'nacre[tables]'",
        lambda at: without(at, "pyarrow", saved(at)),
    ),
    Row(
        "a name on the hub without the package that fetches it",
        MissingExtra,
        "the dataset 'hf:org/name' needs the package 'datasets', which is not installed: pip install 'nacre[hf]'",
        lambda at: without(at, "datasets", "hf:org/name"),
    ),
    Row(
        "a name on the hub, and a package old enough to run code of datasets",
        MissingExtra,
        "the dataset 'hf:org/name' needs the package 'datasets>=4', which is not installed: pip install 'nacre[hf]'",
        lambda at: hub(at, "3.6.0"),
    ),
    Row(
        "what is no name on the hub",
        BadSetting,
        "'hf:../name' names no dataset: write hf:ORG/NAME, or hf:ORG/NAME:CONFIG where it has several",
        lambda at: hub(at, "5.2.0", "hf:../name"),
    ),
    Row(
        "a hub out of reach",
        BadData,
        "the dataset 'hf:org/name' cannot be fetched (no way to the hub): is it its name on the hub, and is there a network? "
        "A folder that dataset.save_to_disk(...) wrote needs none",
        lambda at: hub(at, "5.2.0"),
    ),
    Row(
        "a file of it cut short",
        BadData,
        f"PATH/data.arrow cannot be read as an Arrow stream (…): {CUT}",
        lambda at: load(saved(at, data__arrow=arrow(TEXTS)[:-150])),
    ),
    Row(
        "a file of it missing",
        BadData,
        f"PATH/lost.arrow cannot be read as an Arrow stream (…): {CUT}",
        lambda at: load(saved(at, state__json='{"_data_files": [{"filename": "lost.arrow"}]}')),
    ),
    Row(
        "rows elsewhere",
        BadData,
        f"PATH/state.json does not name what lies beside it, but ['../data.arrow']: {CUT}",
        lambda at: load(saved(at, state__json='{"_data_files": [{"filename": "../data.arrow"}]}')),
    ),
    Row(
        "rows in another order than they lie in",
        BadData,
        "PATH keeps its rows in another order than they lie in, as old versions of datasets wrote: save it again",
        lambda at: load(saved(at, state__json='{"_indices_data_files": [{"filename": "indices.arrow"}]}')),
    ),
    Row(
        "a description that is no JSON",
        BadData,
        f"PATH/state.json is no JSON (…): {CUT}",
        lambda at: load(saved(at, state__json="{")),
    ),
    Row(
        "a description that is no object",
        BadData,
        f"PATH/state.json holds 5, where save_to_disk writes an object: {CUT}",
        lambda at: load(saved(at, state__json="5")),
    ),
    Row(
        "columns that nobody describes",
        BadData,
        f"PATH/dataset_info.json does not say what the columns are (None): {CUT}",
        lambda at: load(saved(at, dataset_info__json="{}")),
    ),
    Row(
        "a description of other columns",
        BadData,
        f"PATH has the columns text, label, but 'label' is only in one of its files: {CUT}",
        lambda at: load(saved(at, features={"text": VALUE})),
    ),
    Row(
        "classes without names",
        BadData,
        f"PATH has no names for the classes of 'label', but None: {CUT}",
        lambda at: load(saved(at, features={"text": VALUE, "label": {"_type": "ClassLabel"}})),
    ),
    Row(
        "two columns of one name",
        BadData,
        "PATH has two columns called 'text': give each its own name",
        lambda at: load(saved(at, data__arrow=two_texts())),
    ),
    Row(
        "no training rows",
        BadData,
        "PATH has the parts test, extra, and none of them is called train: name one so",
        lambda at: parts(at, "test", "extra"),
    ),
    Row(
        "validation rows under two names",
        BadData,
        "PATH has validation rows under two names: keep one of them",
        lambda at: parts(at, "train", "dev", "validation"),
    ),
    Row(
        "texts and pictures at once",
        BadSetting,
        "text = 'text' and image = 'image' are both said to be what is learned from: say one",
        lambda at: load(saved(at), text="text", image="image"),
    ),
    Row(
        "pictures that are not there",
        UnknownName,
        "unknown column of pictures in PATH 'image': known are none",
        lambda at: load(saved(at), image="image"),
    ),
    Row(
        "a size of texts",
        BadSetting,
        "size = 8 is said of pictures, and PATH holds none: leave it out",
        lambda at: load(saved(at), size=8),
    ),
    Row(
        "two columns of pictures",
        BadData,
        'PATH has pictures in image_a, image_b: say which ones are meant, as image = "..."',
        lambda at: pictures(at, others={"label": [0, 1, 0, 1], **two_of_pictures()}),
    ),
    Row(
        "pictures without labels",
        BadData,
        "PATH has the columns words beside pictures in 'image', and none of them is called label, labels, class, category, "
        'intent, target or y: say which one holds the labels, as label = "..."',
        lambda at: pictures(at, others={"words": ["a", "b", "a", "b"]}),
    ),
    Row(
        "labels of pictures in a column that is not there",
        UnknownName,
        "unknown column of PATH 'labl': did you mean 'label'? known are label",
        lambda at: pictures(at, label="labl"),
    ),
    Row(
        "a picture that lies elsewhere",
        BadData,
        "PATH: the picture of row 2 is not in the dataset, but {'bytes': None, 'path': '/elsewhere.png'}: pictures elsewhere "
        "are not looked for; save the dataset with them in it",
        lambda at: pictures(at, {"bytes": None, "path": "/elsewhere.png"}),
    ),
    Row(
        "a picture that is none",
        BadData,
        "PATH: the picture of row 2 cannot be read as a picture (…): is it one, and whole? Fetch or save it again, or leave it "
        "out",
        lambda at: pictures(at, {"bytes": b"GIF89a, they said", "path": None}),
    ),
    Row(
        "test rows without pictures",
        BadData,
        "PATH/test has no pictures in 'image', which the training rows have: save them with it",
        unlike,
    ),
    Row(
        "pictures said of something else",
        BadSetting,
        "image = 'image' is said of datasets in Hugging Face form, and these data are none: leave it out",
        lambda at: load("digits", image="image"),
    ),
]
