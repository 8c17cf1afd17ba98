"""Small experiments that end in a second or two."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nacre.core.dice import dice
from nacre.experiment import Config
from nacre.experiment.folder import Folder


def config(*changes: str, stage: list[dict[str, Any]] | None = None, **tables: Any) -> Config:
    """Digits, a small perceptron, two epochs of fine-tuning; with whatever shall differ."""
    base = {
        "backbone": {"source": "mlp:64-32-16"},
        "stage": [{"methods": [], "optimizer": {"name": "adamw", "lr": 3e-3}}] if stage is None else stage,
    }
    return Config.of({**base, **tables}, changes)


def pictures(count: int = 120, classes: int = 6, size: int = 8) -> dict[str, np.ndarray]:
    """Noisy pictures, the class being where they are bright; training and test rows."""
    found = {}
    for part in ("train", "test"):
        y = torch.arange(count) % classes
        x = torch.rand(count, 1, size, size, generator=dice("pictures", part)) * 0.5
        x.flatten(2)[torch.arange(count), 0, y * 7] += 0.5
        found |= {f"x_{part}": (x * 255).to(torch.uint8).numpy(), f"y_{part}": y.numpy()}
    return found


def newest(folder: Path, seed: int = 0) -> Any:
    """The learner in the newest whole checkpoint of a run, which may be saving the next one just now."""
    saved = Folder(folder).newest(seed)
    assert saved is not None, f"{folder} has no checkpoint"
    return saved["learner"]


def same(one: Any, other: Any) -> bool:
    """Whether two trees hold the same values, tensors bit for bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(same(a, b) for a, b in zip(one, other, strict=True))
    return one == other or (one != one and other != other)


def idx(path: Path, array: np.ndarray) -> None:
    """Write an MNIST-format file."""
    with gzip.open(path, "wb") as file:
        file.write(bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes())
