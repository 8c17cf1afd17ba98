"""SoTU: models tuned on each task from the first weights, thinned at random, and added up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from ..core.dice import keep, uniform
from ..core.errors import BadSetting
from ..core.method import Method
from ..core.model import head_prefixes
from ..core.paper import Fidelity, Paper
from ..core.shards import is_sharded
from ..core.state import Tensors, setting, state
from ..core.stream import Task


@dataclass
class SoTU(Method):
    """Tune each task from the first weights; of each entry's way keep it whole or not at all, by dice, and add up what is kept.

    With theta_0 the weights before the first task: a stage begins at theta_0, and when it ends at theta_t, the model becomes

        theta_0 + sum over s <= t of m_s * (theta_s - theta_0),   m_s = 1 with probability 1 - drop, else 0

    Two thinned ways are nearly orthogonal: their cosine is (1 - drop) times that of the whole ones, so they disturb each other
    little. A stage of its own, before the stage of a host that reads the merged features (SimpleCIL, RanPAC). Statistics of
    earlier tasks are of an earlier merge then; a host whose statistics follow the backbone takes them along.

    What is merged is what trains below the head. The head is not: it goes on from task to task, and answers by itself were
    trained on the unmerged weights. Floating buffers, such as running statistics, go back to those of theta_0.

    With `how = "partition"` every entry belongs to one of `tasks` tasks, drawn once, and only that task may change it: the ways
    of `tasks` tasks share no entry, so they are exactly orthogonal, their order does not matter, and `unmerge` takes a task
    out again bit for bit. `drop` is 1 - 1 / tasks then, whatever is set; task t + tasks uses the entries of task t again.

    Where one task alone has kept an entry, it has the bits of that task: with `drop = 0` one task is plain fine-tuning.

    Paper: Sparse Orthogonal Parameters Tuning for Continual Learning (arXiv 2411.02813). Tune, thin at random, add up is
    published; whether what is kept is divided by 1 - drop was not available (`rescale`, off by default).

    Raises:
        BadSetting: each rank holds a part of a weight.

    >>> SoTU(drop=0.7).how
    'random'
    """

    paper: ClassVar[Paper | None] = Paper(
        "Sparse Orthogonal Parameters Tuning for Continual Learning (SoTU)", 2024, "2411.02813"
    )
    fidelity: ClassVar[Fidelity] = "inspired"
    tunes: ClassVar[bool] = True

    drop: float = setting(0.9, "share of the entries of a way that is left out of the merge (p)", low=0.0, high=1.0)
    how: Literal["random", "partition"] = setting(
        "random", "whether tasks draw their entries apart, or share them out among them"
    )
    tasks: int = setting(10, "tasks that the entries are shared out to", low=1)
    rescale: bool = setting(False, "divide what is kept by 1 - drop, so that its mean is the whole way")
    seed: int = setting(0, "seeds the choice of entries")
    first: Tensors = state()  # theta_0, and buffers of then
    merged: Tensors = state()  # theta_0 and what was kept so far

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(drop=0.5)
        yield cls(how="partition", tasks=3)

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        live = _below_head(model)
        for name, t in live.items():
            if name not in self.first:
                wide = torch.promote_types(t.dtype, torch.float32)
                self.first[name] = t.detach().to(wide, copy=True)
                if isinstance(t, nn.Parameter):
                    self.merged[name] = t.detach().to(wide, copy=True)
        _put(live, self.first)

    def end_stage(self, model: nn.Module, task: Task) -> None:
        live = _below_head(model)
        for name, merged in self.merged.items():
            if name in live:
                kept = self.kept(name, task.index, merged)
                self.merged[name] = _added(
                    merged, self.first[name], live[name].detach().to(merged), kept, self._factor()
                )
        _put(live, {**self.first, **self.merged})

    def kept(self, name: str, task: int, like: Tensor) -> Tensor:
        """Which entries of a tensor a task may change in the merge: bool, of its shape."""
        if self.how == "partition":
            whose = (uniform(like.numel(), like.device, self.seed, name, "whose") * self.tasks).long()
            return (whose == task % self.tasks).view(like.shape)
        return keep(1 - self.drop, like.numel(), like.device, self.seed, task, name, "kept").view(like.shape)

    @torch.no_grad()
    def unmerge(self, model: nn.Module, task: int) -> None:
        """Take a task out of the merged model: its entries have the bits of theta_0 again, and all others theirs.

        Raises:
            BadSetting: entries are not shared out, so that other tasks moved them too.
        """
        if self.how != "partition":
            raise BadSetting(
                f'SoTU with how = "{self.how}" adds up ways that share entries, and keeps their sum alone: only with how = '
                '"partition" can a task be taken out again'
            )
        live = _below_head(model)
        for name, merged in self.merged.items():
            self.merged[name] = torch.where(self.kept(name, task, merged), self.first[name], merged)
        _put(live, self.merged)

    def _factor(self) -> float:
        share = 1 / self.tasks if self.how == "partition" else 1 - self.drop
        return 1 / share if self.rescale and share else 1.0


def _below_head(model: nn.Module) -> Tensors:
    """What is tuned and merged: parameters that train, and floating buffers, below the head."""
    heads = tuple(f"{prefix}." for prefix in head_prefixes(model))
    found: Tensors = {n: p for n, p in model.named_parameters() if p.requires_grad and not n.startswith(heads)}
    if cut := [n for n, p in found.items() if is_sharded(p)]:
        raise BadSetting(
            f"SoTU merges whole weights, and each rank holds a part of {cut[0]}: train without fully_shard"
        )
    kept = model.state_dict()
    return found | {
        n: b for n, b in model.named_buffers() if n in kept and b.is_floating_point() and not n.startswith(heads)
    }


@torch.no_grad()
def _put(live: Tensors, values: Tensors) -> None:
    for name in live.keys() & values.keys():
        live[name].data.copy_(values[name])


def _added(merged: Tensor, first: Tensor, now: Tensor, kept: Tensor, factor: float) -> Tensor:
    """Merged + kept * factor * (now - first); what only this task has moved has its bits."""
    way = merged + (now - first) * factor
    alone = torch.where(merged == first, now, way) if factor == 1 else way
    return torch.where(kept, alone, merged)
