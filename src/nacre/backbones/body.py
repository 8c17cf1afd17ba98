"""What every backbone is handed out as, and how its first weights are drawn."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ..core.dice import seed_global
from ..core.errors import BadData, BadSetting
from .pixels import Pixels
from .tokenizer import Tokenizer


@dataclass(frozen=True)
class Body:
    """A backbone and what one has to know to use it.

    Attributes:
        module: Inputs -> features (rows, width).
        pixels: Raw pictures -> inputs of `module`; None where it reads tokens.
        width: Features of a row.
        spec: What `from_spec` builds the same structure from, without weights; ready for JSON.
        tokenizer: Texts -> tokens, for a module that reads them.
    """

    module: nn.Module
    pixels: Pixels | None
    width: int
    spec: dict[str, Any] = field(default_factory=dict)
    tokenizer: Tokenizer | None = None


def weights_of(make: Callable[[], nn.Module]) -> int:
    """How many weights a module has, which is made without taking memory for them."""
    with seeded(0), torch.device("meta"):
        return sum(p.numel() for p in make().parameters())


def refuse_more(weights: int, most: int | None = None) -> None:
    """See that a model is not larger than the weights that there are for it, and than the machine.

    Raises:
        BadData: there are fewer weights for it.
        BadSetting: this machine has not so much memory.
    """
    if most is not None and weights > most:
        raise BadData(
            f"this spec describes a model of {weights:,} weights, and there are {most:,} for it: was it altered?"
        )
    if weights > (room := memory() // 8):  # half of it, at 4 bytes each
        raise BadSetting(
            f"a model of {weights:,} weights needs more memory than this machine has, for {room:,}: make it smaller"
        )


def memory() -> int:
    """Bytes of memory of this machine; without end where it does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return 2**62


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw a backbone's first weights by the seed; the caller's global generators are as before afterwards."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        seed_global(seed, "backbone")
        yield
