"""OSFT: full fine-tuning outside the directions that a weight matrix uses most."""

from __future__ import annotations

import logging
import math
import weakref
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import nn

from ..adapters import decomposed, merge_osf, put_in_osf, read_past, rescalable, targets_in
from ..adapters.layers import is_one_of, words_of
from ..adapters.osf import LOW, factor
from ..adapters.sparse import treated_whole
from ..core.errors import BadSetting, BadUse, NonFinite
from ..core.in_use import BASE, adapted
from ..core.method import Method, leaves
from ..core.model import head_prefixes
from ..core.paper import Fidelity, Paper
from ..core.rule import Site
from ..core.shards import is_sharded
from ..core.state import Tensors, scratch, setting, state
from ..core.stream import Task
from ..importance import turned_least
from ..rules.moves import wide
from ..rules.project import project_moves, project_out

logger = logging.getLogger(__name__)


@dataclass
class OSFT(Method):
    """Keep the largest singular directions of each weight matrix, and train in what is orthogonal to them.

    Before each task a linear layer's weight is decomposed anew, W = U_h S_h V_h + U_l S_l V_l, with k singular values in the
    first part. U_l, S_l and V_l train, in PEFT's OSF layer beside W (`form = "factors"`). Gradients of U_l and V_l, and after
    each step their moves, lose what they have in the protected directions: D <- D - U_h U_h' D and D <- D - D V_h' V_h. When
    the stage ends W becomes what was used, and the layers are plain again. With `form = "weights"` W itself trains, by
    D <- (I - U_h U_h') D (I - V_h' V_h): as much is protected, without PEFT and without memory for factors. Either way
    U_h' W' = U_h' W and W' V_h' = W V_h': the layer answers inputs in span V_h, and into span U_h, as before; but for their
    rounding, where weights are of 16 bits. A layer whose weight the model reads past it, as torch's own fused paths do, trains
    as with `form = "weights"`, which is said.

    Where it is composed, it stands behind all parts that reshape moves (SAGE, AdaRem, CLASSP, Multiplicative, NaP, KeepNorm,
    Quantise, ECO): what these do after it is not kept out. Rest has the last word, so where MIST, SaRA, SoTU, Drop or Rest let
    a part of a weight's entries rest, that weight keeps no promise, which is said: give them a stage of their own. So also
    heads that read features (SimpleCIL, RanPAC, SLDA, LDC): in a stage behind this one they read what it has left.

    Of m = min(out, in) singular values k = floor(r m) are protected, with r = `rank`, or (t - 1) / n on the t-th task where n
    tasks are to share the weights (`budget`; from task n on it stays). With `by = "importance"`, r is least + I (r - least) in
    [0, 1], where I is the mean cosine between what goes into a layer and what comes out of it over the task's rows, divided by
    its mean over the layers: `rank` is the paper's target ratio (trr, 0.8 there) and `least` its minimum (mrr), of which no
    more than r counts. Negative cosines count as 0, padding (`attention_mask`) not at all. A layer whose output is not as wide
    as its input has no cosine and takes I = 1. At k = 0 a weight trains freely, at k = m it rests.

    Differences from the published code: there only *gradients* are projected, and what Adam makes of them moves in protected
    directions all the same (so does decay, where W itself trains); `where = "grads"` is that form, for contrast. There the
    rest of the body trains, too (`others = "train"`), while PEFT freezes it, as here. There the factors stand in the place of
    W, and k is never m. The published settings are AdamW, rates of 1e-6 to 1e-5, one epoch.

    Paper: Sculpting Subspaces: Constrained Full Fine-Tuning in LLMs for Continual Learning (arXiv 2504.07097).

    Raises:
        BadSetting: no linear layer that trains is found, or none for a name in `target`, each rank holds a part of one, or
            `least` is above `rank`.
        BadUse: beside the factors stands a part that would not be heard, or another part has taken the layers.
        NonFinite: a weight is not finite.

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
    tasks: int = state(int)  # stages that ended
    # of layers with something to protect, while a stage runs; those that have U_low train by factors
    splits: dict[str, Tensors] = state(dict)
    frozen: list[str] = state(list)  # parameters that are frozen for it
    bases: tuple[Tensors, Tensors] | None = scratch()  # U_h and V_h' by the names of what trains
    room: Tensors = scratch(dict)  # memory for moves
    stepping: Any = scratch()  # a weak reference to the optimizer
    warned: bool = scratch(bool)  # of rest

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls()
        yield cls(form="weights", by="importance", rank=0.8, batch=16)
        yield cls(budget=3, others="train")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by == "importance" and self.budget is None and self.least > self.rank:
            raise BadSetting(
                f"OSFT protects least = {self.least} of a layer at importance 0, and rank = {self.rank} at importance 1, so "
                "that important layers would protect less: set least to at most rank"
            )

    def overrides(self, hook: str) -> bool:
        return super().overrides(hook) and not (self.where == "grads" and hook in {"shape_weights", "needs_old"})

    def prepare(self, model: nn.Module) -> None:
        if factored := [name for name in self.splits if self._factored(name)]:
            there = {name for name, _ in model.named_modules()}  # others may add some later
            put_in_osf(model, {name: self.splits[name] for name in factored if name in there})
        self._require(model, False)

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self._end(model)  # of a stage that failed
        layers = self._layers(model)
        weights = {name: model.get_parameter(f"{name}.weight") for name in layers}
        if broken := [name for name, weight in weights.items() if not bool(weight.isfinite().all())]:
            raise NonFinite(
                f"{broken[0]}.weight, which OSFT is to decompose, has entries that are NaN or infinite: go back to a "
                "checkpoint from before, and lower the learning rate or clip gradients"
            )
        kept = {n: math.floor(r * min(weights[n].shape) + 1e-9) for n, r in self._ratios(model, task, layers).items()}
        self.splits = {n: decomposed(weights[n], k) for n, k in kept.items() if 0 < k < min(weights[n].shape)}
        past = read_past(model, [*self.splits], task) if self.form == "factors" else [*self.splits]
        for name in past:
            self.splits[name] = {leaf: self.splits[name][leaf] for leaf in ("U_high", "V_high")}
        if past and self.form == "factors" and not self.tasks:
            logger.warning(
                'OSFT trains %d weights as with form = "weights", such as that of %s: the model reads it past its layer',
                len(past),
                past[0],
            )
        own = {f"{n}.weight" for n in layers}
        free = {f"{n}.weight" for n, k in kept.items() if not k or n in past}
        heads = tuple(f"{prefix}." for prefix in head_prefixes(model))
        self.frozen = [
            n
            for n, p in model.named_parameters()
            if p.requires_grad and n not in free and not n.startswith(heads) and (n in own or self.others == "frozen")
        ]

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        left, right = self._bases()
        for n, grad in grads.items():
            if n in left and n in right:  # PEFT's hooks have seen to those of factors
                slope = grad.to(wide(grad))
                project_out(slope, left.get(n), right.get(n))
                grad.copy_(slope)
        return grads

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        project_moves(new, old, *self._bases(), self.room, site)
        return new

    def needs_old(self, name: str) -> bool:
        left, right = self._bases()
        return name in left or name in right

    def still(self, site: Site) -> Tensors:
        if found := treated_whole(site, self, [f"{name}.weight" for name in self.splits if self._factored(name)]):
            raise BadUse(
                f"{found[0]} treats {found[1]} as a whole, of which OSFT trains factors, so that it would not be heard: give "
                'it a stage of its own, or set form = "weights" if it lets no entries rest'
            )
        left, right = self._bases()
        lost = sorted((left.keys() | right.keys()) - site.params.keys())
        if taken := [n for n in lost if n in left and not self._stays(site.model, n.removesuffix(".weight"))]:
            raise BadUse(
                f"OSFT is to keep moves of {taken[0]} out of protected directions, and the optimizer does not hold it: give a "
                "part that takes its layer, such as TaskAdapters, RLRR or MIST, a stage of its own, and the optimizer all that "
                "trains"
            )
        self.stepping = weakref.ref(site.optimizer)
        self._tell_of_rest(site, left.keys() | right.keys())
        return {}

    def end_stage(self, model: nn.Module, task: Task) -> None:
        self._end(model)
        self.tasks += 1

    def _end(self, model: nn.Module) -> None:
        """Make an ordinary model of it again; the optimizer forgets the factors, which the next task takes anew."""
        if (optimizer := self.stepping and self.stepping()) is not None:
            names = {factor(name, leaf) for name in self.splits for leaf in LOW}
            for name, p in model.named_parameters():
                if name in names:
                    optimizer.state.pop(p, None)
        merge_osf(model)
        self._require(model, True)
        self.splits, self.frozen, self.bases, self.room, self.stepping = {}, [], None, {}, None

    def _factored(self, layer: str) -> bool:
        """Whether a layer trains by factors."""
        return "U_low" in self.splits[layer]

    def _stays(self, model: nn.Module, layer: str) -> bool:
        """Whether a layer whose weight does not train answers by it alone, so that it stays as it is."""
        return layer in self.splits and rescalable(model.get_submodule(layer))

    def _tell_of_rest(self, site: Site, names: Collection[str]) -> None:
        """Say it once where another part lets a part of what is protected rest."""
        for part in leaves(site.rule) if not self.warned else ():
            asked = part.resting(site) if part is not self and part.overrides("resting") else {}
            if resters := sorted(n for n in names if n in asked and bool(asked[n].any()) and not bool(asked[n].all())):
                self.warned = True
                logger.warning(
                    "%s lets entries of %s rest, so that its moves enter the directions that OSFT protects: give it a stage of "
                    "its own",
                    type(part).__name__,
                    resters[0],
                )
                return

    def _require(self, model: nn.Module, required: bool) -> None:
        around = {f"{name}{BASE}.{leaf}": f"{name}.{leaf}" for name in self.splits for leaf in ("weight", "bias")}
        for name, p in model.named_parameters():
            if around.get(name, name) in self.frozen:
                p.requires_grad_(required)

    def _bases(self) -> tuple[Tensors, Tensors]:
        """U_h and V_h' by the names of what trains, where it lies."""
        if self.bases is None:
            left, right = {}, {}
            for layer, cut in self.splits.items():
                factors = self._factored(layer)
                left[factor(layer, "U_low") if factors else f"{layer}.weight"] = cut["U_high"]
                right[factor(layer, "V_low") if factors else f"{layer}.weight"] = cut["V_high"].mT
            self.bases = left, right
        return self.bases

    def _layers(self, model: nn.Module) -> list[str]:
        """The linear layers whose weights are decomposed: plain ones that train and share no weight."""
        named = dict(model.named_parameters(remove_duplicate=False))
        names = Counter(map(id, named.values()))
        inside = tuple(f"{name}." for name in adapted(model))

        def unfit(name: str) -> str:
            layer, p = model.get_submodule(name), named.get(f"{name}.weight")
            if name.startswith(inside):
                return "is a part of an adapter"
            if not rescalable(layer) or p is None:
                return f"is a {type(layer).__name__} and none of torch's own"
            return "is frozen" if not p.requires_grad else "has a weight of more than one name" * (names[id(p)] > 1)

        try:
            why = {name: unfit(name) for name in targets_in(model, self.target)}
        except BadSetting:
            why = {}
        found = [name for name, reason in why.items() if not reason]
        words = [] if self.target in ("auto", "all-linear") else words_of(self.target)
        missing = [word for word in words if not any(is_one_of(name, [word]) for name in found)]
        if missing or not found:
            word = missing[0] if missing else self.target
            reasons = [f"{n} {reason}" for n, reason in why.items() if reason and (not words or is_one_of(n, [word]))]
            raise BadSetting(
                f"OSFT decomposes linear layers below the head, and {word!r} in target = {self.target!r} names none that it "
                f"can ({reasons[0] if reasons else 'no layer has that name'}): name others, unfreeze them, or set target = "
                '"all-linear"'
            )
        if cut := [name for name in found if is_sharded(named[f"{name}.weight"])]:
            raise BadSetting(
                f"of {cut[0]} each rank holds a part, and OSFT decomposes whole weights: train without fully_shard"
            )
        return found

    def _ratios(self, model: nn.Module, task: Task, layers: list[str]) -> dict[str, float]:
        """The share of its singular values that each layer protects on this task."""
        rank = self.rank if self.budget is None else min(self.tasks, self.budget - 1) / self.budget
        if self.by == "share":
            return dict.fromkeys(layers, rank)
        importance = turned_least(model, task, layers, self.rows, self.batch)
        least = min(self.least, rank)
        return {n: min(least + i * (rank - least), 1.0) for n, i in importance.items()}
