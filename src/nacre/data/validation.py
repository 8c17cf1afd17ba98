"""Data on which settings are chosen: validation rows stand in for the test rows, which nobody sees."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..core.rows import TensorRows
from .blocks import BlockRows
from .source import Known, Source
from .splitting import split
from .texts import TextRows
from .tokens import TokenRows


def without_test_rows(source: Source, seed: int = 0, share: float = 0.1) -> Source:
    """The same data, its test rows replaced by validation rows.

    Where the data bring validation rows of their own, these are used and all training rows stay. Else a share of the training
    rows of each class is kept back, drawn by the seed, and no longer trained on; of each class in each domain where the data
    have a column `domain` of names, so that a small domain keeps validation rows.

    Args:
        source: The data.
        seed: Draws the share.
        share: How large it is, between 0 and 1.

    Raises:
        BadSetting: the share is not between 0 and 1.
        BadData: a class has only one training row.

    >>> from nacre.data import load
    >>> whole = load("digits")
    >>> chosen_on = without_test_rows(whole, share=0.25)
    >>> len(whole.train), len(chosen_on.train), len(chosen_on.test)
    (1197, 896, 301)
    """
    if source.validation is not None and not source.columns:  # of whose values in validation rows nothing is known
        note = _noted(source, "scored on the validation rows of the data, not on its test rows")
        return replace(source, test=source.validation, validation=None, note=note, sha256="")
    domain = source.columns.get("domain")
    domains = domain.train if domain is not None and domain.names else None
    train, held = split(source.name, source.train.y, source.classes, seed, share, "validation", domains)
    note = _noted(
        source, f"scored on a share of {share:g} of the training rows, drawn by seed {seed}, not on test rows"
    )
    columns = {name: replace(c, train=c.train[train], test=c.train[held]) for name, c in source.columns.items()}
    parts = {"train": _picked(source.train, train), "test": _picked(source.train, held)}
    return replace(source, **parts, validation=None, columns=columns, note=note, sha256="")


def _noted(source: Source, more: str) -> str:
    return f"{source.note}; {more}" if source.note else more


def _picked(rows: Known, index: Tensor) -> Known:
    if isinstance(rows, TextRows):
        return replace(rows, texts=[rows.texts[i] for i in index.tolist()], y=rows.y[index])
    if isinstance(rows, TokenRows):
        return replace(rows, tokens=rows.tokens.chosen(index), y=rows.y[index])
    if isinstance(rows, BlockRows):
        return rows.chosen(index)
    batch = rows.take(index)
    return TensorRows(batch.x, batch.y)
