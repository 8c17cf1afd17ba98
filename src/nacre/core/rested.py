"""Whether what was asked to rest did: entries that rest at every step of a stage, and how many of them moved all the same."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .bits import bits
from .errors import BadStep
from .shards import whole
from .state import Stateful, Tensors, state


@dataclass
class Rested(Stateful):
    """Moves nothing; remembers the tensors of which some entries are to rest, and counts those that moved.

    A tensor that `known` holds already, bit for bit, is not copied again, so `known` is to be given to `counts` too.

    >>> rested, weight, mask = Rested(), torch.zeros(3), torch.tensor([True, True, False])
    >>> rested.begin({"w": mask}, {"w": weight}, {})
    >>> weight[1:] = 1.0
    >>> rested.counts({"w": mask}, {"w": weight}, {})
    {'entries': 3, 'asked': 2, 'moved': 1}
    >>> rested.broken({"w": mask}, {"w": weight}, {})
    {'w': 1}
    """

    then: Tensors = state()

    @torch.no_grad()
    def begin(self, masks: Tensors, params: Mapping[str, Tensor], known: Tensors) -> None:
        """Remember what is to rest; weights that ranks hold in parts are gathered, so all ranks ask together.

        Args:
            masks: By name, the entries that rest: of the tensor's shape, shorter in dim 0, or 0-dim for all of it.
            params: The tensors that are trained.
            known: Copies of tensors that stay as they are until the stage ends.
        """
        self.then = {}
        for name in (n for n in masks if n in params):
            now = whole(params[name].detach())
            if name not in known or not _equal(known[name], now):
                self.then[name] = now.clone()

    def counts(self, masks: Tensors, params: Mapping[str, Tensor], known: Tensors) -> dict[str, int]:
        """How many entries are trained, how many of these were asked to rest, and how many of these moved."""
        found = {"entries": sum(p.numel() for p in params.values()), "asked": 0, "moved": 0}
        for _, asked, moved in self._each(masks, params, known):
            found["asked"] += asked
            found["moved"] += moved
        return found

    def broken(self, masks: Tensors, params: Mapping[str, Tensor], known: Tensors) -> dict[str, int]:
        """By name, how many of the entries that were to rest moved, where any did."""
        return {name: moved for name, _, moved in self._each(masks, params, known) if moved}

    @torch.no_grad()
    def _each(self, masks: Tensors, params: Mapping[str, Tensor], known: Tensors) -> Iterator[tuple[str, int, int]]:
        """Of each tensor how many entries were to rest, and how many of these have other bits."""
        for name in (n for n in masks if n in params):
            now = whole(params[name].detach())
            then = self.then.get(name, known.get(name))
            asked, moved = _over(masks[name].to(now.device), now), 0
            if then is not None:  # rows that came later had no earlier value
                rows = slice(0, len(then)) if now.ndim else ...
                moved = int((asked[rows].reshape(-1) & (bits(now[rows]) != bits(then.to(now.device)))).sum())
            yield name, int(asked.sum()), moved


def refuse_broken(broken: Mapping[str, int], where: str) -> None:
    """See that nothing moved that was to rest.

    Raises:
        BadStep: something did.
    """
    for name, moved in broken.items():
        raise BadStep(
            f"{moved} entries of {name} moved that were asked to rest at every step of {where}"
            + (f", and so did some of {len(broken) - 1} more tensors" if len(broken) > 1 else "")
            + ": something writes to weights behind the rule, such as another optimizer, a hook of a module or the loop "
            "itself; take it out, or set verify_rest to false if it is meant to"
        )


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.to(other.device), other)


def _over(mask: Tensor, like: Tensor) -> Tensor:
    """The mask in the shape of its tensor: False in rows that it does not reach."""
    if mask.ndim == 0:
        return mask.expand(like.shape)
    full = torch.zeros_like(like, dtype=torch.bool)
    full[: len(mask)] = mask
    return full
