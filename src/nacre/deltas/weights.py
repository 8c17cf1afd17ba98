"""The weights of a model, wherever they lie, read one tensor at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import safe_open
from torch import Tensor

from .. import checkpoint
from ..core.bits import bits
from ..core.errors import BadCheckpoint, BadData
from ..core.files import path_of, reading
from ..core.tensor_file import KINDS

DTYPES = {name: dtype for dtype, name in KINDS.items()}
RUN_FORMAT = "nacre-model-1"
INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
FORM = "weights in the safetensors format"
CURE = "give a whole .safetensors file, a folder of Hugging Face's form, or a run's folder"
PIECE = 1 << 24  # bytes that are hashed at a time


class Kind(NamedTuple):
    """The type and shape of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{KINDS[self.dtype]} {list(self.shape)}"


class Weights(Mapping[str, Tensor]):
    """Tensors by name; each is read when it is asked for, and none is kept.

    Args:
        where: What messages call them.
        kinds: By name, the type and shape.
        read: Gives the tensor of a name, on the CPU.
    """

    def __init__(self, where: str, kinds: dict[str, Kind], read: Callable[[str], Tensor]):
        self.where, self.kinds, self.read = where, kinds, read

    def __getitem__(self, name: str) -> Tensor:
        _ = self.kinds[name]  # a KeyError where there is none
        return self.read(name)

    def __contains__(self, name: object) -> bool:
        return name in self.kinds

    def __iter__(self) -> Iterator[str]:
        return iter(self.kinds)

    def __len__(self) -> int:
        return len(self.kinds)


def weights_of(model: str | Path | Mapping[str, Tensor]) -> Weights:
    """The weights and buffers of a model.

    Args:
        model: A `.safetensors` file; a folder of Hugging Face's form, with one such file or several and their index; the
            folder of a run, of which the exported model is read (of several seeds the first; `RUN/export/seed-1` is the
            second); or a state dict.

    Raises:
        BadData: there are none, or they cannot be read.
        BadCheckpoint: a run's exported model was altered.

    >>> weights_of({"w": torch.ones(2)}).kinds
    {'w': Kind(dtype=torch.float32, shape=(2,))}
    """
    if isinstance(model, Weights):
        return model
    if isinstance(model, Mapping):
        return _in_memory(model)
    path = path_of(model)
    if path.is_dir():
        if (exported := _exported_in(path)) is not None:
            return _of_run(path, exported)
        if (path / INDEX).is_file():
            return _sharded(path)
        found = [path / SINGLE] if (path / SINGLE).is_file() else sorted(path.glob("*.safetensors"))
        if len(found) != 1:
            held = ", ".join(sorted(p.name for p in path.iterdir())[:6]) or "nothing"
            raise BadData(
                f"{path} holds {held}, and not the weights of one model: {CURE}; pickled weights are never read"
            )
        path = found[0]
    if not path.exists():
        raise BadData(f"there is no {path}: {CURE}")
    return _joined(str(path), {None: path}, None)


def digest(tensor: Tensor) -> str:
    """The SHA-256 of type, shape and bits."""
    held = hashlib.sha256(f"{KINDS[tensor.dtype]} {list(tensor.shape)}".encode())
    held.update(bits(tensor).cpu().view(torch.uint8).numpy().data)
    return held.hexdigest()


def _in_memory(model: Mapping[str, Tensor]) -> Weights:
    where = "the weights that were given"
    for name, t in model.items():
        if t.dtype not in KINDS:
            raise BadData(f"{name} of {where} is of {t.dtype}, which a file cannot hold: leave it out")
    return Weights(
        where, {n: Kind(t.dtype, tuple(t.shape)) for n, t in model.items()}, lambda n: model[n].detach().cpu()
    )


def _exported_in(path: Path) -> Path | None:
    """Where a run, or what `nacre export` wrote, keeps the exported model; None where there is none."""
    place = path / "export" if (path / "export").is_dir() else path
    seeds = sorted(place.glob("seed-*"), key=lambda p: int(p.name[5:]) if p.name[5:].isdigit() else 0)
    place = seeds[0] if seeds else place
    return place if (place / checkpoint.MANIFEST).is_file() else None


def _of_run(path: Path, place: Path) -> Weights:
    tree, file = checkpoint.outline(place)
    if not isinstance(tree, dict) or tree.get("format") != RUN_FORMAT:
        raise BadCheckpoint(f"{place} holds no exported model: give a run's folder or the export folder in it")
    with checkpoint.describing(f"a model (in {place})"):
        names: dict[str, tuple[Path, str]] = {name: (file, there) for name, there in tree["model"].items()}
        if (lent := tree.get("lent")) is not None:  # weights that lie beside it in Hugging Face's form
            beside = place.parent / lent["file"]
            if not beside.is_file() or _file_digest(beside) != lent["sha256"]:
                raise BadCheckpoint(
                    f"{beside} is not the file that this model was exported with: export it again with `nacre export`"
                )
            names |= {name: (beside, there) for name, there in lent["names"].items()}
    return _joined(str(path), {file: file for file, _ in names.values()}, names)


def _sharded(folder: Path) -> Weights:
    with reading(folder / INDEX, "an index of weights", CURE):
        held = json.loads((folder / INDEX).read_bytes())["weight_map"]
        names = {str(name): (folder / Path(file).name, str(name)) for name, file in held.items()}
    return _joined(str(folder), {file: file for file, _ in names.values()}, names)


def _joined(where: str, files: dict[Any, Path], names: dict[str, tuple[Path, str]] | None) -> Weights:
    """The tensors of several files; `names` tells where each lies, None that there is one file with names of its own."""
    opened, told = {}, {}
    for path in files.values():
        with reading(path, FORM, CURE):
            opened[path] = safe_open(path, "pt")
            for there in opened[path].keys():  # noqa: SIM118
                piece = opened[path].get_slice(there)
                told[path, there] = (piece.get_dtype(), tuple(piece.get_shape()))
    names = {there: (path, there) for path, there in told} if names is None else names
    for name, place in names.items():
        if place not in told:
            raise BadData(f"{place[0]} has no tensor {place[1]!r}, which the index promises: {CURE}")
        if told[place][0] not in DTYPES:
            raise BadData(
                f"{name} in {place[0]} is of the type {told[place][0]}, which is not known here: leave it out"
            )
    kinds = {name: Kind(DTYPES[told[place][0]], told[place][1]) for name, place in names.items()}

    def read(name: str) -> Tensor:
        path, there = names[name]
        with reading(path, FORM, CURE):
            return opened[path].get_tensor(there)

    return Weights(where, kinds, read)


def _file_digest(path: Path) -> str:
    found = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            found.update(piece)
    return found.hexdigest()
