"""RLRR: a frozen network, rescaled by vectors on both sides of each weight matrix."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import nn

from ..adapters import merge_rescaling, put_in_rescaling, read_past, rescalable, targets_in
from ..core.errors import BadSetting
from ..core.method import Method
from ..core.model import head_prefixes
from ..core.paper import Fidelity, Paper
from ..core.shards import is_sharded
from ..core.state import setting, state
from ..core.stream import Task

logger = logging.getLogger(__name__)


@dataclass
class RLRR(Method):
    """Freeze the weight matrices, and train for each the two vectors that rescale its rows and columns, and a shift.

    A linear layer answers (W + W * (l r')) x + b + f while a stage lasts; l, r and f train, and so do the head and, with
    `norms`, the scales and shifts of norm layers, which is what the published method inserts after them. All else is frozen.
    When the stage ends W and b become what was used, bit for bit, and the layers are plain again: each task of a stream
    rescales what the tasks before have left. A layer whose weight the model reads past it, as torch's own fused paths do, stays
    as it is, frozen, which is said.

    Differences from the published code: there l and r both start at draws of +-sqrt(6) and +-sqrt(6 / in), so that training
    begins with the weights off by about a tenth; here l = 0 and every answer is that of before (`start = "published"` is
    theirs). There norm layers get scale and shift beside their own. A layer without a bias, which fails there, has no shift.
    The published settings are AdamW, weight decay 5e-5, 100 epochs, 10 of them warm-up, rates of 1e-3 to 3e-3.

    Paper: Low-Rank Rescaled Vision Transformer Fine-Tuning: A Residual Design Approach (arXiv 2403.19067).

    Raises:
        BadSetting: no linear layer is found that the model calls, or each rank holds a part of one.

    >>> RLRR(target="attn").start
    'identity'
    """

    paper: ClassVar[Paper | None] = Paper(
        "Low-Rank Rescaled Vision Transformer Fine-Tuning: A Residual Design Approach (RLRR)",
        2024, "2403.19067", venue="CVPR 2024",
    )  # fmt: skip
    fidelity: ClassVar[Fidelity] = "faithful"
    tunes: ClassVar[bool] = True

    target: str = setting(
        "all-linear",
        'linear layers by the ends of their names, with commas between them; "all-linear" = all below the head',
    )
    start: Literal["identity", "published"] = setting("identity", "whether training starts at the answers of before")
    norms: bool = setting(True, "whether norm layers train, too")
    seed: int = setting(0, "seeds the first vectors")
    tasks: int = state(int)  # stages begun
    layers: list[str] = state(list)  # that are rescaled, while a stage runs
    frozen: list[str] = state(list)  # parameters that are frozen for it

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls()
        yield cls(start="published", norms=False)

    def prepare(self, model: nn.Module) -> None:
        if self.layers:
            there = [name for name, _ in model.named_modules() if name in self.layers]  # others may add some later
            put_in_rescaling(model, there, f"{self.seed} {self.tasks}", self.start == "identity")
            self._require(model, False)

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        self._end(model)  # of a stage that failed
        self.tasks += 1
        try:
            found = [name for name in targets_in(model, self.target) if rescalable(model.get_submodule(name))]
        except BadSetting:
            found = []
        if not found:
            raise BadSetting(
                f"RLRR rescales linear layers below the head, and target = {self.target!r} names none that is one of torch's "
                'own: name others, or set target = "all-linear"'
            )
        past = read_past(model, found, task)
        if past == found:
            raise BadSetting(
                f"RLRR rescales what linear layers answer, and the model calls none that target = {self.target!r} names: it "
                f"reads the weight of {past[0]} itself; name others, or let the model call them"
            )
        found = [name for name in found if name not in past]
        if past and self.tasks == 1:
            logger.warning(
                "RLRR leaves %d layers as they are, such as %s: the model reads their weights itself",
                len(past),
                past[0],
            )
        if cut := [name for name in found if is_sharded(model.get_parameter(f"{name}.weight"))]:
            raise BadSetting(
                f"of {cut[0]} each rank holds a part, and RLRR rescales whole weights: train without fully_shard"
            )
        heads = tuple(f"{prefix}." for prefix in head_prefixes(model))
        free = {
            f"{name}.{leaf}".lstrip(".")
            for name, module in model.named_modules()
            if self.norms and "norm" in type(module).__name__.lower()
            for leaf, _ in module.named_parameters(recurse=False)
        }
        own = {f"{name}.{leaf}" for name in found for leaf in ("weight", "bias")}  # these come free by themselves
        self.layers = found
        self.frozen = [
            n
            for n, p in model.named_parameters()
            if p.requires_grad and n not in free | own and not n.startswith(heads)
        ]

    def end_stage(self, model: nn.Module, task: Task) -> None:
        self._end(model)

    def _end(self, model: nn.Module) -> None:
        """Make an ordinary model of it again."""
        if self.layers:
            merge_rescaling(model)
        self._require(model, True)
        self.layers, self.frozen = [], []

    def _require(self, model: nn.Module, required: bool) -> None:
        for name, p in model.named_parameters():
            if name in self.frozen:
                p.requires_grad_(required)
