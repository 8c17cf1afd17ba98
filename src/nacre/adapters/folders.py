"""Adapters on disk, in PEFT's own form: a folder each, with `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..core.errors import BadData, BadModel, BadSetting, UnknownName
from ..core.files import first_line
from ..core.in_use import BASE, adapted
from ..core.model import bare
from .described import patterns
from .layers import adapters_in, exactly, peft_for, put_in, tensors_of

WEIGHTS, SETTINGS = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
"""How PEFT calls the model that it wraps."""


def save_adapters(
    model: nn.Module, folder: str | Path, names: list[str] | None = None, base: str | None = None
) -> list[str]:
    """Write adapters as `PeftModel.save_pretrained` does, each to a folder of its own name.

    Layers are named as the backbone names them, so plain PEFT loads them into the same backbone:
    `PeftModel.from_pretrained(AutoModel.from_pretrained(...), folder / name)`.

    Args:
        model: A model with adapters.
        folder: Where to.
        names: Which; None = all.
        base: The folder or hub id of the backbone, which PEFT notes beside them.

    Returns:
        The names of the adapters written.

    Raises:
        BadModel: the model has none.
        UnknownName: it has others.
    """
    from safetensors.torch import save_file

    model, known = bare(model), adapters_in(model)
    if not known:
        raise BadModel(f"{type(model).__name__} has no adapters to save: train it with TaskAdapters, or put_in one")
    root = backbone_of(model)
    for name in known if names is None else names:
        if name not in known:
            raise UnknownName("adapter", name, known)
        tensors = {
            f"{PREFIX}{place.removeprefix(root)}.{_without(name, path)}": param.detach().cpu().contiguous()
            for place, layer in adapted(model).items()
            for path, param in tensors_of(layer, name)
        }
        holding = {p: layer for p, layer in adapted(model).items() if any(True for _ in tensors_of(layer, name))}
        layers = {p.removeprefix(root): layer for p, layer in holding.items()}
        config = copy.copy(known[name])
        config.target_modules = exactly(list(layers))
        config.base_model_name_or_path, config.inference_mode = base, True
        for setting, pattern in patterns(config, name, layers).items():
            setattr(config, setting, pattern)
        if hasattr(config, "feedforward_modules"):
            inputs = [p for p, layer in layers.items() if layer.is_feedforward]
            config.feedforward_modules = exactly(inputs)
        (place_of := Path(folder) / name).mkdir(parents=True, exist_ok=True)
        config.save_pretrained(str(place_of))
        save_file(tensors, place_of / WEIGHTS, metadata={"format": "pt"})
    return list(known if names is None else names)


def load_adapters(model: nn.Module, folder: str | Path) -> list[str]:
    """Put adapters that `save_adapters` or PEFT wrote into a model, each under the name of its folder.

    Args:
        model: The model, with the backbone that they were trained on.
        folder: A folder with adapters in it, or the folder of one.

    Returns:
        Their names.

    Raises:
        BadData: there are none, or they are not of this model.
        BadSetting: they are of a kind that is not put in here.
        MissingExtra: PEFT is not installed.
    """
    peft = peft_for("loading adapters")
    place = Path(folder)
    found = [place] if (place / SETTINGS).is_file() else sorted(p.parent for p in place.glob(f"*/{SETTINGS}"))
    if not found:
        raise BadData(f"{str(place)!r} holds no adapters: give a folder with {SETTINGS} in it, or around such folders")
    model = bare(model)
    root = backbone_of(model)
    for one in found:
        try:
            from safetensors.torch import load_file

            config, tensors = peft.PeftConfig.from_pretrained(str(one)), load_file(one / WEIGHTS)
        except Exception as error:  # of whatever kind: the files may hold anything
            raise BadData(f"the adapter in {str(one)!r} cannot be read: {first_line(error)}. Save it again") from error
        _load_one(model, root, one, config, tensors)
    return [one.name for one in found]


def _load_one(model: nn.Module, root: str, folder: Path, config: Any, tensors: dict[str, Tensor]) -> None:
    if folder.name in adapters_in(model):
        raise BadSetting(
            f"the model has an adapter {folder.name!r} already, and {str(folder)!r} would be read into it: rename the "
            "folder, or load it into a model without that adapter"
        )
    layers = sorted({key.removeprefix(PREFIX).split(".lora_")[0].split(".ia3_")[0] for key in tensors})
    known = {name.removesuffix(BASE) for name, _ in model.named_modules()}
    if strange := [name for name in layers if root + name not in known]:
        raise BadData(
            f"the adapter in {str(folder)!r} belongs to the layer {strange[0]!r}, which {type(model).__name__} does not have: "
            "load it into the backbone that it was trained on"
        )
    config.target_modules = exactly([root + name for name in layers])
    for setting in ("rank_pattern", "alpha_pattern"):
        if pattern := getattr(config, setting, None):
            setattr(config, setting, _of_layers(pattern, root, layers))
    if getattr(config, "feedforward_modules", None):
        config.feedforward_modules = exactly([root + name for name in layers if _is_feedforward(name, tensors)])
    config.inference_mode = False
    put_in(model, folder.name, config)
    with torch.no_grad():
        for place, layer in adapted(model).items():
            for path, param in tensors_of(layer, folder.name):
                plain = _without(folder.name, path)
                kept = tensors.get(f"{PREFIX}{place.removeprefix(root)}.{plain}")
                if kept is None or kept.shape != param.shape:
                    raise BadData(
                        f"the adapter in {str(folder)!r} has no {plain} of shape {tuple(param.shape)} for {place}: load it "
                        "into the backbone that it was trained on"
                    )
                param.copy_(kept)


def _of_layers(pattern: dict[str, Any], root: str, layers: list[str]) -> dict[str, Any]:
    """What a pattern says of layers that are called otherwise here, by their names here."""
    from peft.utils.other import get_pattern_key

    keys = {name: get_pattern_key(list(pattern), name) for name in layers}
    return {f"^{re.escape(root + name)}": pattern[key] for name, key in keys.items() if key in pattern}


def _is_feedforward(layer: str, tensors: dict[str, Tensor]) -> bool:
    """Whether (IA)^3 scales the input of a layer: its vector is a row then."""
    vector = tensors.get(f"{PREFIX}{layer}.ia3_l")
    return vector is not None and vector.ndim == 2 and vector.shape[0] == 1 and vector.shape[1] > 1


def _without(name: str, path: str) -> str:
    """The name of a weight as PEFT writes it down: without that of its adapter."""
    return ".".join(word for word in path.split(".") if word != name)


def backbone_of(model: nn.Module) -> str:
    """The prefix of the names of what `AutoModel` would load: a transformers model, else the body, else the whole."""
    places = [name for name in adapted(model)] or [name for name, _ in model.named_modules()]
    for name, module in model.named_modules():
        inside = name and all(p.startswith(f"{name}.") for p in places)
        if (inside or not adapted(model)) and name and hasattr(type(module), "save_pretrained"):
            return f"{name}."
    body = getattr(model, "body", None)
    return "body." if isinstance(body, nn.Module) and all(p.startswith("body.") for p in adapted(model)) else ""
