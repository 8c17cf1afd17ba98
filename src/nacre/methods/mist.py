"""MIST: sparse tuning of a pre-trained model before a closed-form head reads it.

It is over 300 lines because its two forms stand beside each other.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..adapters import layers_called, put_in_entries, take_out_entries, unfit
from ..adapters.sparse import VALUES, refuse_unheard
from ..core import ranks
from ..core.dice import dice, keep
from ..core.errors import BadSetting
from ..core.method import Method
from ..core.model import Outputs, device_of, evaluating, forward, head_prefixes, mean_loss
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch, cat
from ..core.rule import Site
from ..core.state import Tensors, grown, scratch, setting, state
from ..core.stream import Task
from ..importance import random_scores, squared_gradients, top_share
from ..losses import supervised_info_nce

logger = logging.getLogger(__name__)
FREE = "bias|norm|^head"  # and the heads of the model


@dataclass
class MIST(Method):
    """Let only the weights most sensitive to the task move, and few of those at each step.

    A stage of its own, before the stage of a host that reads the features (SimpleCIL, RanPAC). Before it begins, each
    entry is scored by the mean over batches of the squared gradient of the stage's loss; the `select` share of each tensor
    with the highest scores may move. At each step a fresh `drop` share of these rests too, and the move of an entry that
    n earlier tasks selected is multiplied by fade^n. The `protect` share of each tensor with the highest scores of a task rests
    for ever after it. Biases, norms and the head (`free`) may always move. The loss is supervised InfoNCE on two augmented
    views of each row through a projection that is a part of the method, not of the model.

    With `form = "dense"` the optimizer holds every weight, and what rests is put back after each step. With `"compact"` it
    holds the chosen entries alone, as `<weight>_values` (`nacre.adapters.put_in_entries`): its state is as small, and a step
    is cheaper. The same entries move, to the same values but for rounding. A weight that cannot be held so stays dense, which
    is said once; parts that must be shown the whole of it, such as EWC and SAGE, are refused beside the compact form.

    Differences from the published code: it masks *gradients*, so momentum and weight decay move entries that were to rest;
    here what rests is put back after the step, bit for bit, under any optimizer. `where = "grads"` is the published form, for
    contrast: it leaks. Under momentum or decay, entries that were dropped, not chosen or protected move all the same. There,
    free tensors are dropped too (`drop_free`), and batches are scored in training mode. The published settings are SGD of
    momentum 0.9, rate 1e-4 (projection 1e-2), weight decay 5e-4, 19 epochs.

    Raises:
        BadSetting: `form = "compact"` with `where = "grads"`, or nothing to choose from.
        BadUse: beside the compact form stands a part that would not be heard.

    Paper: Sparse Tuning Enhances Plasticity in PTM-based Continual Learning (arXiv 2505.19943).

    >>> MIST(select=0.05, drop=0.0, form="compact").select
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
    by: Literal["gradients", "chance"] = setting(
        "gradients", "what they are chosen by: their squared gradients, or chance, which is the control"
    )
    drop: float = setting(0.9, "share of these that rests at each step, drawn anew", low=0.0, high=1.0)
    fade: float = setting(0.9, "factor on an entry's moves for each earlier task that selected it", low=0.0, high=1.0)
    protect: float = setting(
        0.0005, "share of each tensor, its top scores, that rests for ever after a task", low=0.0, high=1.0
    )
    rescale: bool = setting(False, "divide moves by 1 - drop, so that their mean is that of no drop")
    free: str | None = setting(None, "names of what may always move, as norms may; biases, norms and heads by default")
    form: Literal["dense", "compact"] = setting(
        "dense", "whether the optimizer holds all weights or the chosen entries"
    )
    where: Literal["moves", "grads"] = setting(
        "moves", "what is masked: moves, or gradients, as published, which leaks"
    )
    vectors: Literal["free", "chosen", "rest"] = setting(
        "free", "biases and norms of the body: free, chosen from, or at rest"
    )
    drop_free: bool = setting(False, "drop moves of free tensors and of the projection too, as the published code does")
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
    inside: bool = state(bool)  # whether a stage is running, so that chosen entries are in the model
    chosen: Tensors = state()  # bool: may move on this task
    spared: Tensors = state()  # bool: rests for ever
    soon: Tensors = state()  # bool: will rest for ever after this task
    past: list[str] = state(list)  # weights that the model reads past their layers, on this task
    uses: Tensors = state()  # int16: how many earlier tasks selected the entry
    places: dict[str, Tensor] = scratch(dict)  # positions of what may move, in each flat tensor
    resters: Tensors = scratch(dict)  # what rests throughout this stage
    factors: Tensors = scratch(dict)  # what moves are multiplied by, in this stage

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(width=8, batch=16)
        yield cls(objective_of="stage", batch=16)
        yield cls(width=8, batch=16, select=0.3, form="compact")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form == "compact" and self.where == "grads":
            raise BadSetting(
                'MIST keeps what is not chosen out of the optimizer with form = "compact", and shows how it moves with '
                'where = "grads": set form = "dense", or where = "moves"'
            )

    def overrides(self, hook: str) -> bool:
        silent = {"shape_weights", "needs_old", "resting", "still"} if self.where == "grads" else {"shape_grads"}
        return super().overrides(hook) and hook not in silent | (
            set() if self._contrasts else {"objective", "shape_batch"}
        )

    @property
    def _contrasts(self) -> bool:
        return self.objective_of == "contrastive"

    def prepare(self, model: nn.Module) -> None:
        if self._contrasts and self.features and "projection" not in self.parts:
            projection = nn.Linear(self.features, self.width, device="meta").to_empty(device="cpu")
            with torch.no_grad():
                bound = self.features**-0.5
                for i, p in enumerate(projection.parameters()):
                    p.uniform_(-bound, bound, generator=dice(self.seed, "projection", i))
            self.parts["projection"] = projection.to(device_of(model))
        if self.form == "compact":
            dense = self._unfit(model) if self.inside else self.chosen
            put_in_entries(model, {n: m for n, m in self.chosen.items() if n not in dense and not bool(m.all())})

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.tasks += 1
        self.places, self.resters, self.factors, self.chosen, self.soon = {}, {}, {}, {}, {}
        take_out_entries(model)  # of a stage that failed
        self.inside = True
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
        for name, p in self._with_role(model, "rest").items():
            self.chosen[name] = torch.zeros(p.shape, dtype=torch.bool, device=p.device)
        if self.form == "compact" and not self.uses and (dense := self._unfit(model)):
            logger.warning(
                "MIST tunes %d weights in dense form, such as %s: %s", len(dense), *next(iter(dense.items()))
            )

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
            return mean_loss(out, batch)  # rows without a second view, as a partner's Fisher information asks for
        z = out.need_features("MIST")
        projected = self.parts["projection"](z if torch.is_autocast_enabled(z.device.type) else z.float())
        return supervised_info_nce(projected, batch.y, batch.extra["mist_pair"], self.temperature)

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        rests = self._at_rest(site) if self.where == "grads" else {}
        for n, grad in grads.items() if self.where == "grads" else ():
            if n in rests:
                grad.masked_fill_(grown(rests[n], grad, False), 0.0)
            if self._scales(n):
                grad.mul_(self._factor(n, grad))
        return grads

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        for n, weight in new.items():
            if n in old and self.needs_old(n):
                new[n] = torch.lerp(old[n], weight, self._factor(n, weight))
        return new

    def needs_old(self, name: str) -> bool:
        return self.where == "moves" and self._scales(name.removesuffix(VALUES))

    def resting(self, site: Site) -> Tensors:
        return {} if self.where == "grads" else self._at_rest(site)

    def _at_rest(self, site: Site) -> Tensors:
        """What is not to move at this step."""
        rests = {}
        for n, mask in self._still(site).items():
            places = self.places[n]
            if self.drop:
                mask = mask.clone()
                mask.view(-1)[places] = self._dropped(site, n, len(places), places.device)
            if self.drop or len(places) < mask.numel():
                rests[n] = mask
        for n, p in site.params.items() if self.drop else ():
            weight = n.removesuffix(VALUES)
            free = not n.startswith("parts.") or n.startswith(f"parts.{type(self).__name__}.")
            if n not in self.chosen and (weight in self.chosen or (self.drop_free and free)):
                rests[n] = self._dropped(site, weight, p.numel(), p.device).view(p.shape)
        return rests

    def still(self, site: Site) -> Tensors:
        refuse_unheard(site, self)
        return {} if self.where == "grads" else self._still(site)

    def _still(self, site: Site) -> Tensors:
        """What rests throughout the stage, of weights that the optimizer holds."""
        for n in self.chosen.keys() & site.params.keys() - self.resters.keys():
            self.resters[n] = ~self.chosen[n]
            self.places[n] = self.chosen[n].flatten().nonzero().flatten()
        return {n: self.resters[n] for n in self.chosen if n in site.params}

    def _dropped(self, site: Site, name: str, count: int, device: torch.device) -> Tensor:
        """Which of `count` entries rest at this step because they are dropped."""
        return ~keep(1 - self.drop, count, device, self.seed, self.tasks, site.step, name)

    def _factor(self, name: str, like: Tensor) -> Tensor:
        """What moves of a tensor, or of its chosen values, are multiplied by; the same throughout a stage."""
        if name not in self.factors:
            n = name.removesuffix(VALUES)
            factor = torch.full_like(like, 1 / (1 - self.drop) if self.rescale and self.drop < 1 else 1.0)
            if n in self.uses:
                uses = grown(self.uses[n], like if n == name else self.chosen[n])
                factor *= self.fade ** (uses if n == name else uses[self.chosen[n]]).to(factor.dtype)
            self.factors[name] = factor
        return self.factors[name]

    def _scales(self, name: str) -> bool:
        return name in self.chosen and ((self.fade < 1 and name in self.uses) or (self.rescale and self.drop > 0))

    def end_stage(self, model: nn.Module, task: Task) -> None:
        for n, chosen in self.chosen.items():
            before = grown(self.uses[n], chosen) if n in self.uses else torch.zeros_like(chosen, dtype=torch.int16)
            self.uses[n] = before + chosen
        self.spared.update(self.soon)
        self.inside = False
        take_out_entries(model)

    def _scores(self, model: nn.Module, task: Task) -> Tensors:
        """Mean over batches of the squared gradient of the stage's own loss, for what is not free."""
        params = self._with_role(model, "chosen")
        if not params:
            why = f"every trainable tensor is a norm or matches free = {self.free!r}"
            raise BadSetting(f"MIST has nothing to choose from: {why}; free fewer tensors, or unfreeze the backbone")
        rows = self.batch if self.by == "chance" else self.rows  # of which no more is asked than who calls which layers
        order = torch.randperm(task.rows, generator=dice(self.seed, task.index, "scores"))[:rows]
        with evaluating(model):
            drops = [m for m in model.modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p > 0]
            for m in drops:  # they make two views of one row, where nothing else does
                m.train()

            def loss(k: int, rows: Tensor) -> Tensor:
                assert task.train is not None and task.augment is not None and task.objective is not None
                seen = task.augment(self.shape_batch(task.train.take(rows).to(task.device)), "score", k)
                if k == 0 and self._contrasts and not drops and seen.raw is None:
                    logger.warning(
                        "MIST compares two views of each row, but the stage has no augmentation and the model no dropout, so "
                        "both are equal: set augment"
                    )
                return task.objective(seen)

            with layers_called(model) as names:
                scores = squared_gradients(loss, params, order, self.batch)
        called = set().union(*ranks.gathered(sorted(names)))  # a rank without a batch to score has called none
        self.past = [n for n, score in scores.items() if n.rpartition(".")[0] not in called and bool(score.any())]
        if self.by == "chance":
            return random_scores(scores, self.seed, "choice", self.tasks)
        return scores

    def _unfit(self, model: nn.Module) -> dict[str, str]:
        """Of the weights that are chosen from, those that cannot be held in compact form, with the reason."""
        past = dict.fromkeys(self.past, "the model reads it past its own layer")
        return unfit(model, self.chosen) | {n: why for n, why in past.items() if n in self.chosen}

    def _with_role(self, model: nn.Module, role: str) -> dict[str, nn.Parameter]:
        """The weights that train and are free, chosen from, or rest."""
        norms = {n for n, m in model.named_modules() if "norm" in type(m).__name__.lower()}
        heads = tuple(f"{p}." for p in head_prefixes(model))

        def role_of(name: str) -> str:
            norm = name.rpartition(".")[0] in norms
            if self.vectors != "free" and (norm or name.endswith("bias")) and not name.startswith(heads):
                return self.vectors
            free = norm or (self.free is None and name.startswith(heads))
            return "free" if free or re.search(FREE if self.free is None else self.free, name) else "chosen"

        return {n: p for n, p in model.named_parameters() if p.requires_grad and role_of(n) == role}
