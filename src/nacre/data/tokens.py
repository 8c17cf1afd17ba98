"""Rows of tokens: texts that went through a backbone's tokenizer once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core.errors import BadData, shown
from ..core.ragged import Ragged
from ..core.rows import Batch
from .refusals import refuse_halves
from .texts import TextRows

Tokenize = Callable[[Sequence[str]], Ragged]
"""Texts -> their tokens, a row each."""


@dataclass(frozen=True)
class TokenRows:
    """Labelled rows of tokens, held as one vector a field and padded a batch at a time to its longest row.

    Attributes:
        tokens: The tokens of all rows, such as `input_ids` in int32.
        y: (rows,) labels.
        made_by: Digest of the tokenizer that made them; empty where it is not known.

    >>> import torch
    >>> held = Ragged({"input_ids": torch.tensor([7, 8, 9])}, torch.tensor([1, 3]))
    >>> batch = TokenRows(held, torch.tensor([0, 1])).take(torch.tensor([1, 0]))
    >>> batch.x["input_ids"].tolist(), batch.x["attention_mask"].tolist()
    ([[8, 9], [7, 0]], [[True, True], [True, False]])
    """

    tokens: Ragged
    y: Tensor
    made_by: str = ""

    def __post_init__(self) -> None:
        if len(self.tokens) != len(self.y):
            raise BadData(
                f"there are {len(self.tokens)} rows of tokens and {len(self.y)} labels: give one label for each row"
            )

    def __len__(self) -> int:
        return len(self.y)

    @property
    def lengths(self) -> Tensor:
        """(rows,) tokens of each row."""
        return self.tokens.lengths

    def take(self, index: Tensor) -> Batch:
        """The rows at these positions, padded to the longest of them."""
        return Batch(self.tokens.padded(index), self.y[index], index)


def tokens_of(what: str, rows: Any, tokenize: Tokenize) -> TokenRows:
    """Rows of texts as rows of tokens.

    Args:
        what: What they are called in messages.
        rows: The texts.
        tokenize: The tokenizer.

    Raises:
        BadData: no texts, half a letter, or a text of which the tokenizer leaves nothing.
    """
    if not isinstance(rows, TextRows):
        raise BadData(f"{what}: there are no texts to make tokens of: give rows of texts (nacre.data.TextRows)")
    for row, text in enumerate(rows.texts, 1):
        refuse_halves(what, row, text)
    tokens = tokenize(rows.texts)
    if len(empty := (tokens.lengths == 0).nonzero().flatten()):
        row = int(empty[0])
        raise BadData(
            f"{what}: the tokenizer leaves nothing of {len(empty)} texts, the first is row {row + 1} with "
            f"{shown(rows.texts[row])}: leave them out"
        )
    return TokenRows(tokens, rows.y, getattr(tokenize, "sha256", ""))
