"""How the rows of a step are cut into pieces, over ranks and over the micro-batches of each; and brought together again.

A rank is one more way to cut a step: with W ranks and K micro-batches each, the rows of a step are cut into W * K pieces as
those of one process are cut into as many, and rank r has the K that follow those of rank r - 1. Whatever is drawn for a piece
is a function of its number, so a run does not depend on who worked on which.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from . import ranks
from .model import Outputs
from .rows import Batch, Cut, Rows

Seen = tuple[Batch, Outputs]
"""A piece and what the model answered for it."""


def sizes(rows: int, accumulate: int) -> list[list[int]]:
    """How many rows each rank's pieces of a step have; the last ones may be fewer, or none.

    >>> sizes(10, 4)
    [[3, 3, 3, 1]]
    """
    size = max(-(-rows // (accumulate * ranks.world())), 1)
    left = [max(min(rows - k * size, size), 0) for k in range(accumulate * ranks.world())]
    return [[n for n in left[k : k + accumulate] if n] for k in range(0, len(left), accumulate)]


def cut(rows: Rows, step: Tensor, accumulate: int, device: torch.device | str, together: bool) -> list[Batch]:
    """This rank's pieces of a step, at least one; only its own rows are read.

    Args:
        rows: The task's rows.
        step: Which of them the step is made of, on all ranks, (rows,).
        accumulate: Pieces of each rank.
        device: Where they shall lie.
        together: Whether the ranks must call the model equally often. A rank with fewer pieces then gets the first row of the
            step as further ones, of no share; else one without any gets an empty piece.
    """
    if accumulate == ranks.world() == 1:
        return [rows.take(step).to(device)]
    counts = sizes(len(step), accumulate)
    mine, low = counts[ranks.rank()], sum(map(sum, counts[: ranks.rank()]))
    own = rows.take(step[low : low + sum(mine)]).to(device)
    number, pieces = ranks.rank() * accumulate, tuple(map(len, counts))
    found, at = [], 0
    for k, n in enumerate(mine):
        place = Cut(number + k, n / len(own), pieces)
        piece = own if n == len(own) else own.pick(slice(at, at + n))
        found.append(replace(piece, share=n / len(step), before=(low + at) / len(step), cut=place))
        at += n
    lacking = pieces[0] - len(found) if together else int(not found)
    spare = rows.take(step[:1]).to(device) if together and lacking else own
    for _ in range(lacking):
        place = Cut(number + len(found), 0.0 if mine else 1 / lacking, pieces)
        found.append(replace(spare, share=0.0, before=1.0, cut=place))
    return found


def exchanged(seen: list[Seen], device: torch.device) -> list[Seen]:
    """The pieces of all ranks with their answers, in one order, the same on every rank."""
    if ranks.world() == 1:
        return seen
    met = ranks.gathered([[_plain(batch), _plain(out)] for batch, out in seen], device)
    return [(Batch(**batch), Outputs(**out)) for of_rank in met for batch, out in of_rank]


def _plain(part: Batch | Outputs) -> dict[str, Any]:
    held = {f.name: getattr(part, f.name) for f in fields(part) if f.name != "cut"}
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in held.items()}
