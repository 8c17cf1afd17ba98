"""Features of models that answer with logits alone: what their last linear layer reads.

Shapes: features (rows, width).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

LAYERS = ("classifier", "score", "head", "heads", "fc")
"""What models call the layer, or the module around it, that their logits come from."""


class _Seen:
    """Two hooks: what the last layer reads is noted, and goes out with the answer."""

    def __init__(self) -> None:
        self.features: Tensor | None = None

    def read(self, layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.features = inputs[0]

    def give(self, model: nn.Module, inputs: tuple[Any, ...], answer: Any) -> None:
        features, self.features = self.features, None
        if (
            features is not None
            and features.ndim == 2
            and not hasattr(answer, "features")
            and hasattr(answer, "logits")
        ):
            answer.features = features


def with_features(model: nn.Module) -> nn.Module:
    """The same model, whose answers carry `.features`, (rows, width), beside `.logits`; weights and names stay as they are.

    A model whose answers have features already, or whose last layer is not found, is left alone.

    >>> from types import SimpleNamespace
    >>> class Net(nn.Module):
    ...     def __init__(self):
    ...         super().__init__()
    ...         self.body, self.classifier = nn.Linear(4, 3), nn.Linear(3, 2)
    ...     def forward(self, x):
    ...         return SimpleNamespace(logits=self.classifier(self.body(x)))
    >>> import torch
    >>> with_features(Net())(torch.ones(5, 4)).features.shape
    torch.Size([5, 3])
    """
    around = next((m for name in LAYERS if isinstance(m := getattr(model, name, None), nn.Module)), None)
    layers = [m for m in around.modules() if isinstance(m, nn.Linear)] if around is not None else []
    if not layers or any(isinstance(getattr(h, "__self__", None), _Seen) for h in model._forward_hooks.values()):
        return model
    seen = _Seen()
    layers[-1].register_forward_pre_hook(seen.read)
    model.register_forward_hook(seen.give)
    return model
