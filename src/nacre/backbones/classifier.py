"""A model made of its three parts: pixels, body, head.

Shapes: features (rows, width), logits (rows, classes).
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

from ..core.errors import BadSetting
from .body import Body


class Answer(NamedTuple):
    """What a classifier answers with.

    Attributes:
        logits: (rows, classes).
        features: (rows, width), what the head read.
    """

    logits: Tensor
    features: Tensor


class Classifier(nn.Module):
    """Reads raw pictures through `pixels` and `body`, or tokens through `body`, and lets `head` answer.

    The head grows, not the classifier: `nacre.grow` asks every submodule that can. Weights are named `body....` and
    `head....`.

    Args:
        body: Inputs -> features (rows, width), or a `Body`, which brings its own pixels.
        head: Features -> logits (rows, classes).
        pixels: Raw rows -> inputs of the body; None gives the body the rows as they are.
        width: Features of a row; None asks the body, then the head.

    Raises:
        BadSetting: nothing says how wide the features are, or head and body disagree.

    >>> from nacre.backbones import backbone
    >>> model = Classifier(backbone("mlp:64-32"), nn.Linear(32, 10))
    >>> import torch
    >>> model(torch.zeros(5, 1, 8, 8, dtype=torch.uint8)).logits.shape
    torch.Size([5, 10])
    """

    head_names = ("head",)

    def __init__(
        self, body: nn.Module | Body, head: nn.Module, pixels: nn.Module | None = None, *, width: int | None = None
    ):
        super().__init__()
        if isinstance(body, Body):
            pixels, width, body = pixels or body.pixels, width or body.width, body.module
        self.pixels, self.body, self.head = pixels, body, head
        read = getattr(head, "in_features", None)
        found = width or getattr(body, "width", None) or read
        if not isinstance(found, int):
            raise BadSetting(
                f"how wide are the features of {type(body).__name__}? Neither the body (.width) nor the head (.in_features) "
                "says so: give Classifier(..., width=...)"
            )
        if isinstance(read, int) and read != found:
            raise BadSetting(f"the head reads {read} features, the body gives {found}: make the head {found} wide")
        self.width: int = found

    @property
    def takes_task(self) -> bool:
        """Whether the head wants to be told the task ids of rows."""
        told = getattr(self.head, "takes_task", None)  # asked at every step: what a module lacks is slow to look for
        return bool(told) if told is not None else getattr(self.head, "owner", None) is not None

    def forward(
        self, x: Tensor | None = None, task: Tensor | None = None, features: Tensor | None = None, **fields: Tensor
    ) -> Answer:
        """Answer for raw rows.

        Args:
            x: (rows, ...) as the data hold them.
            task: (rows,) task ids; None = hidden. Heads that do not separate tasks never see it.
            features: (rows, width) where the body has read the rows before, instead of rows.
            **fields: Instead of `x`, what the body reads by name, such as `input_ids` and `attention_mask`.
        """
        if features is None:
            features = self._read(x, fields)
        logits = self.head(features) if task is None or not self.takes_task else self.head(features, task)
        return Answer(logits, features)

    def _read(self, x: Tensor | None, fields: dict[str, Tensor]) -> Tensor:
        if x is None:
            return self.body(**fields)
        return self.body(x if self.pixels is None else self.pixels(x))
