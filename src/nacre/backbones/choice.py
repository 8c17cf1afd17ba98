"""Which backbone a name, a folder or a module means."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from ..core.errors import BadData, BadSetting, NacreError, UnknownName, shown
from ..core.files import first_line, path_of
from .body import Body, refuse_more, seeded, weights_of
from .convnet import ConvNet
from .huggingface import from_vision_spec, vision_model
from .huggingface_config import read_config
from .huggingface_loading import quiet, reads
from .huggingface_text import TextPool, from_text_spec, text_model
from .mlp import MLP
from .pixels import Pixels
from .tapped import Pool, tapped
from .timm_models import timm_model

SHIPPED = {"glyph-vit": Path(__file__).parent / "glyph_vit"}

BACKBONES = {
    "glyph-vit": "Vision transformer of 1.2 M weights, pre-trained on drawn Latin letters; reads grey 32x32, ships with Nacre.",
    "mlp:IN-...-OUT": "Perceptron with ReLU over flat pixels, such as mlp:784-400-400; features are its last hidden layer.",
    "convnet": "Four blocks of 3x3 convolution and batch norm, 128 features; convnet:32-64 says other widths.",
    "FOLDER": "A vision or text model in Hugging Face form (config.json, model.safetensors), such as ./my-vit.",
    "timm:NAME": "A vision model of timm (pip install 'nacre[vision]'), such as timm:vit_tiny_patch16_224.",
    "ORG/NAME": "A vision or text model on the Hugging Face hub, such as facebook/dinov2-small; fetched once, then kept.",
}
"""What `backbone` understands, with a line about each."""

DEFAULT_CONVNET = (32, 64, 128, 128)
HUB_ID = re.compile(r"(?!.*\.\.)[A-Za-z0-9][\w.-]{0,95}/[\w.-]{1,96}", re.ASCII)
WIDEST, DEEPEST = 2**20, 1000  # of layers; more is a slip of the finger, or meant to fill a memory


def backbone(
    source: str | Path | nn.Module,
    *,
    seed: int = 0,
    pretrained: bool = True,
    channels: int | None = None,
    size: int | tuple[int, int] | None = None,
    layer: str | None = None,
    width: int | None = None,
    example: Any = None,
    pool: Pool | TextPool = "auto",
    max_length: int | None = None,
    layers: int | None = None,
    normalize: bool | None = None,
) -> Body:
    """Make a backbone with its pixels or tokenizer from a name, a folder, a hub id or a module.

    Args:
        source: One of `BACKBONES`, a Hugging Face folder, a hub id, or any module.
        seed: Seeds weights that are drawn; the caller's global generators stay as they are.
        pretrained: False draws the weights of a pre-trained model anew.
        channels: Channels that the body reads; pictures are adapted. None: what the model was made for (convnet: 3).
        size: Side of the pictures that the body reads; None: what the model was made for, or as they come.
        layer: Of a module: the layer whose output are the features; None = its own output.
        width: Of a module: features of a row; else taken from its `.width` or from a run on `example`.
        example: Of a module: an input to run once.
        pool: How tokens become one row: of a module see `Tapped`; of a text model `"mean"`, `"cls"` or `"last"`.
        max_length: Of a text model: tokens that a text is cut to; None: what the model was made for.
        layers: Of a Hugging Face model: its first layers that are kept; None = all.
        normalize: Of a text model: whether features are scaled to length 1; None: as its files say.

    Raises:
        UnknownName: no backbone has that name; the nearest is named.
        BadData: a folder without a model in it, or weights that cannot be read or fetched.
        BadSetting: settings that do not fit the backbone.
        MissingExtra: the backbone needs a package that is not installed.

    >>> body = backbone("mlp:64-32", seed=1)
    >>> body.width, from_spec(body.spec).width
    (32, 32)
    """
    of_texts = {"pool": None if pool == "auto" else pool, "max_length": max_length, "normalize": normalize}
    if isinstance(source, nn.Module):
        _refuse({**of_texts, "pool": None, "layers": layers}, "a module given in Python")
        return _of_module(source, layer, width, example, pool, channels, size)
    if layer is not None or example is not None or width is not None:
        raise BadSetting(f"layer, width and example are said of a module, not of {shown(str(source))}: leave them out")
    name = str(source)
    drawn: dict[str, Any] = {"seed": seed, "pretrained": pretrained}
    of_pictures: dict[str, Any] = {"channels": channels, "size": size}
    if name in SHIPPED:
        return _huggingface(SHIPPED[name], drawn, of_pictures, of_texts, layers, name)
    kind, _, widths = name.partition(":")
    if kind in ("timm", "mlp", "convnet") and isinstance(source, str):
        _refuse({**of_texts, "layers": layers}, shown(name))
        if kind == "timm":
            return timm_model(widths, **drawn, **of_pictures)
        side = [size, size] if isinstance(size, int) else size if size is None else list(size)
        spec: dict[str, Any] = {"kind": kind, "widths": _widths(name, widths)}
        pixels = {"channels": channels, "size": side}
        if kind == "convnet":
            spec["channels"] = pixels["channels"] = channels or 3
        return from_spec({**spec, "pixels": pixels}, seed=seed)
    place = path_of(source)
    if place.exists():
        if not place.is_dir():
            raise BadData(
                f"{name!r} is a file: give the folder of a Hugging Face model (config.json, model.safetensors)"
            )
        return _huggingface(place, drawn, of_pictures, of_texts, layers)
    if isinstance(source, str) and HUB_ID.fullmatch(name):
        return _huggingface(name, drawn, of_pictures, of_texts, layers)
    if isinstance(source, Path) or os.sep in name or "/" in name or name.startswith((".", "~")):
        raise BadData(
            f"no folder {shown(name)} (looked for {place.absolute()}): give the folder of a Hugging Face model"
        )
    raise UnknownName("backbone", name, BACKBONES)


def _huggingface(
    where: str | Path,
    drawn: dict[str, Any],
    of_pictures: dict[str, Any],
    of_texts: dict[str, Any],
    layers: int | None,
    name: str | None = None,
) -> Body:
    """A model in Hugging Face form, by what it reads."""
    with quiet() as transformers:
        config = read_config(transformers, where)
        known = reads(transformers, config)
        pictures, texts = "pixel_values" in known, "input_ids" in known
        if pictures and not texts:
            _refuse(of_texts, f"{str(name or where)!r}, which reads pictures")
            return vision_model(transformers, where, config, **drawn, **of_pictures, layers=layers, name=name)
        if texts and not pictures and not getattr(config, "is_encoder_decoder", False):
            _refuse(of_pictures, f"{str(where)!r}, which reads texts")
            told = {**of_texts, "pool": of_texts["pool"] or "auto"}
            return text_model(transformers, where, config, **drawn, **told, layers=layers)
        kind = type(config).__name__.removesuffix("Config")
        raise BadSetting(
            f"{str(where)!r} is a {kind} model, which reads {', '.join(known[:3])}: give a "
            "vision model such as ViT, DINOv2, ConvNeXt or Swin, or a text encoder such as BERT or MPNet"
        )


def _refuse(said: dict[str, Any], source: str) -> None:
    """Nothing that somebody says stays unheard."""
    of = {"channels": "vision models", "size": "vision models", "layers": "models in Hugging Face form"}
    for name, value in said.items():
        if value is not None:
            raise BadSetting(
                f"{name} = {shown(value)} is said of {of.get(name, 'text models')}, not of {source}: leave it out"
            )


def from_spec(spec: dict[str, Any], *, seed: int = 0, most: int | None = None) -> Body:
    """The same structure again from its spec, with weights drawn by the seed; nothing is read or fetched.

    Args:
        spec: `Body.spec`, perhaps after a way through JSON.
        seed: Seeds the weights.
        most: How many weights it can have, where those that will be loaded are known; None = any number.

    Raises:
        BadSetting: the spec is of a module that was given in Python, or of an unknown kind.
        BadData: it describes more weights than there are.
    """
    kind = spec.get("kind") if isinstance(spec, dict) else None
    if kind not in ("mlp", "convnet", "huggingface", "huggingface-text", "timm"):
        why = "it was made of a module given in Python" if kind == "module" else f"kind {shown(kind)} is none of them"
        raise BadSetting(
            f"from_spec makes convnet, huggingface, huggingface-text, mlp, timm, but not this backbone: {why}. Make it as "
            "before, with backbone(module, ...), and load its weights"
        )
    try:
        if kind == "huggingface":
            return from_vision_spec(spec, seed, most)
        if kind == "huggingface-text":
            return from_text_spec(spec, seed, most)
        pixels = Pixels(**spec["pixels"])
        if kind == "timm":
            return timm_model(spec["name"], seed=seed, pretrained=False, channels=spec["channels"], pixels=pixels)
        widths = spec["widths"]
        module = _drawn(lambda: MLP(widths) if kind == "mlp" else ConvNet(spec["channels"], widths), seed, most)
        return Body(module, pixels, int(widths[-1]), dict(spec))
    except NacreError:
        raise
    except MemoryError as error:
        raise BadSetting(
            f"{kind} with layers of {shown(spec['widths'])} does not fit into memory: make it smaller"
        ) from error
    except Exception as error:  # of whatever kind: a spec may come from a file
        raise BadSetting(
            f"this spec of {kind} describes no backbone ({type(error).__name__}: {first_line(error)}): was it altered?"
        ) from error


def _drawn(make: Callable[[], nn.Module], seed: int, most: int | None) -> nn.Module:
    """A module with weights by the seed."""
    refuse_more(weights_of(make), most)
    try:
        with seeded(seed):
            return make()
    except RuntimeError as error:  # what torch says where memory ends
        raise MemoryError from error


def _of_module(
    module: nn.Module,
    layer: str | None,
    width: int | None,
    example: Any,
    pool: Any,
    channels: int | None,
    size: int | tuple[int, int] | None,
) -> Body:
    pixels = Pixels(channels, size)
    own = getattr(module, "width", None)
    if layer is None and width is None and isinstance(own, int):
        body, width = module, own
    else:
        body = tapped(module, layer or "", width=width, example=example, pool=pool)
        width = body.width
    spec = {"kind": "module", "class": type(module).__name__, "layer": layer, "width": width, "pixels": pixels.settings}
    return Body(body, pixels, width, spec)


def _widths(name: str, text: str) -> list[int]:
    kind = name.partition(":")[0]
    if kind == "convnet" and not text:
        return list(DEFAULT_CONVNET)
    if not re.fullmatch(r"[0-9]+(-[0-9]+)*", text) or (kind == "mlp" and "-" not in text):
        cure = "mlp:INPUT-HIDDEN-..., such as mlp:784-400-400" if kind == "mlp" else "convnet:32-64-128"
        raise BadSetting(f"{shown(name)} does not say the widths of its layers: write {cure}")
    widths = text.split("-")
    if len(widths) > DEEPEST or any(len(w) > 9 or int(w) > WIDEST for w in widths):
        raise BadSetting(
            f"{shown(name)} has {len(widths)} layers, the widest of {shown(max(widths, key=len))[1:-1]}: at most {DEEPEST} of "
            f"{WIDEST} are made"
        )
    return [int(w) for w in widths]
