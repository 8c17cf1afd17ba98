"""What there is, by kind and name; derived from the faces of the rooms, never listed by hand."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from torch import nn

from .. import heads, memory, methods, rules
from ..backbones import BACKBONES
from ..core.errors import BadSetting, UnknownName
from ..core.files import first_line
from ..core.method import Method
from ..core.optim import OPTIMIZERS, MadeOptimizer
from ..core.paper import Paper
from ..core.rule import Rule
from ..data import AUGMENTS, SOURCES
from ..schedules import SCHEDULES, schedule
from ..streams import ARRIVALS, STREAMS
from .foreign import foreign, methods_of_plugins
from .typed import build, default_of, join, named, placed, typed, words


@dataclass(frozen=True)
class Setting:
    """One thing that can be set.

    Attributes:
        name: As it is written in a config.
        type: In words.
        default: The value where nothing is said; `MISSING` where something must be.
        help: Its meaning.
        range: What it must lie in, in words; empty = anything of its type.
    """

    name: str
    type: str
    default: Any
    help: str = ""
    range: str = ""


@dataclass(frozen=True)
class Entry:
    """One part of the catalogue.

    Attributes:
        kind: What it is: method, rule, memory, head, drift, stream, arrival, backbone, data, augment, schedule, optimizer.
        name: As it is written in a config.
        made_by: The class or function that makes it; a sentence where there is nothing to set.
    """

    kind: str
    name: str
    made_by: Any

    @property
    def summary(self) -> str:
        """What it does, in a line."""
        if isinstance(self.made_by, str):
            return self.made_by
        if self.kind == "optimizer":
            return f"torch.optim.{self.made_by.__name__}"
        return (inspect.getdoc(self.made_by) or "").partition("\n\n")[0].replace("\n", " ")

    @property
    def text(self) -> str:
        """The rest of what its docstring says, up to the first section."""
        if isinstance(self.made_by, str) or self.kind == "optimizer":
            return ""
        rest = (inspect.getdoc(self.made_by) or "").partition("\n\n")[2]
        kept: list[str] = []
        for line in rest.splitlines():
            if line.startswith(_SECTIONS):
                break
            kept.append(line)
        return "\n".join(kept).strip()

    @property
    def paper(self) -> Paper | None:
        """Where it comes from."""
        return getattr(self.made_by, "paper", None)

    @property
    def fidelity(self) -> str:
        """How sure we are that it is what was published; empty where nothing was."""
        return getattr(self.made_by, "fidelity", "") if self.paper is not None else ""

    @property
    def settings(self) -> list[Setting]:
        """What can be set."""
        if isinstance(self.made_by, str):
            return []
        return settings_of(self.made_by)


_SECTIONS = ("Args:", "Attributes:", "Raises:", "Returns:", "Yields:", "Example:", "Paper:", ">>>")


def _exported(face: types.ModuleType, is_one: Callable[[type], bool]) -> dict[str, type]:
    """The dataclasses that a room's face exports and that are what is looked for."""
    held = [getattr(face, name) for name in face.__all__]
    return {c.__name__: c for c in held if isinstance(c, type) and dataclasses.is_dataclass(c) and is_one(c)}


KINDS: dict[str, Mapping[str, Any]] = {
    "method": _exported(methods, lambda c: issubclass(c, Method)),
    "rule": _exported(rules, lambda c: issubclass(c, Rule)),
    "memory": _exported(memory, lambda c: issubclass(c, memory.Memory) and c is not memory.Memory),
    "head": _exported(heads, lambda c: issubclass(c, heads.Readout) and c is not heads.Readout),
    "drift": _exported(heads, lambda c: issubclass(c, heads.Drift) and c is not heads.Drift),
    "stream": STREAMS,
    "arrival": ARRIVALS,
    "backbone": BACKBONES,
    "data": SOURCES,
    "augment": AUGMENTS,
    "schedule": SCHEDULES,
    "optimizer": OPTIMIZERS,
}
"""Each kind of part: name -> what makes it, or a line about it."""
_FOUND_AS = {"method": ("method", "rule")}


def entries(kind: str) -> list[Entry]:
    """All parts of a kind.

    Raises:
        UnknownName: there is no such kind.
    """
    if kind not in KINDS:
        raise UnknownName("kind of part", kind, KINDS)
    others = methods_of_plugins() if kind == "method" else {}
    return [Entry(kind, name, made_by) for name, made_by in {**KINDS[kind], **others}.items()]


def find(kind: str, name: str) -> Entry:
    """A part by its name, in any case; a method of somebody else's as `package.module:Class`.

    Where a method is looked for a rule is found too: it may stand wherever a method does.

    Raises:
        UnknownName: no part of this kind has that name; the message names the nearest.

    >>> find("method", "er").name
    'ER'
    """
    known = {e.name.lower(): e for k in _FOUND_AS.get(kind, (kind,)) for e in entries(k)}
    if name.lower() in known:
        return known[name.lower()]
    if kind == "method" and ":" in name:
        return Entry(kind, name, foreign(name))
    raise UnknownName(kind, name, [e.name for e in known.values()])


def followers() -> list[str]:
    """The methods whose class statistics follow a backbone that moves.

    >>> len(followers()) > 0
    True
    """
    return [name for name, kind in KINDS["method"].items() if kind.follows]


def about(name: str) -> list[Entry]:
    """Everything in the catalogue that has this name, in any case.

    Raises:
        UnknownName: nothing has it; the message names the nearest.
    """
    every = [e for kind in KINDS for e in entries(kind)]
    held = [e for e in every if e.name.lower() == name.lower()]
    if not held and ":" in name:
        return [find("method", name)]
    if not held:
        raise UnknownName("part", name, {e.name for e in every})
    return held


def make(kind: str, table: Mapping[str, Any] | str, place: str = "") -> Any:
    """Build a part from plain values: its name, and what shall differ from the defaults.

    Args:
        kind: What it is; see `KINDS`.
        table: `{"name": ..., setting: value, ...}`, or only the name.
        place: Where the table stands in a config, for messages.

    Raises:
        UnknownName: no part or setting has that name.
        BadSetting: a value is of the wrong type or out of its range.

    >>> make("memory", {"name": "reservoir", "capacity": 20}).capacity
    20
    >>> make("memory", {"name": "Reservoir", "size": 1}, "a")
    Traceback (most recent call last):
    nacre.core.errors.UnknownName: a: unknown setting of Reservoir 'size': did you mean 'seed'? known are capacity, seed
    """
    with placed(place):
        name, values = named(kind, table)
        entry = find(kind, name)
    if kind == "optimizer":
        return _optimizer(entry.name, values, place)
    if isinstance(entry.made_by, type):
        return build(entry.made_by, values, place)
    with placed(place):
        return schedule(entry.name, **values)


def settings_of(made_by: Any) -> list[Setting]:
    """What can be set of a dataclass, or what a function can be told."""
    if not dataclasses.is_dataclass(made_by):
        return _parameters(made_by)
    hints = get_type_hints(made_by)
    found = []
    for f in fields(made_by):
        low, high = f.metadata.get("low"), f.metadata.get("high")
        span = f"at least {low}" if high is None else f"at most {high}" if low is None else f"{low} to {high}"
        if f.init and f.metadata.get("kind") != "by kind":
            help, spoken = f.metadata.get("help", ""), words(hints[f.name])
            found.append(Setting(f.name, spoken, default_of(f), help, "" if low is None and high is None else span))
    return found


def _optimizer(name: str, values: dict[str, Any], place: str) -> MadeOptimizer:
    lr, groups = values.pop("lr", MadeOptimizer.lr), values.pop("groups", [])
    options = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    groups = [dict(g) for g in typed(list[dict[str, Any]], groups, join(place, "groups"))]
    with placed(place):
        made = MadeOptimizer(name, lr, groups, options)
        for key in ("capturable", "differentiable"):
            if any(t.get(key) for t in (options, *groups)):
                raise BadSetting(
                    f"{key} is for CUDA graphs or gradients through steps, which are not taken here: leave it out"
                )
        for told in ({}, *groups):  # torch checks values when it makes an optimizer: on a weight of no importance
            one = {"lr": lr, **options, **{k: v for k, v in told.items() if k != "match"}}
            try:
                MadeOptimizer(name, one.pop("lr"), options=one)({"weight": nn.Parameter(torch.zeros(1, 1))})
            except Exception as error:  # torch checks some by an assertion, some by an index, some not at all
                raise BadSetting(
                    f"the settings of {name} do not fit: {first_line(error)}; see `nacre show {name}`"
                ) from error
    return made


_NOT_SAID = ("self", "params", "data", "stream", "seed", "capturable", "differentiable")
"""Parameters that no config sets."""


def _parameters(made_by: Any) -> list[Setting]:
    """What a function, or a class of others, can be told; meanings are looked for in its docstring."""
    hints = get_type_hints(made_by.__init__ if isinstance(made_by, type) else made_by)
    doc, found = inspect.getdoc(made_by) or "", []
    for p in inspect.signature(made_by).parameters.values():
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and p.name not in _NOT_SAID:
            default = dataclasses.MISSING if p.default is p.empty else p.default
            hint = hints.get(p.name, Any)
            kinds = (
                [o for o in get_args(hint) if o is not torch.Tensor]
                if get_origin(hint) in (Union, types.UnionType)
                else [hint]
            )
            spoken = " or ".join(map(words, kinds))
            found.append(Setting(p.name, spoken, default, _meaning(doc, p.name)))
    return found


def _meaning(doc: str, name: str) -> str:
    """What a docstring says of an argument: its entry under "Args:", else the sentence that speaks of it."""
    entry = re.search(rf"^ +{name}\b *(?:\([^\n]*?\))? *: *(.*(?:\n {{6,}}.*)*)", doc, re.MULTILINE)
    if entry is not None:
        return re.split(r"\s*\(default:|\.\s", " ".join(entry[1].split()))[0].rstrip(".")
    sentences = re.split(r"(?<=[.;:])\s+", " ".join(doc.split()))
    return next((s for s in sentences if f"`{name}`" in s), "")
