"""Trees of plain values and tensors: as JSON beside named tensors and back, bit for bit; and copies of them."""

from __future__ import annotations

import math
import re
import struct
from typing import Any

import torch
from torch import Tensor

from .tensor_file import KINDS

DEPTH = 100  # levels of a tree
NON_FINITE = re.compile("[0-9a-f]{16}")


def to_json(tree: Any, tensors: dict[str, Tensor], moved: bool = True) -> Any:
    """A tree as values that JSON can hold.

    Args:
        tree: Tensors, numbers, strings, booleans, None, and lists, tuples or dicts of these; keys are strings or whole numbers.
        tensors: The tree's tensors are put here, each under a name of its own.
        moved: Whether they are put on the CPU.

    Raises:
        TypeError: the tree holds something else; the message names its path.

    >>> held = {}
    >>> to_json([1.5, torch.ones(2)], held), held
    ({'list': [1.5, {'tensor': '0:/1'}]}, {'0:/1': tensor([1., 1.])})
    """
    jsoned = _jsoned(tree, "", tensors)
    if moved:
        tensors.update({name: t.cpu() for name, t in tensors.items()})
    return jsoned


def from_json(saved: Any, tensors: dict[str, Tensor]) -> Any:
    """The tree that `to_json` was given; each tensor is taken out of `tensors`.

    Raises:
        ValueError: `to_json` writes no such thing.
    """
    return _valued(saved, tensors)


def copied(tree: Any) -> Any:
    """The same tree with tensors of its own."""
    match tree:
        case Tensor():
            return tree.detach().clone()
        case dict():
            return {key: copied(held) for key, held in tree.items()}
        case list() | tuple():
            return type(tree)(copied(held) for held in tree)
    return tree


def _jsoned(value: Any, path: str, tensors: dict[str, Tensor], depth: int = 0) -> Any:
    """A value for `state.json`; its tensors are put into `tensors`, each under a name of its own."""
    if depth > DEPTH:
        raise TypeError(f"{path[:80]}...: a checkpoint holds at most {DEPTH} levels")

    def inner(held: Any, key: Any) -> Any:
        return _jsoned(held, f"{path}/{key}", tensors, depth + 1)

    where = path or "the tree"
    match value:
        case Tensor():
            if value.layout is not torch.strided or value.is_quantized or value.is_meta or value.dtype not in KINDS:
                raise TypeError(f"{where}: a checkpoint cannot hold a tensor of {value.dtype}, {value.layout}")
            name = (
                f"{len(tensors)}:{path.encode('ascii', 'backslashreplace').decode()}"  # numbered: paths may read alike
            )
            tensors[name] = value.detach().resolve_conj().resolve_neg().contiguous()
            return {"tensor": name}
        case dict():
            if strange := [key for key in value if not isinstance(key, (str, int))]:
                raise TypeError(f"{where}: a key is a string or a whole number, not {strange[0]!r}")
            return {"dict": [[key, inner(held, key)] for key, held in value.items()]}
        case list() | tuple():
            kind = "list" if isinstance(value, list) else "tuple"
            return {kind: [inner(held, i) for i, held in enumerate(value)]}
        case float() if not math.isfinite(value):
            return {"float": struct.pack(">d", value).hex()}  # a NaN keeps its bits
        case bool() | int() | float() | str() | None:
            return value
    raise TypeError(f"{where}: a checkpoint cannot hold a {type(value).__name__}")


def _valued(saved: Any, tensors: dict[str, Tensor], depth: int = 0) -> Any:
    if depth > DEPTH:
        raise ValueError(f"it has more than {DEPTH} levels")

    def inner(held: Any) -> Any:
        return _valued(held, tensors, depth + 1)

    if saved is None or isinstance(saved, (bool, int, float, str)):
        return saved
    match next(iter(saved.items())) if isinstance(saved, dict) and len(saved) == 1 else None:
        case ("tensor", str(name)) if name in tensors:
            return tensors.pop(name)
        case ("tensor", name):
            raise ValueError(f"it names a tensor {str(name)[:80]!r} that is not held, or names it twice")
        case ("dict", list(pairs)) if all(map(_is_pair, pairs)) and len({key for key, _ in pairs}) == len(pairs):
            return {key: inner(held) for key, held in pairs}
        case ("list", list(items)):
            return [inner(held) for held in items]
        case ("tuple", list(items)):
            return tuple(inner(held) for held in items)
        case ("float", str(bits)) if NON_FINITE.fullmatch(bits):
            return struct.unpack(">d", bytes.fromhex(bits))[0]
    raise ValueError(f"it holds {str(saved)[:80]}")


def _is_pair(saved: Any) -> bool:
    return isinstance(saved, list) and len(saved) == 2 and isinstance(saved[0], (str, int))
