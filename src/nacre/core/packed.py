"""Trees of plain values and tensors as one row of bytes, which travels between processes; and back, bit for bit."""

from __future__ import annotations

import json
from typing import Any

import torch
from torch import Tensor

from .tree import from_json, to_json

_ALIGN = 16  # bytes: where a tensor may begin among others


def packed(tree: Any, device: torch.device | str) -> tuple[Tensor, int]:
    """A tree as bytes on a device, and how many of them at the front are text.

    Raises:
        TypeError: the tree holds what is neither plain nor a tensor; the message names its path.

    >>> row, text = packed({"a": torch.ones(2), "b": [1, None]}, "cpu")
    >>> unpacked(row, text)
    {'a': tensor([1., 1.]), 'b': [1, None]}
    """
    tensors: dict[str, Tensor] = {}
    tree = to_json(tree, tensors, moved=False)
    kinds = [[n, str(t.dtype).removeprefix("torch."), list(t.shape), t.device.type] for n, t in tensors.items()]
    text = torch.frombuffer(bytearray(json.dumps({"tree": tree, "tensors": kinds}).encode()), dtype=torch.uint8)
    pieces = [text, *(t.reshape(-1).contiguous().view(torch.uint8) for t in tensors.values())]
    padded = [torch.nn.functional.pad(piece.to(device), (0, -len(piece) % _ALIGN)) for piece in pieces]
    return torch.cat(padded), len(text)


def unpacked(row: Tensor, text: int) -> Any:
    """The tree that was packed; its tensors lie on the kind of device that they came from."""
    head, at = json.loads(bytes(row[:text].tolist())), text + -text % _ALIGN
    tensors: dict[str, Tensor] = {}
    for name, dtype, shape, kind in head["tensors"]:
        size = torch.Size(shape).numel() * getattr(torch, dtype).itemsize
        there = torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)
        tensors[name] = row[at : at + size].clone().view(getattr(torch, dtype)).view(shape).to(there)
        at += size + -size % _ALIGN
    return from_json(head["tree"], tensors)
