"""Rows of text. A model reads tokens, so somebody has to say how texts become tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from ..core.errors import BadData
from ..core.rows import Batch

Encode = Callable[[list[str]], Mapping[str, Tensor]]
"""Texts -> what a model reads, such as `input_ids` and `attention_mask`, each (rows, tokens)."""


@dataclass(frozen=True)
class TextRows:
    """Labelled texts, kept as they are; they become tokens a batch at a time.

    Attributes:
        texts: (rows,) the texts.
        y: (rows,) labels.
        encode: Makes tokens of texts; without it the rows can be cut into tasks, but no model reads them.

    >>> import torch
    >>> def encode(texts: list[str]) -> dict[str, Tensor]:
    ...     return {"letters": torch.tensor([[len(text)] for text in texts])}
    >>> TextRows(["to be", "or not"], torch.tensor([0, 1]), encode).take(torch.tensor([1])).x
    {'letters': tensor([[6]])}
    """

    texts: list[str]
    y: Tensor
    encode: Encode | None = None

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.y):
            raise BadData(f"there are {len(self.texts)} texts and {len(self.y)} labels: give one label for each text")

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: Tensor) -> Batch:
        """The rows at these positions, as tokens.

        Raises:
            BadData: nobody has said how texts become tokens.
        """
        if self.encode is None:
            raise BadData(
                "text rows need a text backbone, which makes tokens of them: give rows that know how, "
                "TextRows(texts, y, encode)"
            )
        return Batch(dict(self.encode([self.texts[i] for i in index.tolist()])), self.y[index], index)
