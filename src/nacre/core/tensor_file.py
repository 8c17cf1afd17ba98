"""Tensors in a file of the safetensors format: a header of JSON that says what lies where, and then their bytes.

The package `safetensors` reads such files. It is not asked to write them: for each tensor of a size that it has not met, its
writer keeps a type of ctypes for ever, about 400 bytes, so that who saves growing tensors a thousand times grows, too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

KINDS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The types of tensors that such a file holds, and what it calls them."""
ALIGNED = 8  # bytes


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors by name; the order of the mapping does not matter. The caller waits for the disk.

    >>> import tempfile
    >>> from safetensors.torch import load_file
    >>> place = Path(tempfile.mkdtemp()) / "held.safetensors"
    >>> write_tensors({"half": torch.ones(2, dtype=torch.bfloat16), "one": torch.tensor(3)}, place)
    >>> load_file(place)["one"], load_file(place)["half"]
    (tensor(3), tensor([1., 1.], dtype=torch.bfloat16))
    """
    write_stream({name: (t.dtype, tuple(t.shape)) for name, t in tensors.items()}, tensors.__getitem__, path)


def write_stream(
    kinds: Mapping[str, tuple[torch.dtype, tuple[int, ...]]],
    read: Callable[[str], Tensor],
    path: Path,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write tensors one after the other, each asked for once, when its turn comes. The caller waits for the disk.

    Args:
        kinds: By name, what is written: its type and shape.
        read: The tensor of a name.
        path: Where to.
        metadata: Texts that the header carries.
    """
    names = sorted(kinds, key=lambda name: (-kinds[name][0].itemsize, name))  # wide ones first: all are aligned
    header, end = {}, 0
    if metadata is not None:
        header["__metadata__"] = dict(metadata)
    for name in names:
        (dtype, shape), start = kinds[name], end
        end += math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": KINDS[dtype], "shape": list(shape), "data_offsets": [start, end]}
    said = json.dumps(header).encode()
    said += b" " * (-len(said) % ALIGNED)
    with path.open("wb") as file:
        file.write(len(said).to_bytes(ALIGNED, "little") + said)
        for name in names:
            held = read(name).detach().resolve_conj().resolve_neg().cpu().contiguous()
            file.write(held.flatten().view(torch.uint8).numpy().data)
