"""OSFT: full fine-tuning outside the directions that a weight matrix uses most."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapters import decomposed, merge_osf, put_in_osf, rescalable, targets_in
from ..adapters.layers import BASE
from ..adapters.osf import factor
from ..adapters.sparse import treated_whole
from ..core import ranks
from ..core.errors import BadSetting, BadUse
from ..core.method import Method
from ..core.model import evaluating, forward, head_prefixes
from ..core.paper import Fidelity, Paper
from ..core.rows import batches
from ..core.rule import Site
from ..core.shards import is_sharded
from ..core.state import Tensors, scratch, setting, state
from ..core.stream import Task
from ..rules.moves import wide
from ..rules.project import project_moves, project_out


@dataclass
class OSFT(Method):
    """Keep the largest singular directions of each weight matrix, and train in what is orthogonal to them.

    Before each task a linear layer's weight is decomposed anew, W = U_h S_h V_h + U_l S_l V_l, with k singular values in the
    first part. U_l, S_l and V_l train, in PEFT's OSF layer beside W (`form = "factors"`). Gradients of U_l and V_l, and after
    each step their moves, lose what they have in the protected directions: D <- D - U_h U_h' D and D <- D - D V_h' V_h. When
    the stage ends W becomes what was used, and the layers are plain again. With `form = "weights"` W itself trains, by
    D <- (I - U_h U_h') D (I - V_h' V_h): as much is protected, without PEFT and without memory for factors. Either way
    U_h' W' = U_h' W and W' V_h' = W V_h': the layer answers inputs in span V_h, and into span U_h, as before; but for their
    rounding, where weights are of 16 bits.

    Of m = min(out, in) singular values k = floor(r m) are protected, with r = `rank`, or (t - 1) / n on the t-th task where n
    tasks are to share the weights (`budget`; from task n on it stays). With `by = "importance"`, r is least + I (r - least) in
    [0, 1], where I is the mean cosine between what goes into a layer and what comes out of it over the task's rows, divided by
    its mean over the layers: `rank` is the paper's target ratio (trr, 0.8 there) and `least` its minimum (mrr). Negative
    cosines count as 0. A layer whose output is not as wide as its input has no cosine and takes I = 1. At k = 0 a weight
    trains freely, at k = m it rests.

    Differences from the published code: there only *gradients* are projected, and what Adam makes of them moves in protected
    directions all the same (so does decay, where W itself trains); `where = "grads"` is that form, for contrast. There the
    rest of the body trains, too (`others = "train"`), while PEFT freezes it, as here. There the factors stand in the place of
    W, and k is never m. The published settings are AdamW, rates of 1e-6 to 1e-5, one epoch.

    Paper: Sculpting Subspaces: Constrained Full Fine-Tuning in LLMs for Continual Learning (arXiv 2504.07097).

    Raises:
        BadSetting: no linear layer that trains is found, or each rank holds a part of one.
        BadUse: beside the factors stands a part that would not be heard.

    >>> OSFT(rank=0.8, by="importance", form="weights").least
    0.1
    """

    paper: ClassVar[Paper | None] = Paper(
        "Sculpting Subspaces: Constrained Full Fine-Tuning in LLMs for Continual Learning (OSFT)", 2025, "2504.07097"
    )
    fidelity: ClassVar[Fidelity] = "faithful"
    tunes: ClassVar[bool] = True
    off: ClassVar[dict[str, Any]] = {"rank": 0.0, "by": "share", "budget": None, "others": "train"}

    target: str = setting(
        "all-linear",
        'linear layers by the ends of their names, with commas between them; "all-linear" = all below the head',
    )
    rank: float = setting(0.5, "share of a layer's singular values that is protected (r)", low=0.0, high=1.0)
    by: Literal["share", "importance"] = setting(
        "share", "whether every layer protects that share, or important ones more"
    )
    least: float = setting(0.1, "share that is protected at importance 0, where layers differ (mrr)", low=0.0, high=1.0)
    budget: int | None = setting(
        None, "tasks that share the weights: the t-th protects (t - 1) / budget in the place of rank", low=1
    )
    form: Literal["factors", "weights"] = setting(
        "factors", "whether factors train, by PEFT, or the weights themselves"
    )
    where: Literal["moves", "grads"] = setting(
        "moves", "what is projected: moves, or gradients only, as published, which leaks"
    )
    others: Literal["frozen", "train"] = setting("frozen", "the body's other tensors, such as biases and norms")
    rows: int | None = setting(None, "rows that importance is taken of; all of the task by default", low=1)
    batch: int = setting(64, "rows in a batch for importance", low=1)
    tasks: int = state(int)  # stages begun
    splits: dict[str, Tensors] = state(dict)  # of each layer with something to protect, while a stage runs
    frozen: list[str] = state(list)  # parameters that are frozen for it
    bases: tuple[Tensors, Tensors] | None = scratch()  # U_h and V_h' by the names of what trains
    room: Tensors = scratch(dict)  # memory for moves

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls()
        yield cls(form="weights", by="importance", rank=0.8, batch=16)
        yield cls(budget=3, others="train")

    def overrides(self, hook: str) -> bool:
        grads, moves = {"shape_grads"}, {"shape_weights", "needs_old"}
        silent = {*(() if self.form == "weights" else grads), *(moves if self.where == "grads" else ())}
        return super().overrides(hook) and hook not in silent

    def prepare(self, model: nn.Module) -> None:
        if self.form == "factors" and self.splits:
            there = {name for name, _ in model.named_modules()}  # others may add some later
            put_in_osf(model, {name: cut for name, cut in self.splits.items() if name in there})
        self._require(model, False)

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self._end(model)  # of a stage that failed
        self.tasks += 1
        layers = self._layers(model)
        weights = {name: model.get_parameter(f"{name}.weight") for name in layers}
        kept = {n: math.floor(r * min(weights[n].shape) + 1e-9) for n, r in self._ratios(model, task, layers).items()}
        self.splits = {n: decomposed(weights[n], k) for n, k in kept.items() if 0 < k < min(weights[n].shape)}
        if self.form == "weights":
            self.splits = {n: {leaf: cut[leaf] for leaf in ("U_high", "V_high")} for n, cut in self.splits.items()}
        own = {f"{n}.weight" for n in layers}
        free = {f"{n}.weight" for n, k in kept.items() if not k or (self.form == "weights" and n in self.splits)}
        heads = tuple(f"{prefix}." for prefix in head_prefixes(model))
        self.frozen = [
            n
            for n, p in model.named_parameters()
            if p.requires_grad and n not in free and not n.startswith(heads) and (n in own or self.others == "frozen")
        ]

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        left, right = self._bases(site)
        for n, grad in grads.items():
            if n in left or n in right:
                slope = grad.to(wide(grad))
                project_out(slope, left.get(n), right.get(n))
                grad.copy_(slope)
        return grads

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        project_moves(new, old, *self._bases(site), self.room)
        return new

    def needs_old(self, name: str) -> bool:
        layer = name.removesuffix(".weight") if self.form == "weights" else name.rpartition(".osf_svd_params.")[0]
        return layer in self.splits and not name.endswith("S_low")

    def still(self, site: Site) -> Tensors:
        names = [f"{name}.weight" for name in self.splits] if self.form == "factors" else []
        if found := treated_whole(site, self, names):
            raise BadUse(
                f"{found[0]} treats {found[1]} as a whole, of which OSFT trains factors, so that it would not be heard: set "
                'form = "weights"'
            )
        return {}

    def end_stage(self, model: nn.Module, task: Task) -> None:
        self._end(model)

    def _end(self, model: nn.Module) -> None:
        """Make an ordinary model of it again."""
        merge_osf(model)
        self._require(model, True)
        self.splits, self.frozen, self.bases, self.room = {}, [], None, {}

    def _require(self, model: nn.Module, required: bool) -> None:
        for name, p in model.named_parameters():
            if name.replace(BASE, "") in self.frozen:
                p.requires_grad_(required)

    def _bases(self, site: Site) -> tuple[Tensors, Tensors]:
        """U_h and V_h' by the names of what trains, where it lies."""
        if self.bases is None:
            left, right = {}, {}
            for layer, cut in self.splits.items():
                factors = self.form == "factors"
                left[factor(layer, "U_low") if factors else f"{layer}.weight"] = cut["U_high"]
                right[factor(layer, "V_low") if factors else f"{layer}.weight"] = cut["V_high"].mT
            self.bases = left, right
        return self.bases

    def _layers(self, model: nn.Module) -> list[str]:
        """The linear layers whose weights are decomposed: plain ones that train and share no weight."""
        named = dict(model.named_parameters(remove_duplicate=False))
        shared = {id(p) for p in named.values() if sum(other is p for other in named.values()) > 1}
        try:
            found = [
                name
                for name in targets_in(model, self.target)
                if rescalable(model.get_submodule(name))
                and (p := named.get(f"{name}.weight")) is not None
                and p.requires_grad
                and id(p) not in shared
            ]
        except BadSetting:
            found = []
        if not found:
            raise BadSetting(
                f"OSFT decomposes linear layers below the head, and target = {self.target!r} names none that is one of torch's "
                'own and trains: name others, unfreeze them, or set target = "all-linear"'
            )
        if cut := [name for name in found if is_sharded(named[f"{name}.weight"])]:
            raise BadSetting(
                f"of {cut[0]} each rank holds a part, and OSFT decomposes whole weights: train without fully_shard"
            )
        return found

    def _ratios(self, model: nn.Module, task: Task, layers: list[str]) -> dict[str, float]:
        """The share of its singular values that each layer protects on this task."""
        rank = self.rank if self.budget is None else min(self.tasks - 1, self.budget - 1) / self.budget
        if self.by == "share":
            return dict.fromkeys(layers, rank)
        importance = self._importance(model, task, layers)
        return {n: min(max(self.least + i * (rank - self.least), 0.0), 1.0) for n, i in importance.items()}

    @torch.no_grad()
    def _importance(self, model: nn.Module, task: Task, layers: list[str]) -> dict[str, float]:
        """I: the mean cosine between input and output of each layer, with a mean of 1 over those that have one."""
        sums = torch.zeros(len(layers), 2, dtype=torch.float64, device=task.device)  # of cosines, and how many

        def hear(i: int) -> Callable[..., None]:
            def hook(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
                if args and args[0].shape == out.shape:
                    cosines = F.cosine_similarity(args[0].double(), out.double(), dim=-1)
                    sums[i] += torch.stack([cosines.sum(), cosines.new_tensor(cosines.numel())])

            return hook

        order = torch.arange(0, task.rows, max(task.rows // (self.rows or task.rows or 1), 1))[: self.rows]
        starts = ranks.share_of(torch.arange(0, len(order), self.batch)).tolist()
        handles = [model.get_submodule(name).register_forward_hook(hear(i)) for i, name in enumerate(layers)]
        try:
            with evaluating(model):
                for low in starts:
                    for batch in batches(task.train, self.batch, order[low : low + self.batch], device=task.device):
                        forward(model, batch)
        finally:
            for handle in handles:
                handle.remove()
        ranks.total([sums])
        means = {n: max(s / c, 0.0) for n, (s, c) in zip(layers, sums.tolist(), strict=True) if c}
        mean = sum(means.values()) / max(len(means), 1)
        return {n: means[n] / mean if n in means and mean > 0 else 1.0 for n in layers}
