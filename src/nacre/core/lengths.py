"""Rows of like length together, where rows know how long they are: their batches are padded little.

Nothing is drawn here but with a generator that is given, so that orders stay a function of seed and position.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .rows import Rows, lengths_of

WINDOW = 50  # batches of an order that are sorted together
PADDING = 0.1  # share of places that are padding, at most
FEW = 2**10  # places of all rows that may be padded more
PLACES = 2**14  # places of all rows that are read at once, padding included; one longer row is read alone


def bucketed(order: Tensor, lengths: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """The same positions in an order whose batches hold rows of like length.

    Within windows of 50 batches rows are sorted by length and cut into batches; the batches of a window are then shuffled,
    and the rows of a batch stand as they did. Rows that make no whole batch stay at the end, as they were drawn.

    Args:
        order: (rows,) positions, shuffled.
        lengths: How long the row at each position is.
        size: Rows of a batch.
        generator: Shuffles the batches.

    >>> lengths = torch.tensor([1, 9, 2, 8, 1, 9, 2, 8, 5])
    >>> order = bucketed(torch.arange(9), lengths, 2, torch.Generator().manual_seed(0))
    >>> sorted(lengths[order[:8]].view(4, 2).tolist()), order[8].item()
    ([[1, 1], [2, 2], [8, 8], [9, 9]], 8)
    """
    whole = len(order) // size * size
    found: list[Tensor] = []
    for window in order[:whole].split(WINDOW * size):
        batches = lengths[window].argsort(stable=True).view(len(window) // size, size).sort(1).values
        shuffled = torch.randperm(len(batches), generator=generator)
        found.append(window[batches[shuffled].flatten()])
    return torch.cat([*found, order[whole:]])


def readings(rows: Rows, size: int = 500) -> list[Tensor]:
    """Positions of all rows in pieces to be read at once: in their order, or the shorter first where they know lengths.

    A piece of rows that know lengths ends before a row that would make more than a tenth of its places padding, unless it
    has `FEW` places at most with it, which cost next to nothing.

    Args:
        rows: What is read.
        size: Rows of a piece at most; of rows that know lengths a piece also has `PLACES` places at most.
    """
    lengths = lengths_of(rows)
    if lengths is None:
        return list(torch.arange(len(rows)).split(size)) if len(rows) else []
    order = lengths.argsort(stable=True)
    ascending, pieces, low = lengths[order], [], 0
    counts = torch.arange(1, size + 1)
    while low < len(order):
        ahead = ascending[low : low + size]
        places = ahead * counts[: len(ahead)]
        fits = (places <= PLACES) & ((places <= FEW) | (ahead.cumsum(0) >= (1 - PADDING) * places))
        fitting = int(fits.int().cumprod(0).sum())
        pieces.append(order[low : low + max(fitting, 1)])
        low += max(fitting, 1)
    return pieces


def put_back(found: list[Tensor], pieces: list[Tensor]) -> Tensor:
    """What was found for each of `readings`, as one tensor in the order of the rows."""
    order, values = torch.cat(pieces), torch.cat(found)
    return values if bool((order[1:] > order[:-1]).all()) else values[order.argsort()]
