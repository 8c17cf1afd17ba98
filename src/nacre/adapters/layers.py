"""Adapters of PEFT inside any module: where they go, which of them answers, which of them trains.

PEFT replaces a layer by one of its own that holds the layer (`base_layer`) and the adapters by name. Here this happens in
place, without PEFT's wrapper around the model, so the model keeps its class, its head and its hooks. First weights are drawn
by counted dice: neither putting an adapter in nor choosing one touches the global generators.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..core.dice import dice
from ..core.errors import BadSetting, MissingExtra, UnknownName
from ..core.in_use import BASE, adapted, unfuse
from ..core.model import bare, fingerprint, head_prefixes

Kind = Literal["lora", "ia3"]
CALLED = {"LORA": "lora", "IA3": "ia3"}
"""The kinds that are put in here, by PEFT's name for them."""
FACTORS = "nacre_osft"
"""What PEFT calls the factors of OSFT: a name that nobody else gives."""


def peft_for(what: str) -> Any:
    """The package.

    Raises:
        MissingExtra: it is not installed; the message says what needs it.
    """
    try:
        import peft
    except ImportError as error:
        raise MissingExtra(what, "peft", "peft") from error
    return peft


def adapters_in(model: nn.Module) -> dict[str, Any]:
    """The adapters in a model: each name with its PEFT config, in the order in which they were put in.

    >>> adapters_in(nn.Linear(2, 2))
    {}
    """
    there = {name for layer in adapted(model).values() for name in layer._all_available_adapter_names()}
    told = (m.__dict__.get("peft_config", {}) for m in bare(model).modules())  # a part of the model may be PEFT's
    return {name: config for configs in told for name, config in configs.items() if name in there}


def tensors_of(layer: Any, name: str) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights of one adapter in a layer of PEFT, by their names there."""
    for path, param in layer.named_parameters():
        first, _, rest = path.partition(".")
        if first != BASE[1:] and name in rest.split("."):
            yield path, param


def targets_in(model: nn.Module, target: str = "auto", kind: Kind = "lora") -> list[str]:
    """The layers that adapters go to.

    Args:
        model: Any module.
        target: `"auto"` takes what PEFT takes for this kind of transformers model, and all linear layers of any other model;
            `"all-linear"` all linear layers; else names, or the ends of names, with commas between them: `"query,value"`.
        kind: Whose usual layers `"auto"` takes.

    Returns:
        Their names, of which none is in the head.

    Raises:
        BadSetting: there are none.

    >>> targets_in(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 3)), "2")
    ['2']
    """
    layers = dict(_layers(bare(model)))
    linear = [name for name, layer in layers.items() if not isinstance(layer, (nn.Conv2d, nn.Embedding))]
    words = [] if target == "all-linear" else _usual(model, kind) if target == "auto" else words_of(target)
    if words:
        found = [name for name in layers if is_one_of(name, words)]
    else:  # convolutions only where nothing else is there
        found = linear or [name for name, layer in layers.items() if isinstance(layer, nn.Conv2d)]
    if not found:
        known = ", ".join([*layers][:8]) or "none that can take an adapter"
        raise BadSetting(
            f"adapters such as those of TaskAdapters have nowhere to go: target = {target!r} names no layer of "
            f"{type(bare(model)).__name__} below its head, whose layers are {known}; give "
            'names or the ends of names, such as "query,value", or "all-linear"'
        )
    return found


def feedforward_in(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """Of these layers those whose input (IA)^3 scales, as PEFT does for this kind of transformers model."""
    words = _table("TRANSFORMERS_MODELS_TO_IA3_FEEDFORWARD_MODULES_MAPPING").get(_model_type(model), [])
    return [name for name in targets if is_one_of(name, words)]


def config_of(kind: Kind, targets: Sequence[str], rank: int, alpha: float, feedforward: Sequence[str] = ()) -> Any:
    """A config of PEFT for exactly these layers."""
    peft = peft_for("an adapter")
    if kind == "lora":
        return peft.LoraConfig(r=rank, lora_alpha=alpha, target_modules=exactly(targets))
    return peft.IA3Config(target_modules=exactly(targets), feedforward_modules=exactly(feedforward))


def exactly(names: Sequence[str]) -> str:
    """An expression that matches these names and no others; PEFT takes a list for the ends of names."""
    return "|".join(map(re.escape, names)) or "(?!)"


def put_in(model: nn.Module, name: str, config: Any, seed: int = 0) -> None:
    """Put an adapter into a model, in place; it starts as the identity, and no other weight changes.

    An adapter of that name which is there already stays as it is. LoRA starts with A drawn as PEFT draws it and B = 0,
    (IA)^3 with ones.

    Args:
        model: Any module.
        name: What the adapter is called.
        config: A `LoraConfig` or an `IA3Config` of PEFT.
        seed: Seeds A.

    Raises:
        MissingExtra: PEFT is not installed.
        BadSetting: another kind of adapter, or a form of LoRA that does not start as the identity.
    """
    peft = peft_for("an adapter")
    model = bare(model)
    if name in adapters_in(model):
        return
    kind = getattr(config.peft_type, "value", str(config.peft_type))
    unusual = [
        k for k in ("use_dora", "use_bdlora", "alora_invocation_tokens", "arrow_config") if getattr(config, k, None)
    ]
    plain_start = getattr(config, "init_lora_weights", True) is True and not unusual
    if kind not in CALLED or not plain_start:
        what = f"{kind} with {unusual[0] if unusual else 'another start than B = 0'}" if kind in CALLED else kind
        raise BadSetting(
            f"the adapter {name!r} is {what}: LoRA that starts with B = 0 and (IA)^3 are put in here; wrap the model with "
            "peft.get_peft_model for any other, which a stage takes like any model"
        )
    configs = model.__dict__.pop("peft_config", {})  # PEFT warns of adapters that are there already
    free = [(p, p.requires_grad) for p in model.parameters()]  # PEFT freezes all else, the head too
    with torch.device("meta"):  # nothing is drawn
        peft.inject_adapter_in_model(config, model, name, low_cpu_mem_usage=True)
    for param, required in free:
        param.requires_grad_(required)
    model.__dict__["peft_config"] = {**configs, name: config}
    for place, layer in adapted(model).items():
        for path, param in list(tensors_of(layer, name)):
            holder, _, leaf = path.rpartition(".")
            value = _first(path, param, layer.get_base_layer().weight, dice(seed, "adapter", name, place))
            setattr(layer.get_submodule(holder), leaf, nn.Parameter(value))
    unfuse(model)


def train_only(model: nn.Module, name: str) -> None:
    """Let one adapter answer and train, beside whatever trains in the head; all else is frozen.

    Factors of OSFT are frozen, too, and go on answering.
    """
    model = bare(model)
    heads = head_prefixes(model)
    for param_name, param in model.named_parameters():
        if not param_name.startswith(tuple(f"{p}." for p in heads)):
            param.requires_grad_(False)
    for layer in adapted(model).values():
        layer.set_adapter([*_factors(layer), name])
        for _, param in tensors_of(layer, FACTORS):
            param.requires_grad_(False)


@contextmanager
def answering_with(model: nn.Module, *names: str) -> Iterator[None]:
    """Inside, the model answers with these adapters, or with none; what answers and trains is as before afterwards.

    Factors of OSFT, which stand for weights while a stage runs, go on answering.
    """
    layers = adapted(model).values()
    before = [(layer, list(layer.active_adapters)) for layer in layers]
    free = [(p, p.requires_grad) for layer in layers for p in layer.parameters()]
    try:
        for layer in layers:
            layer.set_adapter([*_factors(layer), *names], inference_mode=True)
        yield
    finally:
        for layer, active in before:
            layer.set_adapter(active, inference_mode=True)
        for param, required in free:
            param.requires_grad_(required)


def base_fingerprint(model: nn.Module) -> str:
    """The fingerprint of a model without its adapters."""
    places = adapted(model)
    held = {f"{place}.{path}" for place, layer in places.items() for path, _ in layer.named_parameters()}
    return fingerprint(model, without={name for name in held if BASE not in name})


def merged(model: nn.Module, name: str | None = None) -> nn.Module:
    """A copy of a model in which one adapter is merged into the weights, or which has none, without PEFT's layers.

    Factors of OSFT, which stand for weights while a stage runs, are merged in any case.

    Args:
        model: The model; it stays as it is.
        name: The adapter; None merges none and takes all out.

    Raises:
        UnknownName: there is no such adapter.

    >>> merged(nn.Linear(2, 2))
    Linear(in_features=2, out_features=2, bias=True)
    """
    if name is not None and name not in adapters_in(model):
        raise UnknownName("adapter", name, adapters_in(model))
    plain = copy.deepcopy(bare(model))
    for place, layer in adapted(plain).items():
        if names := [n for n in layer._all_available_adapter_names() if n in (name, FACTORS)]:
            layer.merge(adapter_names=names)
        holder, _, leaf = place.rpartition(".")
        setattr(plain.get_submodule(holder), leaf, layer.get_base_layer())
    plain.__dict__.pop("peft_config", None)
    return plain


def _factors(layer: Any) -> list[str]:
    """What PEFT calls the factors of OSFT in a layer, which stand for its weight while a stage runs, where it has any.

    They come first among what is active: PEFT's layer of such factors answers with the first alone.
    """
    return [name for name in layer._all_available_adapter_names() if name == FACTORS]


def _layers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The layers below the head that an adapter can go to."""
    heads, by_hand = head_prefixes(model), []  # attention of torch reads the weights of its layers itself
    kinds = (nn.Linear, nn.Conv2d, nn.Embedding)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.MultiheadAttention):
            by_hand.append(name)
        below_head = not any(name == p or name.startswith(p + ".") for p in heads)
        reached = name and below_head and not any(name.startswith(f"{p}.") for p in by_hand)
        if reached and (isinstance(layer, kinds) or type(layer).__name__ == "Conv1D"):
            yield name, layer


def _usual(model: nn.Module, kind: Kind) -> list[str]:
    """The ends of the names of the layers that PEFT takes for this kind of transformers model, if it knows any."""
    tables = {"lora": "TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING"}
    table = _table(tables.get(kind, "TRANSFORMERS_MODELS_TO_IA3_TARGET_MODULES_MAPPING"))
    return list(table.get(_model_type(model), []))


def _table(name: str) -> dict[str, list[str]]:
    peft_for("an adapter")
    from peft.utils import constants

    return getattr(constants, name)


def _model_type(model: nn.Module) -> str:
    """What transformers calls the kind of the first of its models in a model."""
    for module in bare(model).modules():
        config = module.__dict__.get("config")
        if isinstance(kind := getattr(config, "model_type", None), str):
            return kind
    return ""


def words_of(target: str) -> list[str]:
    """The names, or ends of names, that a `target` lists."""
    return [word for part in target.split(",") if (word := part.strip())] or [target]


def is_one_of(name: str, words: Sequence[str]) -> bool:
    """Whether one of these is a name, or the end of it."""
    return any(name == word or name.endswith(f".{word}") for word in words)


def _first(path: str, like: Tensor, base: Tensor, generator: torch.Generator) -> Tensor:
    """The weight with which an adapter starts: in the precision of its layer, and at least in fp32."""
    dtype = base.dtype if base.dtype.itemsize >= 4 else torch.float32
    value = torch.empty(like.shape, dtype=dtype)
    if path.startswith("ia3"):
        value.fill_(1.0)
    elif "_B" in path:
        value.zero_()
    else:
        bound = value[0].numel() ** -0.5  # what PEFT's Kaiming draw comes down to
        value.uniform_(-bound, bound, generator=generator)
    return value.to(base.device)
