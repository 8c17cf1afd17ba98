"""What a part learns, what it may keep, and how a shorter memory reads a tensor that grew."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from dataclasses import field, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, cast, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from .errors import BadCheckpoint, BadSetting, BadUse, UnknownName
from .shards import part_of

Tensors = dict[str, Tensor]
"""Tensors by parameter name."""


def state(make: Callable[[], Any] = dict) -> Any:
    """A field that is learned, not configured: absent from `__init__`, saved and loaded."""
    return field(init=False, repr=False, compare=False, default_factory=make, metadata={"kind": "state"})


def scratch(make: Callable[[], Any] = lambda: None) -> Any:
    """A field that can be derived again from state: never saved, made anew after a load."""
    return field(init=False, repr=False, compare=False, default_factory=make, metadata={"kind": "scratch"})


def setting(default: Any, help: str, *, low: float | None = None, high: float | None = None) -> Any:
    """A field that is configured: its default, its meaning in a sentence, and the range it must lie in.

    The sentence is what `nacre show` prints and what the command line offers as help: there is no second list.
    """
    about = {"kind": "setting", "help": help, "low": low, "high": high}
    if callable(default):  # a class or function that makes the default anew for each part
        return field(default_factory=default, metadata=about)
    return field(default=default, metadata=about)


class Stateful:
    """Moves nothing by itself; can be stopped and resumed.

    Kept are the `state()` fields and every Stateful setting, alone or in a tuple. A state field holds a Tensor, bool, int,
    float, str, None, a Stateful, or a list or str-keyed dict of these. There is no generator in the list: dice are counted
    (`core/dice.py`), so a position is all the randomness there is to save.

    Attributes:
        excused: Shared checks that do not hold for the class, each with the reason; an excuse that is not needed is an error.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]  # subclasses are dataclasses
    excused: ClassVar[dict[str, str]] = {}

    @classmethod
    def examples(cls) -> Iterator[Stateful]:
        """Small instances that shared checks test the class with."""
        yield cls()

    def __post_init__(self) -> None:
        check_settings(self)

    def _kept(self) -> list[str]:
        return [
            f.name for f in fields(self) if f.metadata.get("kind") == "state" or _holds_parts(getattr(self, f.name))
        ]

    def state_dict(self) -> dict[str, Any]:
        """References, not copies: write them down before the next step."""
        return {name: _saved(getattr(self, name), f"{type(self).__name__}.{name}") for name in self._kept()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take over what `state_dict` gave; scratch fields are made anew.

        Raises:
            BadCheckpoint: `saved` comes from another composition.
        """
        if set(saved) != set(self._kept()):
            raise BadCheckpoint(
                f"{type(self).__name__} keeps {sorted(self._kept())}, the checkpoint has {sorted(saved)}: "
                "was it written by the same version and the same composition?"
            )
        kinds = _hints(type(self))
        for name, value in saved.items():
            if not _fits(value, kinds.get(name)):
                raise BadCheckpoint(
                    f"{type(self).__name__}.{name} is not what the checkpoint has there, {str(value)[:60]!r} "
                    f"({type(value).__name__}): was it written by another version, or by hand?"
                )
        for f in fields(self):
            if f.metadata.get("kind") == "scratch":
                assert callable(f.default_factory)
                setattr(self, f.name, f.default_factory())
            elif f.name in saved:
                setattr(self, f.name, _loaded(getattr(self, f.name), saved[f.name]))


def settings(part: Any) -> dict[str, Any]:
    """The configured fields of a part as plain values; a part inside becomes a dict with its class as `name`.

    >>> from nacre.memory import Reservoir
    >>> settings(Reservoir(capacity=50))
    {'capacity': 50, 'seed': 0}
    """
    return {f.name: _plain(getattr(part, f.name)) for f in fields(part) if f.init}


def called(kind: type) -> str:
    """What a config calls a class: its name, and `module:Class` for one of somebody else's."""
    ours = kind.__module__.partition(".")[0] == __name__.partition(".")[0]
    return kind.__name__ if ours else f"{kind.__module__}:{kind.__qualname__}"


def check_settings(part: Any) -> None:
    """Refuse settings of a wrong type, outside the range that their field declares, or not among its choices.

    Raises:
        BadSetting: naming the part, the setting, the value and what it may be.
        UnknownName: the same for choices; the nearest is named.
    """
    kinds = _hints(type(part))
    for f in fields(part):
        if f.init:
            name, value = f"{type(part).__name__}.{f.name}", getattr(part, f.name)
            _check_kind(name, value, kinds.get(f.name))
            _check_range(name, value, f.metadata.get("low"), f.metadata.get("high"))


@cache
def _hints(kind: type) -> dict[str, Any]:
    try:
        return get_type_hints(kind)
    except NameError:  # a class made in a function names what only the function knows
        return {}


def _check_kind(name: str, value: Any, hint: Any) -> None:
    """Plain kinds and choices only; parts say themselves what they take."""
    hints = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    choices = [c for h in hints if get_origin(h) is Literal for c in get_args(h)]
    if choices and isinstance(value, str) and value not in choices:
        raise UnknownName(f"value of {name}", value, map(str, choices))
    plain = [h for h in hints if h in (bool, int, float, str, NoneType)]
    others = len(hints) - len(plain) - any(get_origin(h) is Literal for h in hints)
    if others or value in choices:
        return
    if isinstance(value, float) and not math.isfinite(value):
        raise BadSetting(f"{name} is a finite number, not {value!r}")
    kinds = (*plain, int) if float in plain else tuple(plain)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in plain):
        words = ["None" if h is NoneType else h.__name__ for h in plain] + list(map(repr, choices))
        raise BadSetting(f"{name} is {' or '.join(words)}, not {value!r} ({type(value).__name__})")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a saved value is of the kind that its field is annotated with; parts say themselves what they take."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(_fits(value, h) for h in inner)
    if origin is list:
        return isinstance(value, list) and all(_fits(v, inner[0]) for v in cast("list[Any]", value))
    if origin is dict:
        return isinstance(value, dict) and all(_fits(v, inner[1]) for v in cast("dict[Any, Any]", value).values())
    if hint in (bool, int, float, str, NoneType):
        return type(value) is hint or (hint is float and type(value) is int)
    return isinstance(value, Tensor) if hint is Tensor else True


def _check_range(name: str, value: Any, low: float | None, high: float | None) -> None:
    if (low is None and high is None) or isinstance(value, (str, NoneType)):
        return
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise BadSetting(f"{name} is a number, not {value!r} ({type(value).__name__})")
    if not ((low is None or value >= low) and (high is None or value <= high)):
        span = f"at least {low}" if high is None else f"at most {high}" if low is None else f"in [{low}, {high}]"
        raise BadSetting(f"{name} must be {span}, not {value!r}")


def grown(kept: Tensor, like: Tensor, fill: float = 0) -> Tensor:
    """`kept` with rows of `fill` appended until it is as long as `like`: how an old memory reads a head that grew.

    Args:
        kept: A tensor of shape (rows, ...) or (), taken when the parameter was perhaps shorter.
        like: The parameter now, of shape (rows or more, ...). Where it is held in parts, so is the answer.
        fill: The value that means "no memory": importance 0, uses 0, resting False.

    >>> grown(torch.ones(2, 3), torch.empty(4, 3)).sum(1)
    tensor([3., 3., 0., 0.])
    """
    if kept.ndim == 0 or kept.shape == like.shape:
        return part_of(kept, like)
    if kept.shape[1:] != like.shape[1:] or len(kept) > len(like):
        raise BadUse(
            f"a kept tensor of shape {tuple(kept.shape)} does not grow into {tuple(like.shape)}: only rows are added"
        )
    return part_of(torch.cat([kept, kept.new_full((len(like) - len(kept), *kept.shape[1:]), fill)]), like)


def moved(tree: Any, device: torch.device | str) -> Any:
    """A tree of state with its tensors on another device."""
    match tree:
        case Tensor():
            return tree.to(device)
        case dict():
            return {k: moved(v, device) for k, v in tree.items()}
        case list():
            return [moved(v, device) for v in tree]
        case _:
            return tree


def _holds_parts(value: Any) -> bool:
    return isinstance(value, Stateful) or (isinstance(value, tuple) and any(isinstance(v, Stateful) for v in value))


def _plain(value: Any) -> Any:
    if isinstance(value, Stateful):
        return {"name": called(type(value)), **settings(value)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return settings(value)
    if isinstance(value, (tuple, list)):
        return [_plain(v) for v in value]
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return value


def _saved(value: Any, path: str) -> Any:
    match value:
        case Stateful():
            return value.state_dict()
        case Tensor():
            return value.detach()
        case bool() | int() | float() | str() | None:
            return value
        case tuple() if _holds_parts(value):
            return [_saved(v, f"{path}[{i}]") for i, v in enumerate(value)]
        case list():
            return [_saved(v, f"{path}[{i}]") for i, v in enumerate(value)]
        case dict() if all(isinstance(k, str) for k in value):
            return {k: _saved(v, f"{path}[{k!r}]") for k, v in value.items()}
    raise BadUse(
        f"{path} is a {type(value).__name__}; state is a Tensor, number, string, None, Stateful, or a list or str-keyed "
        "dict of these (what can be derived again belongs in a scratch() field)"
    )


def _loaded(now: Any, saved: Any) -> Any:
    if isinstance(now, Stateful):
        now.load_state_dict(saved)
        return now
    if _holds_parts(now):
        for part, s in zip(now, saved, strict=True):
            part.load_state_dict(s)
        return now
    match saved:
        case Tensor():
            return saved.clone()
        case dict():
            return {k: _loaded(None, v) for k, v in saved.items()}
        case list():
            return [_loaded(None, v) for v in saved]
    return saved
