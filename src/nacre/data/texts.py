"""Rows of text, as they are before a backbone's tokenizer has made tokens of them, once: see `Source.tokenized`."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ..core.errors import BadData
from ..core.rows import Batch


@dataclass(frozen=True)
class TextRows:
    """Labelled texts, kept as they are; they can be cut into tasks, but no model reads them.

    Attributes:
        texts: (rows,) the texts.
        y: (rows,) labels.

    >>> import torch
    >>> len(TextRows(["to be", "or not"], torch.tensor([0, 1])))
    2
    """

    texts: list[str]
    y: Tensor

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.y):
            raise BadData(f"there are {len(self.texts)} texts and {len(self.y)} labels: give one label for each text")

    def __len__(self) -> int:
        return len(self.y)

    def take(self, index: Tensor) -> Batch:
        """Refused: nothing reads texts.

        Raises:
            BadData: always.
        """
        raise BadData(
            "text rows need a text backbone, which makes tokens of them: give source.tokenized(body.tokenizer) of the source "
            "that holds them"
        )
