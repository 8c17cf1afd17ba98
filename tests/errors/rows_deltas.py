"""What sparse deltas are refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from nacre import checkpoint
from nacre.core.errors import BadCheckpoint, BadData, BadSetting, NotSaved
from nacre.deltas import Delta, apply, merge, save, weights_of
from tests.errors.row import Place, Row

CURE = "give a whole .safetensors file, a folder of Hugging Face's form, or a run's folder"
FILE = "give a file that `nacre delta save` or `nacre delta merge` wrote"
BASE = {"a": torch.zeros(9), "b": torch.ones(2)}


def moved(by: float = 1.0, **more: Tensor) -> dict[str, Tensor]:
    return {**BASE, "a": torch.zeros(9).index_fill(0, torch.tensor([3]), by), **more}


def made(at: Place, name: str = "d", base: Mapping[str, Tensor] = BASE, by: float = 1.0, **more: Tensor) -> Delta:
    return save(base, moved(by, **more), at / f"{name}.safetensors")


def merged(at: Place, **settings: Any) -> None:
    merge(BASE, [made(at)], at / "m.safetensors", **settings)


def exported(at: Place, tree: Any) -> Path:
    checkpoint.save(at / "run" / "export", tree)
    return at / "run"


def sharded(at: Place) -> Path:
    save_file({"a": torch.ones(2)}, (at.write("hub/x", "").parent / "one.safetensors"))
    index = {"weight_map": {"a": "one.safetensors", "b": "one.safetensors"}}
    return at.write("hub/model.safetensors.index.json", json.dumps(index)).parent


def raw(at: Place, name: str, header: Any, content: bytes = b"") -> Path:
    said = json.dumps(header).encode()
    return at.write(name, len(said).to_bytes(8, "little") + said + content)


def otherwise(at: Place) -> None:
    about = {"format": "nacre-delta-1", "base": "{}", "sizes": "{}", "changes": "{}"}
    zeros = {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}
    Delta(raw(at, "d.safetensors", {"__metadata__": about, "whole:w": zeros}, b"0"))


def altered(at: Place) -> None:
    path = made(at).path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    apply(BASE, path, at / "out.safetensors")


DELTAS = [
    Row(
        "a delta in a folder that is a file",
        NotSaved,
        "PATH/a/d.safetensors could not be written (Not a directory): see that the folder is there and can be written to; what "
        "was saved before is untouched",
        lambda at: save(BASE, moved(), at.write("a", "") / "d.safetensors"),
    ),
    Row(
        "a model that is not there",
        BadData,
        f"there is no PATH/a.safetensors: {CURE}",
        lambda at: weights_of(at / "a.safetensors"),
    ),
    Row(
        "a folder with pickled weights alone",
        BadData,
        f"PATH/hub holds pytorch_model.bin, and not the weights of one model: {CURE}; pickled weights are never read",
        lambda at: weights_of(at.write("hub/pytorch_model.bin", "").parent),
    ),
    Row(
        "weights of another format",
        BadData,
        f"PATH/a.safetensors cannot be read as weights in the safetensors format (…): {CURE}",
        lambda at: weights_of(at.write("a.safetensors", "no weights")),
    ),
    Row(
        "an index that promises too much",
        BadData,
        f"PATH/hub/one.safetensors has no tensor 'b', which the index promises: {CURE}",
        lambda at: weights_of(sharded(at)),
    ),
    Row(
        "a tensor of an unknown type",
        BadData,
        "a in PATH/a.safetensors is of the type F8_E8M0, which is not known here: leave it out",
        lambda at: weights_of(
            raw(at, "a.safetensors", {"a": {"dtype": "F8_E8M0", "shape": [1], "data_offsets": [0, 1]}}, b"0")
        ),
    ),
    Row(
        "a tensor that no file can hold",
        BadData,
        "a of the weights that were given is of torch.complex128, which a file cannot hold: leave it out",
        lambda at: weights_of({"a": torch.zeros(1, dtype=torch.complex128)}),
    ),
    Row(
        "a checkpoint that is no model",
        BadCheckpoint,
        "PATH/run/export holds no exported model: give a run's folder or the export folder in it",
        lambda at: weights_of(exported(at, {"format": "other"})),
    ),
    Row(
        "a run whose lent weights are gone",
        BadCheckpoint,
        "PATH/run/w.safetensors is not the file that this model was exported with: export it again with `nacre export`",
        lambda at: weights_of(
            exported(
                at,
                {"format": "nacre-model-1", "model": {}, "lent": {"file": "w.safetensors", "sha256": "", "names": {}}},
            )
        ),
    ),
    Row(
        "a delta between strangers",
        BadData,
        "the weights that were given and the weights that were given have no tensor in common: a delta is between a model and "
        "one that was tuned from it",
        lambda at: save({"a": torch.ones(1)}, {"b": torch.ones(1)}, at / "d.safetensors"),
    ),
    Row(
        "a delta of another name",
        BadSetting,
        "'PATH/d.bin' is to be a file of weights: give a name that ends in .safetensors",
        lambda at: save(BASE, BASE, at / "d.bin"),
    ),
    Row(
        "a file that is no delta",
        BadData,
        f"PATH/d.safetensors is no delta of this version (its format is None): {FILE}",
        lambda at: Delta(raw(at, "d.safetensors", {})),
    ),
    Row(
        "a delta that holds more than it says",
        BadData,
        f"PATH/d.safetensors holds ['whole:w'] otherwise than its header says: {FILE}",
        otherwise,
    ),
    Row(
        "a delta that was altered",
        BadData,
        "PATH/d.safetensors was altered: a does not become what was saved; bring the file back from a copy",
        altered,
    ),
    Row(
        "a base with other tensors",
        BadData,
        "PATH/d.safetensors was made of another base: the weights that were given lacks b, and 1 tensors differ by name; give "
        "the model that it was made of",
        lambda at: apply({"a": BASE["a"]}, made(at), at / "out.safetensors"),
    ),
    Row(
        "a base with other bits",
        BadData,
        "PATH/d.safetensors was made of another base: b in the weights that were given has other bits; give the model that it "
        "was made of",
        lambda at: apply({**BASE, "b": torch.zeros(2)}, made(at), at / "out.safetensors"),
    ),
    Row(
        "a merge of deltas of different bases",
        BadData,
        "PATH/d.safetensors and PATH/e.safetensors were made of different bases, which differ at b: only deltas of one base "
        "can be merged",
        lambda at: merge(BASE, [made(at), made(at, "e", {**BASE, "b": torch.zeros(2)})], at / "m.safetensors"),
    ),
    Row(
        "a merge of heads of different classes",
        BadData,
        "head is new, gone or of another shape in PATH/d.safetensors, and otherwise in another delta: merge the deltas of "
        "backbones alone, or of heads that have the same classes",
        lambda at: merge(BASE, [made(at, head=torch.ones(1)), made(at, "e", head=torch.ones(2))], at / "m.safetensors"),
    ),
    Row(
        "a way of merging that there is not",
        BadSetting,
        "how is one of sum, mean, max, arithmetic, ties, not 'slerp'",
        lambda at: merged(at, how="slerp"),
    ),
    Row(
        "a merge of nothing",
        BadSetting,
        "merge needs at least one delta, not none",
        lambda at: merge(BASE, [], at / "m.safetensors"),
    ),
    Row(
        "weights without task arithmetic",
        BadSetting,
        "weights belong to how = \"arithmetic\", not to 'mean': leave them out, or change how",
        lambda at: merged(at, how="mean", weights=[1]),
    ),
    Row(
        "too many weights",
        BadSetting,
        "weights are 1 finite numbers, one for each delta, not [1, 2]",
        lambda at: merged(at, how="arithmetic", weights=[1, 2]),
    ),
    Row(
        "a scale that is none",
        BadSetting,
        "scale is a finite number, not nan",
        lambda at: merged(at, scale=float("nan")),
    ),
    Row(
        "a share beyond all",
        BadSetting,
        "share is in (0, 1], not 1.5",
        lambda at: merged(at, how="ties", share=1.5),
    ),
    Row(
        "weights on the command line that are words",
        2,
        "--weights is a list of numbers such as 1,0.5, not 'a,b'",
        lambda at: at.command("delta", "merge", "base", "d", "m", "--how", "arithmetic", "--weights", "a,b"),
    ),
]
