"""Small parts of other kinds that a part must get along with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.dice import dice, keep
from ..core.method import Method
from ..core.model import Outputs, device_of
from ..core.rows import Batch
from ..core.rule import Rule, Site
from ..core.state import Tensors, setting, state
from ..core.stream import Task
from ..memory import Block, fields_of, replayed


@dataclass
class Cap(Rule):
    """No tensor moves farther than `far` in one step, in the Euclidean norm."""

    far: float = setting(0.01, "the farthest move of a tensor at a step", low=0.0)

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        for n, before in old.items():
            move = new[n] - before
            new[n] = before + move * (self.far / move.norm().clamp_min(1e-12)).clamp_max(1.0)
        return new


@dataclass
class Push(Rule):
    """A rough partner: pushes every entry of every weight after the step."""

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        return {n: w + 0.1 for n, w in new.items()}

    def needs_old(self, name: str) -> bool:
        return False


@dataclass
class Rester(Rule):
    """Half of the entries of every tensor rest, drawn anew at each step."""

    def resting(self, site: Site) -> Tensors:
        return {
            n: keep(0.5, p.numel(), p.device, "rester", site.step, n).view_as(p)
            for n, p in site.params.items()
            if p.numel()
        }

    def still(self, site: Site) -> Tensors:
        return {}


@dataclass
class Replayer(Method):
    """Adds three rows of the past to each batch; remembers the last `capacity` rows of the stream."""

    capacity: int = setting(9, "rows held", low=1)
    block: Block = setting(Block, "where they are held")
    seen: int = state(int)
    draws: int = state(int)

    def shape_batch(self, batch: Batch) -> Batch:
        held = min(self.seen, self.capacity)
        self.draws += 1
        if not held:
            return batch
        return replayed(batch, self.block.read(torch.randperm(held, generator=dice("replayer", self.draws))[:3]))

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        own = batch.pick(batch.own())
        rows = {n: v[-self.capacity :] for n, v in fields_of(own, {}).items()}
        count = len(rows["y"])
        slots = torch.arange(self.seen + len(own) - count, self.seen + len(own)) % self.capacity
        if count:
            self.block.write(slots, rows, self.capacity)
        self.seen += len(own)


@dataclass
class Rebuilds(Method):
    """Changes the structure twice: from its second task on a module is added, and the body's first weight is frozen.

    The body must be callable without words, as that of the vector world is.
    """

    tasks: int = state(int)

    def prepare(self, model: nn.Module) -> None:
        body = getattr(model, "body", None)
        if self.tasks > 1 and isinstance(body, nn.Sequential) and not isinstance(body[-1], _Added):
            body.append(_Added().to(device_of(model)))
        if self.tasks > 1:
            next(model.parameters()).requires_grad_(False)

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.tasks += 1


class _Added(nn.Module):
    """A scale of each feature, 1 at the start."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(16))

    def forward(self, z: Tensor) -> Tensor:
        return z * self.scale
