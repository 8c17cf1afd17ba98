"""Rest: chosen entries keep their value, bit for bit, under any optimizer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..core.errors import BadSetting
from ..core.rule import Rule, Site
from ..core.state import Tensors, scratch
from .moves import chosen, some


@dataclass
class Rest(Rule):
    """Keep chosen entries at their old value at every step; the others move as the optimizer says.

    w <- where(rests, w before the step, w after the step). Weight decay and momentum do not reach what rests.

    Attributes:
        rests: By parameter name, a bool mask of the parameter's shape, or a 0-dim one for the whole tensor; True rests.
            Or a regular expression: every parameter whose name it finds rests as a whole.

    Raises:
        BadSetting: a mask is not of type bool, or nothing that the optimizer holds has such a name.

    >>> rule = Rest("body")  # the head moves alone
    """

    excused: ClassVar[dict[str, str]] = {
        "settings_are_plain": "masks are tensors that the caller made; in a config an expression stands for them"
    }
    off: ClassVar[dict[str, Any]] = {"rests": {}}

    rests: dict[str, Tensor] | str
    looked: tuple[Site, Tensors] | None = scratch()

    @classmethod
    def examples(cls) -> Iterator[Rule]:
        yield cls("body")
        yield cls({})

    def resting(self, site: Site) -> Tensors:
        if self.looked is None or self.looked[0].params is not site.params:
            self.looked = (site, self._check(site))
        return self.looked[1]

    def _check(self, site: Site) -> Tensors:
        """The masks that rest anything, found once for each optimizer."""
        if isinstance(self.rests, str):
            return {n: torch.tensor(True) for n in chosen(site, self.rests, f"Rest({self.rests!r})")}
        for name, mask in self.rests.items():
            if name not in site.params:
                raise BadSetting(
                    f"Rest names {name!r}, which the optimizer does not hold: name one that it does, {some(site)}"
                )
            if mask.dtype != torch.bool:
                raise BadSetting(
                    f"Rest takes bool masks; the one of {name!r} is {mask.dtype}: convert it with mask.bool()"
                )
        return {n: m.to(site.params[n].device) for n, m in self.rests.items() if bool(m.any())}
