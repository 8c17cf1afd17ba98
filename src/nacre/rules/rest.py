"""Rest: chosen entries keep their value, bit for bit, under any optimizer."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.errors import BadSetting
from ..core.rule import Rule, Site
from ..core.state import Tensors, scratch


@dataclass
class Rest(Rule):
    """Keep chosen entries at their old value at every step; the others move as the optimizer says.

    w <- where(rests, w before the step, w after the step). Weight decay and momentum do not reach what rests.

    Attributes:
        rests: By parameter name, a bool mask of the parameter's shape, or a 0-dim one for the whole tensor; True rests.
            Or a regular expression: every parameter whose name it finds rests as a whole.

    Raises:
        BadSetting: a mask is not of type bool, or names a parameter that the optimizer does not hold.
    """

    rests: dict[str, Tensor] | str
    checked: dict[str, Tensor] | None = scratch()

    def resting(self, site: Site) -> Tensors:
        if self.checked is None:
            self.checked = self._check(site)
        return self.checked

    def _check(self, site: Site) -> Tensors:
        """The masks that rest anything, found once."""
        if isinstance(self.rests, str):
            return {n: torch.tensor(True) for n in site.params if re.search(self.rests, n)}
        for name, mask in self.rests.items():
            if name not in site.params:
                held = ", ".join(sorted(site.params)[:8])
                raise BadSetting(f"Rest names {name!r}, which the optimizer does not hold: it holds {held}")
            if mask.dtype != torch.bool:
                raise BadSetting(f"Rest takes bool masks; the one of {name!r} is {mask.dtype}")
        return {n: m.to(site.params[n].device) for n, m in self.rests.items() if bool(m.any())}
