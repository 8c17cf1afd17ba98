"""L2: an anchor at the solution of the task before, without rows and without importance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..core.errors import BadSetting
from ..core.method import Method
from ..core.model import Outputs
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.rule import Site
from ..core.state import Tensors, scratch, setting, state
from ..core.stream import Task
from ..importance import named, weights_of
from ..losses import add_slopes, anchored, pull_all

ABSENT = -1e4  # a logit that is 0 after any softmax


@dataclass
class L2(Method):
    """Pull each weight toward its value after the task before, all of them alike.

    loss += strength / 2 * sum (w - a)^2, with a the weights after the latest task, taken anew after each. No rows and no
    scores are kept: one copy of what is anchored. The head is left alone unless `head`; `select` names what is anchored,
    such as `attn.*qkv` for the projections of attention. Compose with `Rest` to let nothing else move, as was published for
    pre-trained transformers.

    With `how = "pull"` (the default) the penalty acts after the step, as its exact proximal move w <- (w + r a) / (1 + r),
    r = learning rate * strength: stable at any strength, and not rescaled by an adaptive optimizer. As a `"loss"` or a
    `"gradient"` it needs r < 2 under SGD. With `local` the rows of a task compete among its own classes only, which takes
    away the push against the older ones; rows that another part replays compete among all.

    Differences from the published form: there the penalty is a term of the loss. Distillation, which is added there to some
    of the runs, is a method of its own: compose with it.

    Paper: A Closer Look at Rehearsal-Free Continual Learning (arXiv 2203.17269).

    Raises:
        BadSetting: `select` finds no weight, or `local` meets labels that are not one class id a row.

    >>> L2(strength=0.1, select="attn.*qkv").how
    'pull'
    """

    paper: ClassVar[Paper | None] = Paper("A Closer Look at Rehearsal-Free Continual Learning", 2022, "2203.17269")
    fidelity: ClassVar[Fidelity] = "faithful"
    off: ClassVar[dict[str, Any]] = {"strength": 0.0, "local": False}

    strength: float = setting(1.0, "how strong the pull is", low=0.0)
    select: str | None = setting(None, "names of the weights that are anchored, as an expression; all by default")
    head: bool = setting(False, "anchor the head, too, as far as it has been trained")
    how: Literal["loss", "gradient", "pull"] = setting(
        "pull", "as a loss term, as its gradient, or as an exact pull after each step"
    )
    first: bool = setting(False, "anchor the weights that the stream begins with during the first task")
    local: bool = setting(False, "rows of a task compete among its classes only")
    classes: list[int] = state(list)  # of the present task
    anchor: Tensors = state()  # a
    ones: Tensors = scratch(dict)  # importance 1
    room: Tensors = scratch(dict)  # memory for w - a

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls()
        yield cls(how="gradient", head=True, local=True)

    def overrides(self, hook: str) -> bool:
        return super().overrides(hook) and (hook != "shape_logits" or self.local)

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self.classes = list(task.classes)
        if self.first and not self.anchor:
            self._take(model)

    def shape_logits(self, logits: Tensor, batch: Batch) -> Tensor:
        if not self.local or not self.classes:
            return logits
        if batch.y.ndim != 1 or batch.y.is_floating_point():
            raise BadSetting(
                f"L2 with local = True needs one class id a row, not labels of shape {tuple(batch.y.shape)} ({batch.y.dtype}): "
                "set local = False"
            )
        absent = logits.new_ones(logits.shape[1], dtype=torch.bool)
        absent[self.classes] = False
        return logits.masked_fill(absent & batch.own()[:, None], ABSENT)

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        if self.how != "loss" or not self.anchor or not self.strength:
            return 0.0
        return anchored(dict(model.named_parameters()), self._importance(), self.anchor, self.strength)

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        if self.how == "gradient" and self.strength:
            add_slopes(grads, site.params, self._importance(), self.anchor, self.strength, self.room)
        return grads

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        if self.how == "pull" and self.strength:
            pull_all(new, self._importance(), self.anchor, self.strength, site.lr)
        return new

    def needs_old(self, name: str) -> bool:
        return False  # the pull starts from the new weights

    def end_stage(self, model: nn.Module, task: Task) -> None:
        if task.rows:
            self._take(model)

    def _take(self, model: nn.Module) -> None:
        """Anchor the weights as they are."""
        chosen = named(weights_of(model, head=self.head), self.select, "L2")
        self.anchor |= {
            n: p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True) for n, p in chosen.items()
        }
        self.ones = {}

    def _ones(self) -> Tensors:
        """Importance 1 of each anchor, as one number."""
        if self.ones.keys() != self.anchor.keys():
            self.ones = {n: a.new_ones(()) for n, a in self.anchor.items()}
        return self.ones

    def _importance(self) -> Tensors:
        """The same in the anchor's shape, so that rows that came later have none; without memory."""
        return {n: one.expand(self.anchor[n].shape) for n, one in self._ones().items()}
