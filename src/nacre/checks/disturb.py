"""Disturbances on purpose: the only place of the checks that touches global generators."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch


@contextmanager
def other_seeds(mark: int = 12345) -> Iterator[None]:
    """Other global seeds inside, of torch, Python and numpy; as they were outside."""
    python, arrays, tensors = random.getstate(), np.random.get_state(), torch.get_rng_state()
    torch.manual_seed(mark)
    random.seed(mark)
    np.random.seed(mark)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)
        torch.set_rng_state(tensors)


def somebody_draws() -> None:
    """Another user of torch's global generator draws a few numbers."""
    torch.rand(3)
