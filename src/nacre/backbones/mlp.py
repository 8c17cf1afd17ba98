"""The perceptron of countless papers: flat pixels through layers of ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ..core.errors import BadData, BadSetting


class MLP(nn.Module):
    """Linear layers, each followed by ReLU; the features are the last hidden layer.

    Args:
        widths: (inputs, hidden, ..., features).

    Raises:
        BadSetting: fewer than two widths, or one below 1.

    >>> import torch
    >>> MLP((784, 400, 400))(torch.zeros(2, 1, 28, 28)).shape
    torch.Size([2, 400])
    """

    def __init__(self, widths: Sequence[int]):
        super().__init__()
        if len(widths) < 2 or min(widths) < 1:
            raise BadSetting(
                f"an mlp needs the width of its input and of at least one hidden layer, got {'-'.join(map(str, widths))!r}: "
                "write mlp:INPUT-HIDDEN-HIDDEN, such as mlp:784-400-400 for 28x28 grey pictures"
            )
        self.inputs, self.width = widths[0], widths[-1]
        layers = [layer for before, after in pairwise(widths) for layer in (nn.Linear(before, after), nn.ReLU())]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Features (rows, width) of rows of any shape, flattened.

        Raises:
            BadData: a row does not have as many numbers as the first layer reads.
        """
        x = x.flatten(1)
        if x.shape[1] != self.inputs:
            raise BadData(
                f"this mlp reads {self.inputs} numbers a row, the rows have {x.shape[1]}: write mlp:{x.shape[1]}-..., or "
                "let Pixels(channels=..., size=...) bring pictures to one size"
            )
        return self.layers(x)
