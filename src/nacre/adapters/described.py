"""The adapters of a model as plain values, of which the same structure is made again, without weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..core.errors import BadData, NacreError
from ..core.files import first_line
from ..core.in_use import adapted
from .layers import adapters_in, exactly, peft_for, put_in, tensors_of

WRAPPED = ".base_model.model."
"""What PEFT's own wrapper adds to the names of the model that it wraps."""


def describe(model: nn.Module) -> dict[str, Any] | None:
    """The adapters in a model and which of them answer, ready for JSON; None where it has none.

    A model inside a model that PEFT wraps itself is described as if it were not wrapped; see `unwrapped`.
    """
    layers = adapted(model)
    if not layers:
        return None
    told = {}
    for name, config in adapters_in(model).items():
        places = {p: layer for p, layer in layers.items() if any(True for _ in tensors_of(layer, name))}
        settings = {k: v for k, v in config.to_dict().items() if isinstance(v, (bool, int, float, str))}
        settings |= patterns(config, name, {_plain(p): layer for p, layer in places.items()})
        settings["peft_type"] = getattr(config.peft_type, "value", str(config.peft_type))
        settings.pop("task_type", None)
        settings["target_modules"] = exactly([_plain(p) for p in places])
        if hasattr(config, "feedforward_modules"):
            inputs = [_plain(p) for p, layer in places.items() if layer.is_feedforward]
            settings["feedforward_modules"] = exactly(inputs)
        told[name] = settings
    if not told:  # those of a stage of OSFT: they are gone when it ends
        return None
    active = [n for layer in layers.values() for n in layer.active_adapters if n in told]
    return {"adapters": told, "active": list(dict.fromkeys(active))}


def patterns(config: Any, name: str, layers: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The ranks and scales of LoRA in single layers, where they are not the config's, as settings of a config.

    A user's own patterns may go by names that the layers have elsewhere: these go by the names given, and match nothing else.
    """
    if getattr(config.peft_type, "value", config.peft_type) != "LORA":
        return {}
    held = [(f"^{re.escape(place)}", layer.r[name], layer.lora_alpha[name]) for place, layer in layers.items()]
    return {
        "rank_pattern": {place: rank for place, rank, _ in held if rank != config.r},
        "alpha_pattern": {place: alpha for place, _, alpha in held if alpha != config.lora_alpha},
    }


def rebuild(model: nn.Module, told: dict[str, Any] | None) -> None:
    """Put adapters into a model as `describe` told them, with first weights.

    Raises:
        BadData: they cannot be put into this model.
        MissingExtra: PEFT is not installed.
    """
    if told is None:
        return
    peft = peft_for("a model with adapters")
    try:
        for name, settings in told["adapters"].items():
            put_in(model, name, peft.PeftConfig.from_peft_type(**settings))
        for layer in adapted(model).values():
            layer.set_adapter(told["active"])
    except NacreError:
        raise
    except Exception as error:  # of whatever kind: what is told may come from a file
        raise BadData(
            f"the adapters described here cannot be put into this model ({first_line(error)}): was the description altered?"
        ) from error


def unwrapped(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights under the names that they have without PEFT's own wrapper inside a model."""
    return {_plain(name): tensor for name, tensor in tensors.items()}


def _plain(name: str) -> str:
    return name.replace(WRAPPED, ".")
