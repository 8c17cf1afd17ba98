"""MIST: sparse tuning of a pre-trained model before a closed-form head reads it."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..core import ranks
from ..core.dice import dice, keep
from ..core.errors import BadSetting
from ..core.method import Method
from ..core.model import Outputs, device_of, evaluating, forward, mean_loss
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch, cat
from ..core.rule import Site
from ..core.shards import gradients, whole
from ..core.state import Tensors, grown, scratch, setting, state
from ..core.stream import Task
from ..importance import top_share
from ..losses import supervised_info_nce

logger = logging.getLogger(__name__)


@dataclass
class MIST(Method):
    """Let only the weights most sensitive to the task move, and few of those at each step.

    A stage of its own, before the stage of a host that reads the features (SimpleCIL, RanPAC). Before it begins, each
    entry is scored by the mean over batches of the squared gradient of the stage's loss; the `select` share of each tensor
    with the highest scores may move. At each step a fresh `drop` share of these rests too, and the move of an entry that
    n earlier tasks selected is multiplied by fade^n. Biases, norms and the head (`free`) may always move. The loss is
    supervised InfoNCE on two augmented views of each row through a projection that is a part of the method, not of the
    model.

    Differences from the published code: it masks *gradients*, so momentum and weight decay move entries that were to rest;
    here what rests is put back after the step, bit for bit, under any optimizer. There, free tensors are dropped too. The
    published settings are SGD with momentum 0.9, rate 1e-4 (projection 1e-2), weight decay 5e-4, 19 epochs.

    Paper: Sparse Tuning Enhances Plasticity in PTM-based Continual Learning (arXiv 2505.19943).

    >>> MIST(select=0.05, drop=0.0).select
    0.05
    """

    paper: ClassVar[Paper | None] = Paper(
        "Sparse Tuning Enhances Plasticity in PTM-based Continual Learning (MIST)", 2025, "2505.19943"
    )
    fidelity: ClassVar[Fidelity] = "faithful"
    excused: ClassVar[dict[str, str]] = {
        "compiles": "a compiled model gives a head that the contrastive loss leaves out gradients of 0 instead of none, so an "
        "optimizer with weight decay moves it: give the head a group without decay"
    }
    off: ClassVar[dict[str, Any]] = {"select": 1.0, "drop": 0.0, "fade": 1.0, "protect": 0.0, "objective_of": "stage"}

    select: float = setting(0.1, "share of each tensor that may move on a task", low=0.0, high=1.0)
    drop: float = setting(0.9, "share of these that rests at each step, drawn anew", low=0.0, high=1.0)
    fade: float = setting(0.9, "factor on an entry's moves for each earlier task that selected it", low=0.0, high=1.0)
    protect: float = setting(
        0.0005, "share of each tensor, its top scores, that rests for ever after a task", low=0.0, high=1.0
    )
    rescale: bool = setting(False, "divide moves by 1 - drop, so that their mean is that of no drop")
    free: str = setting(
        r"bias|norm|^head", "tensors whose names this expression finds may always move, and so may norm layers"
    )
    objective_of: Literal["contrastive", "stage"] = setting(
        "contrastive", "what is trained and scored: InfoNCE on two views, or the stage's own loss"
    )
    width: int = setting(128, "width of the projection", low=1)
    temperature: float = setting(0.07, "temperature of the InfoNCE loss (tau)", low=1e-6)
    batch: int = setting(64, "rows per scoring batch", low=1)
    rows: int | None = setting(None, "rows that scores are taken of; all of the task by default", low=1)
    seed: int = setting(0, "seeds the projection, the order of scoring and the drops")
    features: int = state(int)  # width of the model's features, once met
    tasks: int = state(int)  # stages begun
    chosen: Tensors = state()  # bool: may move on this task
    spared: Tensors = state()  # bool: rests for ever
    soon: Tensors = state()  # bool: will rest for ever after this task
    uses: Tensors = state()  # int16: how many earlier tasks selected the entry
    places: dict[str, Tensor] = scratch(dict)  # positions of what may move, in each flat tensor
    resters: Tensors = scratch(dict)  # what rests throughout this stage

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(width=8, batch=16)
        yield cls(objective_of="stage", batch=16)

    def overrides(self, hook: str) -> bool:
        return super().overrides(hook) and (hook not in ("objective", "shape_batch") or self._contrasts)

    @property
    def _contrasts(self) -> bool:
        return self.objective_of == "contrastive"

    def prepare(self, model: nn.Module) -> None:
        if not self._contrasts or not self.features or "projection" in self.parts:
            return
        projection = nn.Linear(self.features, self.width, device="meta").to_empty(device="cpu")
        with torch.no_grad():
            for i, p in enumerate(projection.parameters()):
                bound = self.features**-0.5
                p.uniform_(-bound, bound, generator=dice(self.seed, "projection", i))
        self.parts["projection"] = projection.to(device_of(model))

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.tasks += 1
        self.places, self.resters, self.chosen, self.soon = {}, {}, {}, {}
        if not task.rows or task.train is None:
            return
        if self._contrasts and not self.features:
            with evaluating(model), torch.no_grad():
                one = task.train.take(torch.arange(1)).to(task.device)
                self.features = forward(model, one).need_features("MIST").shape[1]
            self.prepare(model)
        for name, score in self._scores(model, task).items():
            never = grown(self.spared[name], score, False) if name in self.spared else torch.zeros_like(score).bool()
            score = score.masked_fill(never, 0.0)
            self.chosen[name] = top_share(score, self.select, least=0) & ~never
            self.soon[name] = never | top_share(score, self.protect) if self.protect else never

    def shape_batch(self, batch: Batch) -> Batch:
        """Each row twice, the second time as a view that no memory admits."""
        if not self._contrasts:
            return batch
        rows = len(batch)
        source = torch.zeros_like(batch.y) if batch.source is None else batch.source
        again = replace(batch, source=torch.where(source == 0, -1, source))
        both = cat(replace(batch, source=source), again)
        place = torch.arange(2 * rows, device=batch.y.device)
        return replace(both, extra={**both.extra, "mist_pair": (place + rows) % max(2 * rows, 1)})

    def objective(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor:
        if not self._contrasts or "mist_pair" not in batch.extra:
            return mean_loss(
                out, batch
            )  # of rows without a second view, such as a partner's Fisher information asks for
        z = out.need_features("MIST")
        projected = self.parts["projection"](z if torch.is_autocast_enabled(z.device.type) else z.float())
        return supervised_info_nce(projected, batch.y, batch.extra["mist_pair"], self.temperature)

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        scale = 1 / (1 - self.drop) if self.rescale and self.drop < 1 else 1.0
        for n in self.chosen:
            if n in new and self.needs_old(n):
                factor = torch.full_like(new[n], scale)
                if n in self.uses:
                    factor *= self.fade ** grown(self.uses[n], new[n]).to(factor.dtype)
                new[n] = torch.lerp(old[n], new[n], factor)
        return new

    def needs_old(self, name: str) -> bool:
        fades = self.fade < 1 and name in self.uses
        return name in self.chosen and (fades or (self.rescale and self.drop > 0))

    def resting(self, site: Site) -> Tensors:
        rests = {}
        for n, mask in self.still(site).items():
            places = self.places[n]
            if self.drop:
                moves = keep(1 - self.drop, len(places), places.device, self.seed, self.tasks, site.step, n)
                mask = mask.clone()
                mask.view(-1)[places] = ~moves
            if self.drop or len(places) < mask.numel():
                rests[n] = mask
        return rests

    def still(self, site: Site) -> Tensors:
        for n in self.chosen.keys() - self.resters.keys():
            self.resters[n] = ~self.chosen[n]
            self.places[n] = self.chosen[n].flatten().nonzero().flatten()
        return {n: self.resters[n] for n in self.chosen if n in site.params}

    def end_stage(self, model: nn.Module, task: Task) -> None:
        for n, chosen in self.chosen.items():
            before = grown(self.uses[n], chosen) if n in self.uses else torch.zeros_like(chosen, dtype=torch.int16)
            self.uses[n] = before + chosen
        self.spared.update(self.soon)

    def _scores(self, model: nn.Module, task: Task) -> Tensors:
        """Mean over batches of the squared gradient of the stage's own loss, for what is not free."""
        assert task.train is not None and task.augment is not None and task.objective is not None
        norms = {n for n, m in model.named_modules() if "norm" in type(m).__name__.lower()}
        params = {
            n: p
            for n, p in model.named_parameters()
            if p.requires_grad and not re.search(self.free, n) and n.rpartition(".")[0] not in norms
        }
        if not params:
            raise BadSetting(
                f"MIST has nothing to choose from: every trainable tensor is a norm or matches free = {self.free!r}; free "
                "fewer tensors, or unfreeze the backbone"
            )
        total = {n: torch.zeros_like(p, dtype=torch.float32) for n, p in params.items()}
        order = torch.randperm(task.rows, generator=dice(self.seed, task.index, "scores"))[: self.rows]
        count = -(-len(order) // self.batch)
        with evaluating(model):
            drops = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0]
            for m in drops:  # they make two views of one row, where nothing else does
                m.train()
            for k in ranks.share_of(torch.arange(count)).tolist():
                chosen = order[k * self.batch : (k + 1) * self.batch]
                batch = task.train.take(chosen).to(task.device)
                seen = task.augment(self.shape_batch(batch), "score", k)
                if k == 0 and self._contrasts and not drops and seen.raw is None:
                    logger.warning(
                        "MIST compares two views of each row, but the stage has no augmentation and the model no dropout, so "
                        "both are equal: set augment"
                    )
                grads = gradients(task.objective(seen), list(params.values()))
                for score, g in zip(total.values(), grads, strict=True):
                    if g is not None:
                        score.add_(g.float().square())
        ranks.total(list(total.values()))
        return {n: whole(score / count) for n, score in total.items()}  # a ranking sees all of a tensor
