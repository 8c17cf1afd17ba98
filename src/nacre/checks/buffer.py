"""What holds for every memory of rows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..core.dice import dice
from ..core.rows import Batch
from .check import Case, Skipped, check
from .disturb import other_seeds
from .kinds import is_memory
from .runs import gap, tensors_of

CAPACITY = 8
SEEDS = 2000
SIGMAS = 4.0


@check(is_memory)
def bounded(case: Case) -> None:
    """It never holds more rows than its capacity, and its bytes go with the capacity, not with the stream."""
    memory, sizes = _small(case), []
    for k in range(40):
        memory.add(_rows(10 * k, 10))
        held = len(memory)
        case.holds(held <= CAPACITY, f"at most {CAPACITY} rows are held", f"{held} are", "a list that is never cut")
        sizes.append(sum(t.nbytes for t in tensors_of(memory.state_dict())))
    case.holds(
        sizes[-1] <= sizes[4], "its bytes stay the same once it is full",
        f"{sizes[4]} bytes after 50 rows, {sizes[-1]} after 400", "rows that are kept beside the block",
    )  # fmt: skip


@check(is_memory)
def keeps_what_it_promises(case: Case) -> None:
    """A uniform memory holds a row with probability capacity / seen; a balanced one differs by one row a class or task."""
    promise = case.part.promises
    if promise.startswith("balanced"):
        memory = _small(case, seed=case.seed)
        groups = torch.tensor([0] * 40 + [1] * 10 + [2] * 5)[torch.randperm(55, generator=dice(case.seed, "order"))]
        by_task, other = promise == "balanced by task", torch.arange(55) % 2
        memory.add(Batch(torch.zeros(55, 1), other if by_task else groups, task=groups if by_task else other))
        past = memory.draw(CAPACITY)
        counts = (past.task if by_task else past.y).bincount(minlength=3)
        spread, kind = int(counts.max() - counts.min()), "tasks" if by_task else "classes"
        case.holds(
            spread <= 1, f"{kind}' counts differ by one at most", f"they are {counts.tolist()}", "first come first kept"
        )
    elif promise == "uniform":
        held = torch.zeros(3 * CAPACITY)
        for seed in range(SEEDS):
            memory = _small(case, seed=seed)
            memory.add(_rows(0, 2 * CAPACITY))
            memory.add(_rows(2 * CAPACITY, CAPACITY))
            held[memory.draw(CAPACITY).x[:, 0].long()] += 1
        share = 1 / 3
        far = ((held / SEEDS - share) / (share * (1 - share) / SEEDS) ** 0.5).abs().max().item()
        case.holds(
            far < SIGMAS, f"each of {3 * CAPACITY} rows is held in a third of {SEEDS} runs within {SIGMAS:g} sigma",
            f"one is {far:.1f} sigma away", "a slot drawn from one row too few or too many",
        )  # fmt: skip
    else:
        raise Skipped("it makes no promise about which rows it holds")


@check(is_memory)
def rows_stay_together(case: Case) -> None:
    """Inputs, labels, task ids and fields of methods that are drawn belong to one row, and are copies."""
    memory = _small(case)
    figure = "" if memory.draw(3) is None else "a draw from nothing gives rows"
    case.holds(not figure, "a draw from an empty memory gives None", figure, "an empty batch, which models reject")
    for k in range(6):
        batch = _rows(10 * k, 10)
        memory.add(batch, logits=_logits_of(batch.x[:, 0]))
        batch.x.fill_(-1.0)  # whoever keeps a view of it is seen
    for count in (3, CAPACITY, 5 * CAPACITY):
        past = memory.draw(count)
        assert past is not None
        case.holds(
            len(past) == min(count, len(memory)), f"a draw of {count} from {len(memory)} gives what there is",
            f"it gives {len(past)}", "a draw with replacement",
        )  # fmt: skip
        number = past.x[:, 0]
        together = (past.y == _label_of(number)).all() and torch.equal(past.extra["logits"], _logits_of(number))
        together = together and past.task is not None and bool((past.task == number.long() // 10).all())
        case.holds(
            bool(together), "what is drawn belongs to one row", "labels, logits or task ids are those of other rows",
            "fields that are shuffled or overwritten apart, or views of the batch instead of copies",
        )  # fmt: skip
        case.holds(len(number.unique()) == len(number), "no row is drawn twice", "one is", "two rows in one slot")
        past.x.fill_(-1.0)
        past.y.fill_(99)
    figure = "" if memory.draw(0) is None else "it gives rows"
    case.holds(not figure, "a draw of 0 gives None", figure, "an empty batch, which models reject")


@check(is_memory)
def independent_dice(case: Case) -> None:
    """Adding and drawing leave the global generator alone; two memories of one seed agree, two of different seeds do not."""
    ends, marks = [], (1, 2, 3)
    for seed, mark in zip((0, 0, 1), marks, strict=True):
        memory = _small(case, seed=seed)
        for k in range(6):
            memory.add(_rows(10 * k, 10))
        with other_seeds(mark):  # whoever draws from the global generator draws otherwise
            before = torch.get_rng_state()
            ends.append([memory.draw(4).x, memory.draw(4).x])
            memory.add(_rows(60, 10))
            same = torch.equal(before, torch.get_rng_state())
        case.holds(same, "the global generator is left alone", "it moved", "torch.rand without a generator")
    figure = gap(ends[0], ends[1])
    case.holds(not figure, "two memories of one seed draw alike", figure, "a draw from the global generator")
    case.holds(bool(gap(ends[0], ends[2])), "another seed draws other rows", "it draws the same", "a seed nobody reads")


def _small(case: Case, seed: int | None = None) -> Any:
    """A fresh memory of few rows."""
    memory = case.fresh()
    return replace(memory, capacity=CAPACITY, seed=memory.seed if seed is None else seed)


def _rows(first: int, count: int) -> Batch:
    """Rows that carry their number in every field."""
    number = torch.arange(first, first + count, dtype=torch.float32)
    return Batch(number[:, None].repeat(1, 3), _label_of(number), task=number.long() // 10)


def _label_of(number: Tensor) -> Tensor:
    return (number.long() * 7) % 3


def _logits_of(number: Tensor) -> Tensor:
    return number[:, None] + torch.tensor([0.25, 0.5])
