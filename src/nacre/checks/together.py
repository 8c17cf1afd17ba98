"""What holds where several processes learn one model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core import ranks
from ..core.spawn import in_ranks
from . import again
from .check import Case, Skipped, check
from .kinds import learns
from .machine import smooth
from .runs import end_of, finish, gap, learner
from .worlds import GROWING, SEED, VECTORS, calm, seeded

WITHIN = 1e-5
STREAM = {"splits": GROWING, "rows": 7}  # 14 rows a task: batches of 6, 6 and 2


@check(learns, needs="ranks")
def ranks_agree(case: Case) -> None:
    """Two processes over shards end with equal bits on both, and within 1e-5 of one process on all rows."""
    if case.origin is None:
        raise Skipped("only what stands in examples() of an importable class can be made again by another process")
    origin = case.origin
    ends = case.once("ranks", lambda: in_pair([origin])[0])
    failed = [end for end in ends if isinstance(end, str)]
    case.holds(
        not failed, "two processes learn it together", f"one fails with {failed[:1]}",
        "rows of one rank counted or summed without ranks.total(), or learned outside after_step",
    )  # fmt: skip
    figure = gap(ends[0], ends[1])
    case.holds(not figure, "both processes end with equal bits", figure, "something learned from one rank's rows")
    alone = without_words(
        end_of(finish(_learner(case.fresh(), accumulate=2), VECTORS.stream(**STREAM)), VECTORS.stream())
    )
    figure = gap(alone, ends[0], within=WITHIN)
    case.holds(
        not figure, "two processes end where one does", figure, "a mean of means, or one shard taken for all rows"
    )


def in_pair(origins: Sequence[again.Origin]) -> list[list[Any]]:
    """For each part: its end on each rank, or what went wrong there. All parts run in one pair of processes."""
    return [
        [mapped(torch.from_numpy, end, np.ndarray) for end in ends]
        for ends in zip(*in_ranks(learned_by_all, list(origins), SEED.get()), strict=True)
    ]


def learned_by_all(origins: Sequence[again.Origin], seed: int) -> list[Any]:
    """The ends of these parts on this rank, in worlds of this seed."""
    with seeded(seed):
        return [_end_on_this_rank(origin) for origin in origins]


def _end_on_this_rank(origin: again.Origin) -> Any:
    try:
        who = finish(_learner(again.part_at(origin)), VECTORS.stream(**STREAM))
        with ranks.apart():
            end = without_words(end_of(who, VECTORS.stream()))
        return mapped(Tensor.numpy, end, Tensor)  # tensors would travel as handles of a process that has ended
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _learner(part: Any, accumulate: int = 1) -> Any:
    return learner(part, model=calm(), accumulate=accumulate, **smooth(part))


def without_words(tree: Any) -> Any:
    """A tree without its strings: a digest of weights differs with their last bit."""
    return mapped(lambda _: "", tree, str)


def mapped(use: Callable[[Any], Any], tree: Any, kind: type) -> Any:
    """A tree with `use` applied to every leaf of a kind."""
    if isinstance(tree, dict):
        return {k: mapped(use, v, kind) for k, v in tree.items()}
    if isinstance(tree, list):
        return [mapped(use, v, kind) for v in tree]
    return use(tree) if isinstance(tree, kind) else tree
