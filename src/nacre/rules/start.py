"""The weights where a stage began, against which later ones are measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from ..core.rule import Site
from ..core.shards import part_of
from ..core.state import Stateful, Tensors, scratch, state
from .moves import wide


@dataclass
class Start(Stateful):
    """Remembers weights, in fp32 or better, from before the first step of the present stage; each stage begins anew.

    Rows that a head gains while the stage runs start where they were when they came. Told of a step before it is taken.
    """

    weights: Tensors = state()
    stage: str = state(str)  # which one began there
    seen: Any = scratch()  # the parameters of the stage that was begun in this process

    def notice(self, site: Site, names: Iterable[str]) -> Tensors:
        """The weights where this stage began; taken now if it begins here."""
        stage = f"{site.task.index}.{site.task.stage}" if site.task is not None else ""
        if self.stage != stage or (not site.step and self.seen is not site.params):
            self.weights, self.stage = {}, stage
        self.seen = site.params
        for n in names:
            now, held = site.params[n].data, self.weights.get(n)
            if held is None:
                self.weights[n] = now.to(wide(now), copy=True)
            elif held.shape != now.shape:
                self.weights[n] = torch.cat([held, now[len(held) :].to(held.dtype)])
            else:
                self.weights[n] = part_of(held, now)
        return self.weights
