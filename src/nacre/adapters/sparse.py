"""Sparse tuning in compact form: put into a model, read, taken out.

What is put in is a 1-D parameter beside each weight that is chosen from, `<name of the weight>_values`. Names of weights,
classes of layers, hooks and `state_dict()` stay what they were: a model that is tuned so saves as an ordinary one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields

import torch
from torch import Tensor, nn

from ..core.errors import BadSetting, BadUse, UnknownName
from ..core.method import leaves
from ..core.model import bare
from ..core.rule import Rule, Site
from ..core.shards import is_sharded
from ..core.snapshot import Snapshot
from ..core.state import Stateful, Tensors
from .entries import VALUES, Entries, samples
from .holding import FOLLOWERS, Holding, goes_straight, holding


def put_in_entries(model: nn.Module, chosen: Mapping[str, Tensor]) -> dict[str, nn.Parameter]:
    """Freeze these weights but for their chosen entries, which become parameters of their own, in place.

    No weight changes its value. An optimizer over what requires a gradient sees, of each of these weights, the chosen values
    only, so that its state is as small, and the backward pass takes only their gradient. Everything else in the model trains
    or rests as before. Entries that are in already and are asked for again stay as they are; others are taken out first.

    While they are in, the model copies and saves like any, but its layers are of classes made on the spot: a pickle of the
    whole model needs them taken out. Heads grow before entries are put in.

    The weights follow their values after each step of an optimizer, when the model answers, when its `state_dict()` is read
    and when its mode is set. Who changes values otherwise and then reads a weight calls `write_entries` between.

    Values learn where their layer is called. A model that reads a weight past its layer, as in `F.linear(x, layer.weight)`,
    gives them no gradient: leave such weights out (`layers_called` tells which layers are called).

    Args:
        model: Any module, wrapped or not.
        chosen: By the name of a weight, a bool mask of its shape; True may move. A weight of which none is chosen is frozen.

    Returns:
        The new parameters by the name of the weight that each belongs to.

    Raises:
        UnknownName: the model has no such weight.
        BadSetting: a mask is not one of its weight, or a weight cannot be held in this form (see `unfit`).

    >>> layer = nn.Linear(3, 2)
    >>> values = put_in_entries(layer, {"weight": torch.tensor([[True, False, False], [False, False, True]])})
    >>> [(name, tuple(p.shape)) for name, p in layer.named_parameters() if p.requires_grad]
    [('bias', (2,)), ('weight_values', (2,))]
    >>> sorted(layer.state_dict()), isinstance(layer, nn.Linear)
    (['bias', 'weight'], True)
    >>> with torch.no_grad():
    ...     _ = values["weight"].fill_(7.0)
    >>> take_out_entries(layer)
    >>> (layer.weight == 7.0).sum().item(), [name for name, _ in layer.named_parameters()]
    (2, ['weight', 'bias'])
    """
    model = bare(model)
    owners = _owners(model)
    for name, mask in chosen.items():
        if name not in owners:
            raise UnknownName("weight", name, owners)
        weight = owners[name][0]._parameters[owners[name][1]]
        assert weight is not None
        if mask.dtype != torch.bool or mask.shape != weight.shape:
            raise BadSetting(
                f"the mask of {name} is of shape {tuple(mask.shape)} and {mask.dtype}: give a bool mask of the weight's shape, "
                f"{tuple(weight.shape)}"
            )
    held = _held(model)
    if held.keys() == chosen.keys() and all(layer.held[leaf].same(chosen[n]) for n, (layer, leaf) in held.items()):
        return entries_in(model)
    take_out_entries(model)
    if not_fit := unfit(model, chosen):
        name, reason = next(iter(not_fit.items()))
        raise BadSetting(
            f"{name} cannot be tuned in compact form, for {reason}: leave it out, and let nacre.rules.Rest keep the entries of "
            "it that shall not move; nacre.adapters.unfit names all such weights"
        )
    for name in owners:  # in their order: that of the parameters does not depend on who asked
        if name in chosen:
            _put_in(*owners[name], chosen[name])
    return entries_in(model)


def take_out_entries(model: nn.Module) -> None:
    """Make an ordinary model of it again: chosen entries keep their tuned values, and weights require a gradient as before.

    Optimizers forget what they kept for the values: entries that are chosen later are others. A model without any stays as it
    is.
    """
    for layer in {id(layer): layer for layer, _ in _held(bare(model)).values()}.values():
        layer.write()
        FOLLOWERS.discard(layer)
        for leaf, entries in layer.held.items():
            layer._parameters.pop(leaf + VALUES, None)
            if (weight := layer._parameters[leaf]) is not None:
                weight.requires_grad_(entries.required)
        del layer.held
        layer.__class__ = type(layer).__bases__[1]


def entries_in(model: nn.Module) -> dict[str, nn.Parameter]:
    """The values of chosen entries, (chosen,), by the name of the weight that they belong to.

    >>> entries_in(nn.Linear(2, 2))
    {}
    """
    found = {name: layer.values_of(leaf) for name, (layer, leaf) in _held(bare(model)).items()}
    return {name: values for name, values in found.items() if values is not None}


def write_entries(model: nn.Module) -> None:
    """Let the weights follow their values now, for somebody who changed values by hand and reads weights."""
    for layer, _ in _held(bare(model)).values():
        layer.write()


def unfit(model: nn.Module, names: Iterable[str]) -> dict[str, str]:
    """Of these weights those that cannot be tuned in compact form, with the reason.

    >>> unfit(nn.MultiheadAttention(4, 2), ["out_proj.weight", "in_proj_weight"])
    {'out_proj.weight': 'MultiheadAttention reads it past its own layer'}
    """
    model = bare(model)
    owners = _owners(model)
    tied = _tied(owners)
    by_hand = {id(m.out_proj): type(m).__name__ for m in model.modules() if isinstance(m, nn.MultiheadAttention)}
    found = {}
    for name in sorted(names):
        if name not in owners:
            found[name] = "the model has no such weight"
            continue
        layer, leaf = owners[name]
        weight = layer._parameters[leaf]
        assert weight is not None
        computed = any(type(h).__name__ in ("WeightNorm", "SpectralNorm") for h in layer._forward_pre_hooks.values())
        if id(weight) in tied:
            found[name] = f"it is tied: it is {' and '.join(tied[id(weight)])}"
        elif is_sharded(weight):
            found[name] = "each rank holds a part of it"
        elif id(layer) in by_hand:
            found[name] = f"{by_hand[id(layer)]} reads it past its own layer"
        elif isinstance(layer, nn.RNNBase) or computed:
            found[name] = f"{type(layer).__name__} reads it from a list or a hook"
        elif getattr(layer, "max_norm", None) is not None:
            found[name] = f"{type(layer).__name__} changes it when it answers, by max_norm"
        elif not weight.is_contiguous() or not weight.is_floating_point() or weight.numel() >= 2**31:
            found[name] = "it is strided, no plain floating-point tensor, or larger than 2^31 entries"
    return found


def refuse_unheard(site: Site, me: Rule) -> None:
    """See that the optimizer holds the chosen values, and that no other part treats their weights as a whole.

    Args:
        site: Where a stage steps.
        me: The part that put entries in.

    Raises:
        BadSetting: it does not hold them, so that they would not be trained.
        BadUse: another part does (`Rule.wants_whole`), and what it does to the weight would have no effect.
    """
    compact = entries_in(site.model)
    if left_out := [n + VALUES for n in compact if n + VALUES not in site.params]:
        raise BadSetting(
            f"the optimizer does not hold {', '.join(left_out[:3])}, the chosen entries of {type(me).__name__} in compact "
            'form: give it all that trains, vectors too, or set form = "dense"'
        )
    if compact:
        FOLLOWERS.optimizers.add(site.optimizer)
    if found := treated_whole(site, me, compact):
        raise BadUse(
            f"{found[0]} treats {found[1]} as a whole, of which {type(me).__name__} in compact form trains chosen values only, "
            'so that it would not be heard: set form = "dense"'
        )


def treated_whole(site: Site, me: Rule, names: Iterable[str]) -> tuple[str, str] | None:
    """A part beside `me` that treats one of these weights as a whole, with the name of the weight; None where none does."""
    parts = [part for part in leaves(site.rule) if part is not me]
    pairs = ((part, n) for part in parts for n in sorted(names) if n in _named(part) or _wants_whole(part, n))
    return next(((type(part).__name__, n) for part, n in pairs), None)


def _named(part: Rule) -> set[str]:
    """The weights that the settings of a part name."""
    held = [getattr(part, f.name) for f in fields(part) if f.init]
    return {n for value in held if isinstance(value, dict) for n in value}


def _wants_whole(part: Rule, name: str) -> bool:
    """Whether a part must be shown the whole of a weight, as it says or as its fields do."""
    said = part.wants_whole(name)
    return (part.overrides("offset") or _keeps_weights(part)) if said is None else said


def _keeps_weights(part: Stateful) -> bool:
    """Whether a part keeps tensors by name; copies of models answer, and act on no weight."""
    kept = [f for f in fields(part) if f.metadata.get("kind") == "state"]
    values = [getattr(part, f.name) for f in kept]
    inside = [v for v in values if isinstance(v, Stateful) and not isinstance(v, Snapshot)]
    return any(f.type in ("Tensors", Tensors) for f in kept) or any(map(_keeps_weights, inside))


def _put_in(layer: nn.Module, leaf: str, mask: Tensor) -> None:
    """Choose entries of one tensor of a layer."""
    entries = Entries(layer, leaf, mask)
    if not isinstance(layer, Holding):
        layer.__dict__["held"] = {}
        layer.__class__ = holding(type(layer), goes_straight(layer))
    assert isinstance(layer, Holding)
    FOLLOWERS.add(layer)
    layer.held[leaf] = entries
    entries.weight.requires_grad_(False).grad = None
    if len(entries.index):
        layer.register_parameter(leaf + VALUES, nn.Parameter(entries.read()))
        samples(entries.weight.device, torch.promote_types(entries.weight.dtype, torch.float32))


def _held(model: nn.Module) -> dict[str, tuple[Holding, str]]:
    """The layers with chosen entries, by the names of the tensors that these are of."""
    layers = [(name, layer) for name, layer in model.named_modules() if isinstance(layer, Holding)]
    return {f"{name}.{leaf}" if name else leaf: (layer, leaf) for name, layer in layers for leaf in layer.held}


def _owners(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """The module that each parameter belongs to, and its name there; values of chosen entries are left out."""
    return {
        f"{name}.{leaf}" if name else leaf: (layer, leaf)
        for name, layer in model.named_modules()
        for leaf, p in layer._parameters.items()
        if p is not None
        and not (isinstance(layer, Holding) and leaf.removesuffix(VALUES) in layer.held and VALUES in leaf)
    }


def _tied(owners: Mapping[str, tuple[nn.Module, str]]) -> dict[int, list[str]]:
    """Parameters that belong to several modules, or under several names, with these names."""
    names: dict[int, list[str]] = {}
    for name, (layer, leaf) in owners.items():
        names.setdefault(id(layer._parameters[leaf]), []).append(name)
    return {key: found for key, found in names.items() if len(found) > 1}
