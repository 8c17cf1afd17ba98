"""LoRA or (IA)^3 adapters, one for each task or one for all, in the modules of PEFT."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapters import adapters_in, answering_with, base_fingerprint, put_in, targets_in, train_only
from ..adapters.layers import config_of, feedforward_in
from ..core.errors import BadModel
from ..core.method import Method
from ..core.model import bare, forward, head_prefixes
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.snapshot import Lent
from ..core.state import Tensors, setting, state
from ..core.stream import Task
from ..heads import MultiHead, features_of

SHARED = "shared"
HOOKS_OF_TASKS = ("begin_stage", "shape_logits", "end_stage", "predict")
"""What nothing is to be done at where one adapter serves all tasks."""


@dataclass
class TaskAdapters(Method):
    """Move no weight of the backbone, bit for bit; train a small adapter beside it, for each task or for all, and the head.

    LoRA adds (alpha / rank) B A x to what a layer answers, with A of `rank` rows and B = 0 at the start; (IA)^3 multiplies it
    (or the input of a feed-forward layer) by a learned vector that starts at 1. The modules are PEFT's, so what is learned
    can be saved, merged and loaded as any adapter of PEFT; see `nacre.adapters`.

    With `per = "task"` each task gets an adapter that starts as the identity, and its rows of the head are kept with it. Its
    classes compete among themselves only, in training and in answers, so what a task answers, told its id, stays the same
    bit for bit whatever is learned afterwards. Where the id is hidden, `choose` says whose adapter answers for a row:
    `"nearest"` takes the task with the class mean that lies nearest in angle in the features of the backbone without any
    adapter, which never go stale; `"last"` takes the task learned last. A task id that comes back trains its adapter on.

    With `per = "all"` one adapter is trained on all tasks in turn, and forgets as fine-tuning does, in fewer weights.

    LoRA and (IA)^3 are as published, by PEFT. How tasks share them and how one is chosen is a plain scheme of this library
    in the manner of prompt pools, and no published method as a whole.

    Paper: LoRA: Low-Rank Adaptation of Large Language Models (arXiv 2106.09685); (IA)^3: arXiv 2205.05638.

    >>> TaskAdapters(rank=4, target="query,value").kind
    'lora'
    """

    paper: ClassVar[Paper | None] = Paper("LoRA: Low-Rank Adaptation of Large Language Models", 2021, "2106.09685")
    fidelity: ClassVar[Fidelity] = "inspired"
    excused: ClassVar[dict[str, str]] = {
        "seeded": "(IA)^3 starts with ones and draws nothing, so its seed decides nothing"
    }
    keeps: ClassVar[Literal["constant", "per class", "per task"]] = "per task"

    kind: Literal["lora", "ia3"] = setting("lora", "LoRA, or (IA)^3, which learns a scale of each entry")
    rank: int = setting(8, "rank of LoRA (r)", low=1)
    alpha: float = setting(16.0, "LoRA's answer is scaled by alpha / rank", low=0.0)
    target: str = setting(
        "auto", 'layers: what PEFT usually takes, "all-linear", or the ends of names with commas between them'
    )
    per: Literal["task", "all"] = setting("task", "an adapter for each task, or one for all")
    choose: Literal["nearest", "last"] = setting("nearest", "whose adapter answers where the task is hidden")
    seed: int = setting(0, "seeds the first weights of LoRA's A")
    targets: list[str] = state(list)  # the layers, once they are known
    count: int = state(int)  # adapters of tasks
    present: int = state(lambda: -1)  # the one that is trained, or was last
    told: dict[str, int] = state(dict)  # task id -> its adapter
    classes: list[list[int]] = state(list)  # of each adapter; empty = not announced
    heads: list[Tensors] = state(list)  # of each adapter: its rows of the head, once it has learned
    prototypes: Tensor | None = state(lambda: None)  # class means without adapters, (prototypes, width), float64
    owners: list[int] = state(list)  # the adapter of each prototype
    base: str = state(str)  # fingerprint of the backbone that they were taken with

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(rank=2)
        yield cls(kind="ia3", target="all-linear", choose="last")
        yield cls(rank=2, per="all")

    def overrides(self, hook: str) -> bool:
        return super().overrides(hook) and (self.per == "task" or hook not in HOOKS_OF_TASKS)

    def prepare(self, model: nn.Module) -> None:
        names = [SHARED] if self.per == "all" else list(map(_name, range(self.count)))
        if not names:
            return
        if not self.targets:
            self.targets = targets_in(model, self.target, self.kind)
        if missing := [name for name in names if name not in adapters_in(model)]:
            feedforward = feedforward_in(model, self.targets) if self.kind == "ia3" else ()
            for name in missing:
                put_in(model, name, config_of(self.kind, self.targets, self.rank, self.alpha, feedforward), self.seed)
        train_only(model, SHARED if self.per == "all" else _name(self.present))

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        if self.per == "all" or not task.rows:
            return
        known = self.told.get(str(task.task_id)) if task.task_id is not None else None
        self.present = self.count if known is None else known
        if known is None:
            self.count += 1
            self.classes.append([])
            self.heads.append({})
        if task.task_id is not None:
            self.told[str(task.task_id)] = self.present
        self.prepare(model)
        self._put_back_head(model)
        self.classes[self.present] = sorted({*self.classes[self.present], *task.classes})
        if self.choose == "nearest":
            self._take_prototypes(model, task)

    def shape_logits(self, logits: Tensor, batch: Batch) -> Tensor:
        """Rows of the present task's classes compete among these; replayed rows of others compete among all."""
        own = self.classes[self.present] if self.present >= 0 else []
        if self.per == "all" or not own or batch.y.ndim != 1 or batch.y.is_floating_point():
            return logits
        inside = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        inside[own] = True
        return logits.masked_fill(inside[batch.y][:, None] & ~inside, MultiHead.OTHER)

    def end_stage(self, model: nn.Module, task: Task) -> None:
        if self.per == "task" and task.rows:
            own = self.classes[self.present]
            self.heads[self.present] = {n: _kept(t[own] if own and grows else t) for n, t, grows in _head(model)}

    def predict(self, model: nn.Module, batch: Batch) -> Tensor:
        if self.per == "all" or not self.count or not len(batch):
            return forward(model, batch).logits
        which, scores = self._which(model, batch), None
        for k in which.unique().tolist():
            rows = (which == k).nonzero().flatten()
            found = self._scores(model, batch.pick(rows), k)
            if scores is None:
                scores = found.new_zeros(len(batch), *found.shape[1:])
            scores[rows] = found
        assert scores is not None
        return scores

    def stale(self, model: nn.Module) -> list[int]:
        return sorted({*self.owners}) if self.base and self.base != base_fingerprint(model) else []

    def _scores(self, model: nn.Module, batch: Batch, k: int) -> Tensor:
        """Scores by adapter k and its rows of the head alone; classes of other tasks do not compete.

        The product is taken with these rows only: one over more classes would have other last bits.
        """
        head, own = _head(model), self.classes[k]
        lent = {n: self._row_of(k, n, t, grows) for n, t, grows in head}
        with answering_with(model, _name(k)):
            found = forward(Lent(bare(model), lent), batch).logits
        lengths = [len(t) for _, t, grows in head if grows]
        if not lengths:  # a head of fixed width answers for all classes
            own, found = own or list(range(found.shape[-1])), found[..., own] if own else found
        scores = found.new_full((*found.shape[:-1], max(lengths, default=found.shape[-1])), MultiHead.OTHER)
        scores[..., own or slice(found.shape[-1])] = found
        return scores

    def _row_of(self, k: int, name: str, live: Tensor, grows: bool) -> Tensor:
        """A tensor of the head as adapter k reads it: what was kept, or what trains now."""
        kept = self.heads[k].get(name) if k != self.present else None
        if kept is not None:
            return kept.to(live)
        return live.detach()[self.classes[k]] if grows and self.classes[k] else live.detach()

    @torch.no_grad()
    def _put_back_head(self, model: nn.Module) -> None:
        """An adapter that is trained on finds its rows of the head as it left them."""
        kept, own = self.heads[self.present], self.classes[self.present]
        for n, t, grows in _head(model):
            if n in kept and t.is_floating_point():
                t[own if own and grows else slice(len(kept[n])) if t.ndim else ...] = kept[n].to(t)

    def _which(self, model: nn.Module, batch: Batch) -> Tensor:
        """The adapter that answers for each row, (rows,)."""
        which = torch.full((len(batch),), -1, dtype=torch.long, device=batch.y.device)
        if batch.task is not None:
            for task_id, k in self.told.items():
                which[batch.task == int(task_id)] = k
        if bool((hidden := which < 0).any()):
            which[hidden] = self._nearest(model, batch.pick(hidden.nonzero().flatten()))
        return which

    def _nearest(self, model: nn.Module, batch: Batch) -> Tensor:
        if self.choose == "last" or self.prototypes is None:
            return torch.full((len(batch),), self.present, dtype=torch.long, device=batch.y.device)
        with answering_with(model):
            z = forward(model, batch).need_features("TaskAdapters").double()
        near = F.normalize(z, dim=1) @ F.normalize(self.prototypes.to(z), dim=1).T
        return torch.tensor(self.owners, device=z.device)[near.argmax(1)]

    def _take_prototypes(self, model: nn.Module, task: Task) -> None:
        """The mean of each class of a task without adapters; of labels that are no classes, the mean of all rows."""
        with answering_with(model):
            try:
                z, y = features_of(model, task.train, "TaskAdapters", task.device)
            except BadModel as error:
                raise BadModel(f'{error}; or set choose = "last", which needs no features') from error
        y = y if y.ndim == 1 and not y.is_floating_point() else torch.zeros(len(z), dtype=torch.long, device=z.device)
        means = torch.stack([z[y == c].double().mean(0) for c in y.unique()])
        self.prototypes = means if self.prototypes is None else torch.cat([self.prototypes, means])
        self.owners += [self.present] * len(means)
        self.base = base_fingerprint(model)


def _name(k: int) -> str:
    """What PEFT calls the adapter of a task."""
    return f"task{k}"


def _head(model: nn.Module) -> list[tuple[str, Tensor, bool]]:
    """The parameters and buffers of the head by name, and whether their rows are classes."""
    model = bare(model)
    prefixes = tuple(f"{p}." for p in head_prefixes(model))
    grows = {n for n, m in model.named_modules() if callable(getattr(m, "grow", None))}
    found = (*model.named_parameters(), *model.named_buffers())
    return [(n, t, n.rpartition(".")[0] in grows) for n, t in found if n.startswith(prefixes)]


def _kept(tensor: Tensor) -> Tensor:
    """A copy, in fp32 or better."""
    copy = tensor.detach().clone()
    return copy.float() if copy.is_floating_point() and copy.itemsize < 4 else copy
