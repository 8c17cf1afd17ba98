"""From rows and labels to a checked `Source`; where there are no test rows, some are kept by counted dice."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..core.dice import dice
from ..core.errors import BadData, BadSetting
from ..core.rows import TensorRows
from .source import Column, Source
from .texts import TextRows


@dataclass(frozen=True)
class Part:
    """Rows that belong together, such as those for training.

    Attributes:
        x: (rows, ...) inputs: a tensor, or texts.
        y: (rows,) labels from 0 on.
        beside: What else is known of each row, such as its domain or its time: a name or a number each, by column.
    """

    x: Tensor | list[str]
    y: Tensor
    beside: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def source_of(
    name: str,
    parts: Mapping[str, Part],
    classes: Sequence[str],
    seed: int,
    test_share: float,
    done: Sequence[str] = (),
    groups: Sequence[Sequence[int]] = (),
) -> Source:
    """A source of the parts `train` and, where there are any, `test` and `validation`.

    Args:
        name: What it is called.
        parts: Rows by part. Without test rows validation rows take their place, else a share of each class does.
        classes: Label k is `classes[k]`.
        seed: Draws the share.
        test_share: How large it is.
        done: What was done to the rows so far, for the note.
        groups: Classes that should form one task.

    Raises:
        BadData: rows that `Source` refuses, or a class with too few of them.
        BadSetting: `test_share` is not between 0 and 1.
    """
    parts, done = parted(name, parts, classes, seed, test_share, done)
    rows = {part: _rows(held) for part, held in parts.items()}
    train, test = parts["train"].beside, parts["test"].beside
    return Source(
        name,
        rows["train"],
        rows["test"],
        tuple(classes),
        groups=tuple(tuple(group) for group in groups),
        note="; ".join(dict.fromkeys(done)),
        validation=rows.get("validation"),
        columns={column: Column.of(train[column], test[column]) for column in train if column in test},
    )


def parted(
    name: str, parts: Mapping[str, Part], classes: Sequence[str], seed: int, test_share: float, done: Sequence[str] = ()
) -> tuple[dict[str, Part], list[str]]:
    """The parts with test rows among them, and what was done, with a sentence on where these come from.

    Without test rows validation rows take their place, else a share of each class does; see `source_of`.
    """
    parts, done = dict(parts), list(done)
    if "test" not in parts and "validation" in parts:
        done.append("there are no test rows: the validation rows are for testing")
        parts["test"] = parts.pop("validation")
    if "test" not in parts:
        named = Column.of(parts["train"].beside.get("domain", ()), ())
        train, test = split(
            name, parts["train"].y, classes, seed, test_share, domains=named.train if named.names else None
        )
        done.append(f"split by seed {seed}: of each class a share of {test_share:g} is for testing")
        parts = {"train": _picked(parts["train"], train), "test": _picked(parts["train"], test)}
    return parts, done


def split(
    name: str,
    y: Tensor,
    classes: Sequence[str],
    seed: int,
    share: float,
    part: str = "test",
    domains: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Positions for training and testing: of each class `share` of its rows, at least one for each.

    With domains it is so of each class in each domain that has at least two rows of it; single rows count as one more domain.

    Args:
        name: What the data are called.
        y: (rows,) labels.
        classes: Label k is `classes[k]`.
        seed: Draws the share, together with the name of the part.
        share: How large the part is that is not trained on.
        part: What it is for.
        domains: (rows,) the domain of each row, where a share of each is needed.

    Raises:
        BadData: there are no rows, or a class has only one.
        BadSetting: the share is not between 0 and 1.
    """
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
        raise BadSetting(f"{part}_share is the part of the rows kept back, between 0 and 1, not {share!r}")
    train, test = [], []
    for c in y.unique().tolist():
        rows = (y == c).nonzero().flatten()
        if len(rows) < 2:
            called = classes[c] if c < len(classes) else c
            raise BadData(
                f"{name}: class {called} has one row, so it cannot be trained and tested: give a second one, or test rows "
                "of their own"
            )
        for place, some in [((), rows)] if domains is None else _by_domain(rows, domains):
            some = some[torch.randperm(len(some), generator=dice(seed, part, c, *place))]
            held = min(max(1, int(len(some) * share + 0.5)), len(some) - 1)
            test.append(some[:held])
            train.append(some[held:])
    if not train:
        raise BadData(f"{name}: there are no rows: give at least two of each class")
    return torch.cat(train).sort().values, torch.cat(test).sort().values


def _by_domain(rows: Tensor, domains: Tensor) -> list[tuple[tuple[int, ...], Tensor]]:
    """Rows of one class by domain; the single ones together, under -1, so that a class of nothing else is shared too."""
    found, counts = domains[rows].unique(return_counts=True)
    several = [((d,), rows[domains[rows] == d]) for d in found[counts > 1].tolist()]
    single = rows[torch.isin(domains[rows], found[counts == 1])]
    return [*several, ((-1,), single)] if len(single) else several


def _picked(part: Part, index: Tensor) -> Part:
    x, places = part.x, index.tolist()
    beside = {column: [values[i] for i in places] for column, values in part.beside.items()}
    return Part(x[index] if isinstance(x, Tensor) else [x[i] for i in places], part.y[index], beside)


def _rows(part: Part) -> Any:
    return TensorRows(part.x, part.y) if isinstance(part.x, Tensor) else TextRows(part.x, part.y)
