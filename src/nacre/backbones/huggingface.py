"""Vision models in Hugging Face form: a folder, or a name on the hub.

Weights are read from safetensors only and code that comes with a model is never run. The image processors of transformers
need torchvision, so size, mean and std are read from `preprocessor_config.json` here; pictures are resized to the size the
model was trained with, never cropped.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import BadSetting
from ..core.model import evaluating
from .body import Body
from .huggingface_config import first_sentence, pixels_of, plain, sides_of
from .huggingface_loading import cut_to, from_config, load, quiet
from .pixels import Pixels

CLASS_TOKENS = ("cls_token", "class_token", "class_embedding")  # a model with one of these answers with token 0


class HuggingFace(nn.Module):
    """Features of a Hugging Face vision model; its weights are named `net....`.

    Args:
        net: A model that answers `pixel_values` with an object that has `last_hidden_state`.
        pool: `"first"` token, the model's own `"pooler"`, the `"mean"` over tokens or positions; `"auto"` is the first
            token where the model has a class token, else its pooler, else the mean.
        interpolate: Ask the model to stretch its position embeddings to the size of the pictures.
    """

    def __init__(self, net: nn.Module, pool: str = "auto", interpolate: bool = False):
        super().__init__()
        self.net, self.interpolate = net, interpolate
        if pool == "auto" and any(n.rsplit(".", 1)[-1] in CLASS_TOKENS for n, _ in net.named_parameters()):
            pool = "first"
        self.pool, self.width = pool, 0

    def forward(self, x: Tensor) -> Tensor:
        """Features (rows, width) of pictures (rows, channels, height, width)."""
        asked = {"interpolate_pos_encoding": True} if self.interpolate else {}
        answer: Any = self.net(pixel_values=x, **asked)
        pooled: Any = getattr(answer, "pooler_output", None)
        if self.pool == "pooler" or (self.pool == "auto" and pooled is not None):
            return pooled.flatten(1)
        hidden = answer.last_hidden_state  # (rows, tokens, width) or (rows, width, height, width)
        if self.pool == "first":
            return hidden[:, 0]
        return hidden.mean(1) if hidden.ndim == 3 else hidden.flatten(2).mean(2)


def vision_model(
    transformers: Any,
    where: str | Path,
    config: Any,
    *,
    seed: int = 0,
    pretrained: bool = True,
    channels: int | None = None,
    size: int | tuple[int, int] | None = None,
    layers: int | None = None,
    name: str | None = None,
) -> Body:
    """Load a vision model from a folder or the hub; weights become fp32, in eval mode.

    Args:
        transformers: The package.
        where: A folder with `config.json`, or an id such as `facebook/dinov2-small`.
        config: What `config.json` says.
        seed: Seeds the weights where `pretrained` is False.
        pretrained: False takes the structure only, with random weights.
        channels: Must be what the model reads where it is pre-trained.
        size: Side of the pictures; None takes what the model was trained with.
        layers: Leave out the layers behind so many; None = none.
        name: What the spec calls it; None = `where`.

    Raises:
        BadData: weights in another form than safetensors, or weights that do not fit.
        BadSetting: settings that do not fit the model.
    """
    cut_to(config, layers, str(where))
    side = sides_of(size) if size is not None else None
    if side is not None and not pretrained and getattr(config, "image_size", None) is not None:
        config.image_size = list(side) if len(set(side)) > 1 else side[0]
    pixels = pixels_of(transformers, where, config, channels, side, pretrained)
    net = load(transformers, where, config, pretrained, seed)
    return _body(net, config, pixels, "auto", str(name or where))


def from_vision_spec(spec: dict[str, Any], seed: int = 0, most: int | None = None) -> Body:
    """The same structure again, with random weights, from the spec alone: no folder and no hub is asked.

    Raises:
        BadData: it describes no model, one that needs code of others, or one of more weights than `most`.
    """
    with quiet() as transformers:
        net, config = from_config(transformers, spec, seed, most)
        return _body(net, config, Pixels(**spec["pixels"]), spec["pool"], spec["source"])


def _body(net: nn.Module, config: Any, pixels: Pixels, pool: str, source: str) -> Body:
    """Wrap a model, and learn its width from one empty picture."""
    assert pixels.size is not None
    takes = "interpolate_pos_encoding" in inspect.signature(net.forward).parameters
    trained = getattr(config, "image_size", None)
    module = HuggingFace(net, pool, takes and trained is not None and sides_of(trained) != pixels.size)
    try:
        with evaluating(module), torch.no_grad():
            features = module(torch.zeros(1, pixels.channels or 3, *pixels.size))
    except Exception as error:
        raise BadSetting(
            f"{source!r} ({type(net).__name__}) does not answer to pictures of {pixels.size[0]}x{pixels.size[1]} with "
            f"features: {first_sentence(error)}. Give another size, or load the model yourself and tap a layer of it: "
            "backbone(module, layer=...)"
        ) from error
    module.width = features.shape[-1]
    spec = {
        "kind": "huggingface", "source": source, "pool": module.pool, "config": plain(config), "pixels": pixels.settings
    }  # fmt: skip
    return Body(module.eval(), pixels, module.width, spec)
