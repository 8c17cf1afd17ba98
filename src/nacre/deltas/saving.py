"""Deltas are written, and laid on their base: tensor by tensor, whole or not at all."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from ..core.bits import bits
from ..core.durable import not_saved, remove, sync
from ..core.errors import BadData, BadSetting
from ..core.files import path_of
from ..core.tensor_file import KINDS, write_stream
from .file import FORMAT, Change, Delta
from .weights import Kind, Weights, digest, weights_of

Model = str | Path | Mapping[str, Tensor]


def save(base: Model, new: Model, path: str | Path) -> Delta:
    """Write the entries of `new` whose bits differ from those of `base`; buffers too. Neither model is changed.

    Args:
        base: See `weights_of`.
        new: Likewise.
        path: A `.safetensors` file, which is replaced as a whole.

    Raises:
        BadData: a model cannot be read, or the two have no tensor in common.
        BadSetting: `path` does not end in `.safetensors`.
        NotSaved: the file could not be written.

    >>> import tempfile
    >>> base, place = {"w": torch.zeros(2, 3)}, Path(tempfile.mkdtemp()) / "d.safetensors"
    >>> new = {"w": torch.tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]])}
    >>> delta = save(base, new, place)
    >>> [tuple(t.tolist() for t in delta.entries("w")), delta.total()["moved"]]
    [([2], [1.0]), 1]
    >>> torch.equal(applied(base, delta)["w"], new["w"])
    True
    """
    return write_delta(weights_of(base), weights_of(new), path, None)


def write_delta(old: Weights, now: Weights, path: str | Path, check: Callable[[str], Tensor] | None) -> Delta:
    """The same; `check` reads a tensor of the base and refuses one that is not expected."""
    place = named(path)
    if not old.keys() & now.keys():
        raise BadData(
            f"{old.where} and {now.where} have no tensor in common: a delta is between a model and one that was tuned from it"
        )
    changes: dict[str, Change] = {}
    digests: dict[str, str] = {}
    for name in sorted({*old, *now}):
        then = (check or old.read)(name) if name in old else None
        if then is not None:
            digests[name] = digest(then)
        if (change := _change(then, now.get(name), digests.get(name, ""))) is not None:
            changes[name] = change
    kinds: dict[str, Kind] = {}
    for name, change in changes.items():
        match change.form:
            case "whole":
                kinds[f"whole:{name}"] = change.kind
            case "entries":
                kinds[f"index:{name}"] = Kind(_places(change.entries), (change.moved,))
                kinds[f"value:{name}"] = Kind(change.kind.dtype, (change.moved,))
    last: dict[str, Tensor] = {}  # of the tensor asked for last

    def read(held: str) -> Tensor:
        what, _, name = held.partition(":")
        if name not in last:
            last.clear()
            last[name] = now[name]
        if what == "whole":
            return last[name]
        where = _moved(old[name], last[name])
        return where.to(_places(last[name].numel())) if what == "index" else last[name].contiguous().reshape(-1)[where]

    told = {name: asdict(change) for name, change in changes.items()}
    sizes = {name: math.prod(old.kinds[name].shape) for name in digests}
    about = {"format": FORMAT, "base": json.dumps(digests), "sizes": json.dumps(sizes), "changes": json.dumps(told)}
    write(place, kinds, read, about)
    return Delta(place)


def apply(base: Model, delta: str | Path | Delta, out: str | Path) -> Path:
    """Write the tuned model: the base with the entries of the delta in place, bit for bit what the delta was made of.

    Args:
        base: See `weights_of`.
        delta: What `save` or `merge` wrote.
        out: A `.safetensors` file, which is replaced as a whole.

    Raises:
        BadData: the delta was made of another base, or one of the files cannot be read; nothing is written then.
        BadSetting: `out` does not end in `.safetensors`.
        NotSaved: the file could not be written.
    """
    old, held, place = weights_of(base), delta if isinstance(delta, Delta) else Delta(delta), named(out)
    kinds, read = _result(old, held)
    write(place, kinds, read, {"format": "pt"})
    return place


def applied(base: Model, delta: str | Path | Delta) -> dict[str, Tensor]:
    """The same in memory, as a state dict; the base is left alone.

    Raises:
        BadData: see `apply`.
    """
    kinds, read = _result(weights_of(base), delta if isinstance(delta, Delta) else Delta(delta))
    return {name: read(name).clone() for name in kinds}


def named(path: str | Path) -> Path:
    """The path of a file of weights that is to be written.

    Raises:
        BadSetting: it has another ending.
    """
    place = path_of(path)
    if place.suffix != ".safetensors":
        raise BadSetting(f"{str(path)!r} is to be a file of weights: give a name that ends in .safetensors")
    return place


def write(place: Path, kinds: Mapping[str, Kind], read: Callable[[str], Tensor], about: dict[str, str]) -> None:
    """Put a file in its place once it is whole and on disk; where something fails, what was there stays.

    Raises:
        NotSaved: it could not be written.
    """
    new = place.with_name(place.name + ".new")
    try:
        write_stream(kinds, read, new, about)
        sync(new)
        os.replace(new, place)
        sync(place.parent)
    except OSError as error:
        remove(new)
        raise not_saved(place, error) from error
    except BaseException:
        remove(new)
        raise


def _result(old: Weights, delta: Delta) -> tuple[dict[str, Kind], Callable[[str], Tensor]]:
    """What the tuned model holds, and how each tensor of it is made."""
    delta.refuse_other(old)
    kinds = {n: old.kinds[n] for n in old} | {n: c.kind for n, c in delta.changes.items()}
    for name in (n for n, c in delta.changes.items() if c.form == "gone"):
        delta.checked(old, name)
        del kinds[name]

    def read(name: str) -> Tensor:
        then = delta.checked(old, name) if name in old else None
        if name in delta.changes:
            return delta.tensor(name, then)
        assert then is not None
        return then

    return kinds, read


def _change(then: Tensor | None, now: Tensor | None, before: str) -> Change | None:
    """What became of a tensor; None where nothing did."""
    if now is None:
        assert then is not None
        return Change("gone", KINDS[then.dtype], list(then.shape), 0)
    dtype, shape, entries = KINDS[now.dtype], list(now.shape), now.numel()
    if then is None or then.dtype != now.dtype or then.shape != now.shape:
        return Change("whole", dtype, shape, entries, sha256=digest(now))
    after = digest(now)
    if after == before:
        return None
    count = len(where := _moved(then, now))
    a, b = (t.contiguous().reshape(-1)[where] for t in (then, now))
    wide = torch.complex128 if now.is_complex() else torch.float64
    far, size = (b.to(wide) - a.to(wide)).norm().item(), _size(then, wide)
    small = count * (_places(entries).itemsize + now.element_size()) < entries * now.element_size()
    relative = far / size if size else math.inf
    told = (v if math.isfinite(v) else None for v in (far, relative))
    return Change("entries" if small else "whole", dtype, shape, count, *told, sha256=after)


def _moved(then: Tensor, now: Tensor) -> Tensor:
    """Places in the flattened tensor whose bits differ, rising."""
    return (bits(then) != bits(now)).nonzero().view(-1)


def _size(tensor: Tensor, wide: torch.dtype) -> float:
    """Its Euclidean norm, taken piece by piece."""
    return math.sqrt(sum(piece.to(wide).norm().item() ** 2 for piece in _pieces(tensor.reshape(-1))))


def _pieces(flat: Tensor) -> Iterator[Tensor]:
    yield from flat.split(1 << 22)


def _places(entries: int) -> torch.dtype:
    return torch.int32 if entries < 2**31 else torch.int64
