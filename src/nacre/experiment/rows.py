"""Rows that somebody wants predicted, brought to the form that the model was trained on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..backbones import Pixels, Tokenizer
from ..core.errors import BadData, shown
from ..core.rows import TensorRows
from ..data import TextRows, TokenRows, check_inputs, tokens_of


@dataclass(frozen=True)
class TrainedOnTexts:
    """What makes tokens of texts as in training.

    Attributes:
        tokenizer: The backbone's.
    """

    tokenizer: Tokenizer

    def rows(self, x: Any) -> TokenRows:
        """Texts as tokens, without labels of their own.

        Args:
            x: A text or several.

        Raises:
            BadData: it holds anything else, or a text of which the tokenizer leaves nothing.
        """
        texts: list[Any] = [x] if isinstance(x, str) else list(x) if isinstance(x, Iterable) else [x]
        if strange := [text for text in texts if not isinstance(text, str)]:
            raise BadData(f"this model reads texts: give a text or a list of texts, not {shown(strange[0])}")
        rows = TextRows(texts, torch.zeros(len(texts), dtype=torch.long))
        return tokens_of("the texts to predict", rows, self.tokenizer)


@dataclass(frozen=True)
class Trained:
    """What a row looked like in training.

    Attributes:
        shape: (channels, height, width) or (width,).
        raw: Whether it was uint8, in 0..255.
        pixels: What brings pictures of other sizes or channels to those of the backbone, where it does.
    """

    shape: tuple[int, ...]
    raw: bool
    pixels: Pixels

    def rows(self, x: Any) -> TensorRows:
        """Rows like those of training: (rows, channels, height, width) or (rows, width), without labels of their own.

        Args:
            x: Such rows, grey ones also without channels, channels first or last; or one row.

        Raises:
            BadData: rows that cannot be read, of another size, or that can be read in two ways.
        """
        found = _tensor(x)
        ways = {tuple(way.shape): way for way in self._ways(found) if self._fits(tuple(way.shape[1:]))}
        exact = {shape: way for shape, way in ways.items() if shape[1:] == self.shape}
        ways = exact or ways
        if len(ways) > 1:
            read = " or ".join("x".join(map(str, shape)) for shape in ways)
            raise BadData(
                f"rows of shape {tuple(found.shape)} may be meant as {read}: give (rows, channels, height, width)"
            )
        if not ways:
            raise BadData(
                f"the model was trained on rows of shape {self.shape}, {tuple(found.shape)} holds none of them: give "
                f"(rows, {', '.join(map(str, self.shape))})"
            )
        (rows,) = ways.values()
        check_inputs("the rows to predict", rows)
        if rows.ndim == 2 and (rows.dtype == torch.uint8) != self.raw:
            then, now = ("uint8", "float") if self.raw else ("float", "uint8")
            raise BadData(f"the model was trained on {then} vectors, these are {now}: scale and convert them as then")
        rows = rows if rows.dtype == torch.uint8 else rows.float()
        return TensorRows(rows, torch.zeros(len(rows), dtype=torch.long))

    def _ways(self, x: Tensor) -> Iterator[Tensor]:
        """In which ways an array may be meant."""
        if x.ndim == len(self.shape) + 1:
            yield x
        if x.ndim == len(self.shape) == 1 or (x.ndim == 2 and tuple(x.shape) == self.shape[1:]):
            yield x.view(1, *self.shape) if x.numel() == torch.Size(self.shape).numel() else x[None]
        if len(self.shape) == 3 and x.ndim in (3, 4) and x.shape[-1] in (1, 3):
            last = x if x.ndim == 4 else x[None]
            yield last.permute(0, 3, 1, 2)
        if len(self.shape) == 3 and x.ndim == 3:
            yield x[:, None]
            if x.shape[0] in (1, 3):
                yield x[None]

    def _fits(self, shape: tuple[int, ...]) -> bool:
        """Whether the backbone reads rows of this shape as it did in training."""
        if len(shape) != 3 or len(self.shape) != 3:
            return shape == self.shape
        channels = shape[0] == self.shape[0] or (self.pixels.channels is not None and shape[0] in (1, 3))
        return channels and (shape[1:] == self.shape[1:] or (self.pixels.size is not None and 0 not in shape))


def _tensor(x: Any) -> Tensor:
    try:
        return x.detach().cpu() if isinstance(x, Tensor) else torch.from_numpy(np.ascontiguousarray(x))
    except (TypeError, ValueError) as error:
        raise BadData(
            f"rows are an array or a tensor of numbers, not {type(x).__name__} ({error}): convert them"
        ) from error
