"""Vision models of timm, the package of PyTorch image models, which is optional."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import BadData, BadSetting, MissingExtra
from ..core.model import evaluating
from .body import Body, seeded
from .pixels import Pixels

SAFE = {"url": "", "custom_load": False, "hf_hub_filename": "model.safetensors"}
"""Where pre-trained weights come from: safetensors on the hub, never a pickle."""


class Timm(nn.Module):
    """Pooled features of a timm model; its weights are named `net....`.

    Args:
        net: A model made with `num_classes=0`, so that it answers with features.
        width: Features of a row.
    """

    def __init__(self, net: nn.Module, width: int):
        super().__init__()
        self.net, self.width = net, width

    def forward(self, x: Tensor) -> Tensor:
        """Features (rows, width) of pictures (rows, channels, height, width)."""
        return self.net(x)


def timm_model(
    name: str,
    *,
    seed: int = 0,
    pretrained: bool = True,
    channels: int | None = None,
    size: int | tuple[int, int] | None = None,
    pixels: Pixels | None = None,
) -> Body:
    """A vision model by its name in timm; weights are fp32, in eval mode.

    Args:
        name: Such as `vit_tiny_patch16_224`.
        seed: Seeds the weights where `pretrained` is False.
        pretrained: Whether its weights are fetched (once, then kept).
        channels: Channels that the model reads; None = as it was made for.
        size: Side of the pictures; None = as it was made for.
        pixels: How pictures are prepared; None asks timm.

    Raises:
        MissingExtra: timm is not installed.
        BadData: timm has no such model, or its weights cannot be fetched.
        BadSetting: the model does not answer to such pictures with features.
    """
    if not re.fullmatch(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)?", name):
        raise BadSetting(
            f"timm:{name} names no model of timm, such as timm:vit_tiny_patch16_224; give models from elsewhere as a "
            "folder in Hugging Face form"
        )
    try:
        import timm  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtra(f"the backbone 'timm:{name}'", "timm", "vision") from error
    asked: dict[str, Any] = {} if channels is None else {"in_chans": channels}
    if pretrained:
        asked["pretrained_cfg_overlay"] = SAFE
    try:
        with seeded(seed):
            net: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=0, **asked)
    except Exception as error:
        raise BadData(
            f"timm cannot make {name!r}: {error}. timm.list_models() names all; pretrained = false needs no network"
        ) from error
    if pixels is None:
        told = timm.data.resolve_model_data_config(net)
        read = channels or int(told["input_size"][0])
        mean, std = (
            list(told[key]) if len(told[key]) == read else sum(told[key]) / len(told[key]) for key in ("mean", "std")
        )
        pixels = Pixels(read, size or told["input_size"][1:], mean, std)
    assert pixels.size is not None
    try:
        with evaluating(net), torch.no_grad():
            found = net(torch.zeros(1, pixels.channels or 3, *pixels.size))
        width = found.flatten(1).shape[1] if found.ndim == 2 else 0
    except Exception as error:
        raise BadSetting(
            f"timm's {name!r} does not read pictures of {pixels.size[0]}x{pixels.size[1]}: {error}"
        ) from error
    if not width:
        raise BadSetting(
            f"timm's {name!r} answers with {tuple(found.shape)}, not with (rows, width): tap a layer of it"
        )
    spec = {"kind": "timm", "name": name, "channels": channels, "width": width, "pixels": pixels.settings}
    return Body(Timm(net, width).eval(), pixels, width, spec)
