"""Small valid files of every format that is read, for `fuzz.py` to damage; over 300 lines because it is a list of them."""

from __future__ import annotations

import csv
import gzip
import io
import json
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.fuzz_damage import JSON, Reader
from nacre.backbones import backbone, from_spec
from nacre.core.errors import BadData
from nacre.core.run import FILE, Result, Run
from nacre.data import load, read_idx, read_npy, read_picture
from nacre.experiment import Config, compared_in
from nacre.experiment.compare import FORMAT, MARK


def idx(*shape: int) -> bytes:
    """An MNIST-format file."""
    return bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + bytes(range(int(np.prod(shape))))


def npy(array: Any) -> bytes:
    """A .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


ARRAYS = [np.arange(32, dtype=np.uint8).reshape(8, 2, 2), np.linspace(0, 1, 24).reshape(8, 3), np.array(["a", "b"] * 4)]


def npz(compressed: bool) -> bytes:
    """A .npz file of rows and labels."""
    file = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(file, x=ARRAYS[0], y=np.arange(8) % 2)
    return file.getvalue()


def npz_of(x: bytes) -> bytes:
    """A .npz file whose x is given byte for byte."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as held:
        held.writestr("x.npy", x)
        held.writestr("y.npy", npy(np.arange(8) % 2))
    return file.getvalue()


TEXTS = [(f'a "word", {k}', k % 2, k / 7) for k in range(6)]


def table(delimiter: str, *columns: int) -> bytes:
    """Rows with some of three columns."""
    file = io.StringIO()
    names = ("text", "label", "number")
    rows = [names, *TEXTS]
    csv.writer(file, delimiter=delimiter).writerows([row[c] for c in columns] for row in rows)
    return file.getvalue().encode()


def objects() -> list[dict[str, Any]]:
    """The rows as objects."""
    return [{"text": text, "label": f"c{label}", "number": number} for text, label, number in TEXTS]


def jsons() -> list[bytes]:
    """Tables in JSON, in every form that is read."""
    pairs = [[text, label] for text, label, _ in TEXTS]
    forms = [
        objects(),
        pairs,
        {"train": pairs, "test": pairs, "val": pairs, "oos": []},
        {"label": [0, 1] * 3, "a": [0.5] * 6},
    ]
    return [json.dumps(form).encode() for form in forms]


def parquets() -> list[bytes]:
    """Tables in Parquet, packed in several ways."""
    import pyarrow
    import pyarrow.parquet

    columns = {
        "text": [t for t, _, _ in TEXTS],
        "label": [label for _, label, _ in TEXTS],
        "number": [n for _, _, n in TEXTS],
    }
    found = []
    for compression, dictionary in (("snappy", True), ("none", False), ("gzip", True)):
        file = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(columns), file, compression=compression, use_dictionary=dictionary)
        found.append(file.getvalue())
    return found


def pictures() -> list[bytes]:
    """Pictures in every format and mode."""
    grey = Image.fromarray((np.arange(8 * 9) * 3 % 256).astype(np.uint8).reshape(8, 9))
    colour = Image.merge("RGB", [grey, grey.rotate(90).resize(grey.size), grey])
    deep = Image.fromarray((np.arange(8 * 9) * 900).astype(np.uint16).reshape(8, 9))
    forms = [
        *(
            (grey, "PNG", {}),
            (colour, "PNG", {}),
            (grey.convert("P"), "PNG", {}),
            (deep, "PNG", {}),
            (colour, "JPEG", {}),
        ),
        *(
            (colour, "JPEG", {"progressive": True}),
            (grey, "JPEG", {}),
            (colour.convert("P"), "GIF", {}),
            (colour, "BMP", {}),
        ),
        *((colour, "WEBP", {}), (colour, "TIFF", {}), (grey, "TIFF", {"compression": "tiff_lzw"}), (colour, "PPM", {})),
    ]
    found = []
    for picture, form, settings in forms:
        file = io.BytesIO()
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.save(file, form, **settings, **({"exif": exif} if form in ("JPEG", "WEBP") else {}))
        found.append(file.getvalue())
    return found


def right_png(raw: bytes) -> bytes:
    """A PNG whose chunks have the checksums that they ought to have, as far as there are chunks."""
    done, at = bytearray(raw[:8]), 8
    while at + 12 <= len(raw):
        size = min(struct.unpack(">I", raw[at : at + 4])[0], len(raw) - at - 12)
        body = raw[at + 4 : at + 8 + size]
        done += raw[at : at + 4] + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return bytes(done + raw[at:])


CONFIGS = [
    b"""[run]
name = "a"
seeds = [0, 1]
threads = 1
[data]
source = "digits"
[stream]
kind = "class-incremental"
tasks = [3, 7]
order = ["1", "0"]
[backbone]
source = "mlp:64-32"
augment = ["flip", "shift"]
[[stage]]
methods = [{ name = "ER", rows = 8, memory = { name = "ClassBalanced", capacity = 50 } }, "ewc"]
optimizer = { name = "sgd", lr = 0.1, momentum = 0.9, groups = [{ match = "head", lr = 1.0 }] }
schedule = { name = "wsd", warmup = 0.1 }
when = "0,3-5"
clip = 1.0
[[stage]]
methods = ["RanPAC"]
[watch]
every = 5
""",
    b'[[stage]]\nmethods = []\nepochs = 2\nsteps = "none"\n',
]
SETTINGS = (
    b"run",
    b"name",
    b"seeds",
    b"stage",
    b"methods",
    b"memory",
    b"optimizer",
    b"lr",
    b"=",
    b"[",
    b"]",
    b"{",
    b"}",
    b"stream",
)
VIT = {
    **{
        "model_type": "vit",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    },
    **{"image_size": 16, "patch_size": 8, "num_channels": 3, "hidden_act": "gelu"},
}
PREPARED = {
    "size": {"height": 16, "width": 16},
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5] * 3,
    "rescale_factor": 0.0039,
}


def specs() -> list[bytes]:
    """Descriptions of backbones."""
    pixels = {"channels": 3, "size": [16, 16], "mean": [0.5] * 3, "std": None}
    forms = [
        {"kind": "mlp", "widths": [64, 32], "pixels": {"channels": None, "size": None}},
        {"kind": "convnet", "widths": [4, 8], "channels": 3, "pixels": pixels},
        {"kind": "huggingface", "source": "a", "pool": "first", "config": VIT, "pixels": pixels},
    ]
    return [json.dumps(form).encode() for form in forms]


def vit_weights() -> list[bytes]:
    """The weights of a tiny vision transformer."""
    from safetensors.torch import save
    from transformers import ViTConfig, ViTModel

    net = ViTModel(ViTConfig(**{k: v for k, v in VIT.items() if k != "model_type"}), add_pooling_layer=False)
    return [save(dict(net.state_dict()), {"format": "pt"})]


def vit_around(folder: Path) -> None:
    """What lies beside a damaged file of a model."""
    for name, told in (("config.json", VIT), ("preprocessor_config.json", PREPARED)):
        (folder / name).write_text(json.dumps(told), encoding="utf-8")


def records() -> list[bytes]:
    """Records of runs, of one seed and of two."""
    run = Run("a", seeds=[0], settings={"run": {"name": "a"}})
    run.results = {0: Result(moments=["task0"], tests=[{"name": "t", "rows": 1, "learned": "task0"}], matrix=[[0.5]])}
    both = Run("b", seeds=[0, 1])
    both.results = {s: Result(summary={"last": 0.5}) for s in (0, 1)}
    return [json.dumps(r.to_json()).encode() for r in (run, both)]


def marks() -> list[bytes]:
    """A comparison of no runs."""
    return [json.dumps({"format": FORMAT, "rows": [], "text": "", "bounds": [], "runs": []}).encode()]


def with_groups(folder: Path) -> None:
    """The table that groups belong to."""
    (folder / "train.csv").write_bytes(table(",", 0, 1))


def read_record(path: Path) -> Any:
    """A record, and what is shown of it."""
    run = Run.load(path)
    return run.to_json(), run.table()


def read_spec(path: Path) -> Any:
    """A spec in an export, whose weights are known to be few."""
    try:
        spec = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise BadData("no JSON") from error  # a checkpoint is read by others
    return from_spec(spec, most=10**6)


def in_folder(path: Path) -> Any:
    """The data in a file's folder."""
    return load(path.parent)


def model(path: Path) -> Any:
    """The model in a file's folder."""
    return backbone(path.parent, pretrained=path.suffix == ".safetensors")


def picture(path: Path) -> Any:
    """A picture, as it is and stretched."""
    return read_picture(path), read_picture(path, (4, 4))


READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        Reader("idx", "a-idx3-ubyte", read_idx, lambda: [idx(2, 3, 3), idx(5), idx(1, 2, 2, 2)]),
        Reader("idx.gz", "a-idx3-ubyte.gz", read_idx, lambda: [gzip.compress(idx(2, 3, 3), mtime=0)]),
        Reader(
            "idx in gz", "a-idx3-ubyte.gz", read_idx, lambda: [idx(2, 3, 3)], lambda raw: gzip.compress(raw, mtime=0)
        ),
        Reader("npy", "a.npy", read_npy, lambda: [npy(array) for array in ARRAYS]),
        Reader("npz", "a.npz", load, lambda: [npz(True), npz(False)]),
        Reader("npy in npz", "a.npz", load, lambda: [npy(array) for array in ARRAYS], npz_of),
        Reader(
            "csv",
            "a.csv",
            load,
            lambda: [table(",", 0, 1), table(",", 1, 2), table(";", 2, 1)],
            tokens=(b",", b'"', b"\n", b"label"),
        ),
        Reader("csv in gz", "a.csv.gz", load, lambda: [table(",", 0, 1)], lambda raw: gzip.compress(raw, mtime=0)),
        Reader("tsv", "a.tsv", load, lambda: [table("\t", 0, 1)], tokens=(b"\t", b'"', b"\n", b"text", b"label")),
        Reader("json", "a.json", load, jsons, tokens=JSON),
        Reader(
            "jsonl", "a.jsonl", load, lambda: ["\n".join(map(json.dumps, objects())).encode()], tokens=(*JSON, b"\n")
        ),
        Reader(
            "groups",
            "groups.json",
            in_folder,
            lambda: [b'{"one": ["0"], "two": ["1"]}'],
            around=with_groups,
            tokens=JSON,
        ),
        Reader("parquet", "a.parquet", load, parquets),
        Reader("picture", "a.png", picture, pictures),
        Reader(
            "png",
            "a.png",
            picture,
            lambda: pictures()[:4],
            right_png,
            tokens=(b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"eXIf", b"IEND"),
        ),
        Reader("config", "a.toml", Config.load, lambda: CONFIGS, tokens=SETTINGS),
        Reader("spec", "a.json", read_spec, specs, tokens=JSON),
        Reader("config.json", "config.json", model, lambda: [json.dumps(VIT).encode()], around=vit_around, tokens=JSON),
        Reader(
            "preparation",
            "preprocessor_config.json",
            model,
            lambda: [json.dumps(PREPARED).encode()],
            around=vit_around,
            tokens=JSON,
        ),
        Reader("weights", "model.safetensors", model, vit_weights, around=vit_around),
        Reader("record", FILE, read_record, records, tokens=JSON),
        Reader("comparison", MARK, lambda path: compared_in(path.parent), marks, tokens=JSON),
    )
}
"""Everything that reads files of others, by name."""
