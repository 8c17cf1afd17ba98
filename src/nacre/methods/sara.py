"""SaRA: the smallest weights learn, and are held to a low rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..adapters import entries_in, put_in_entries, take_out_entries, unfit
from ..adapters.sparse import VALUES, refuse_unheard
from ..core.dice import mix
from ..core.method import Method
from ..core.model import Outputs, head_prefixes
from ..core.paper import Fidelity, Paper
from ..core.rows import Batch
from ..core.rule import Site
from ..core.state import Tensors, scratch, setting, state
from ..core.stream import Task
from ..importance import top_share
from ..losses import nuclear_norm

WHOLE = 1 - 1e-6  # from here on a sum of parts is a whole step


@dataclass
class SaRA(Method):
    """Let only the smallest weights move: those below a threshold, of which the pre-trained answers hardly depend.

    When a stage begins, entries with |w| < `threshold` (or the `share` of each tensor that is smallest) may move; all others
    below the head rest bit for bit. So entries that one task has made large rest in the next. After `narrow` steps of the
    stage only those go on that are still below the threshold. The head always trains.

    loss += nuclear * |W * M|_nuclear for one weight matrix of both dimensions above `least`, drawn anew at each step, with M
    its entries that may move: their part of the matrix is held to a low rank. Its gradient is U V' of the singular vectors,
    at those entries.

    With `form = "compact"` the optimizer holds the chosen entries alone (`nacre.adapters.put_in_entries`), as the published
    code does; a weight that cannot be held so stays dense. The same entries move, to the same values but for rounding.

    Differences from the published code: there the first step sees |w| in the place of w, so that small negative weights change
    their sign, and in its compact form the gradient of the low-rank term reaches tensors that no optimizer holds. Here neither
    happens: before a step no bit has changed, and the term trains. The optimizer does not begin anew where the choice narrows.
    The published settings are AdamW, rate 1e-3 * exp(-350 * threshold), weight decay 1e-2, threshold 2e-3, narrowed halfway.

    Paper: SaRA: High-Efficient Diffusion Model Fine-tuning with Progressive Sparse Low-Rank Adaptation (arXiv 2409.06633).

    Raises:
        BadUse: beside the compact form stands a part that would not be heard.

    >>> SaRA(share=0.1, narrow=500).nuclear
    0.0005
    """

    paper: ClassVar[Paper | None] = Paper(
        "SaRA: High-Efficient Diffusion Model Fine-tuning with Progressive Sparse Low-Rank Adaptation",
        2024, "2409.06633", venue="ICLR 2025",
    )  # fmt: skip
    fidelity: ClassVar[Fidelity] = "faithful"
    off: ClassVar[dict[str, Any]] = {"share": 1.0, "narrow": 0, "nuclear": 0.0}

    threshold: float = setting(2e-3, "entries of smaller absolute value may move", low=0.0)
    share: float | None = setting(
        None,
        "in the place of the threshold: the share of each tensor, its smallest entries, that may move",
        low=0.0,
        high=1.0,
    )
    narrow: int = setting(0, "steps of a stage after which entries that have grown too large rest; 0 = never", low=0)
    nuclear: float = setting(5e-4, "strength of the low-rank term (lambda)", low=0.0)
    least: int = setting(64, "matrices with a smaller dimension, or this one, have no low-rank term", low=0)
    vectors: Literal["chosen", "free"] = setting(
        "chosen", "whether biases and norms are chosen from like matrices, or may always move"
    )
    form: Literal["dense", "compact"] = setting(
        "dense", "whether the optimizer holds all weights or the chosen entries"
    )
    seed: int = setting(0, "seeds which matrix the low-rank term is of")
    steps: int = state(int)  # of all stages
    inside: bool = state(bool)  # whether a stage is running, so that chosen entries are in the model
    chosen: Tensors = state()  # bool: may move in this stage
    limits: Tensors = state()  # what is still small, by tensor
    grown_out: Tensors = state()  # bool: rests since the choice narrowed
    resters: Tensors = scratch(dict)  # what rests throughout the stage
    narrowed: Tensors = scratch(dict)  # and what does since the choice narrowed

    @classmethod
    def examples(cls) -> Iterator[Method]:
        yield cls(share=0.3, least=4, narrow=3, vectors="free")
        yield cls(threshold=0.1, least=4, vectors="free")

    def overrides(self, hook: str) -> bool:
        return super().overrides(hook) and (hook != "loss" or self.nuclear > 0)

    def prepare(self, model: nn.Module) -> None:
        if self.form == "compact":
            dense = unfit(model, self.chosen) if self.inside else self.chosen
            put_in_entries(model, {n: m for n, m in self.chosen.items() if n not in dense and not bool(m.all())})

    def begin_stage(self, model: nn.Module, task: Task) -> None:
        take_out_entries(model)  # of a stage that failed
        self._forget()
        self.inside = True
        heads = tuple(f"{prefix}." for prefix in head_prefixes(model))
        for name, p in model.named_parameters():
            if p.requires_grad and not name.startswith(heads) and (p.ndim > 1 or self.vectors == "chosen"):
                size = p.detach().abs()
                if self.share is None:
                    self.chosen[name], self.limits[name] = size < self.threshold, torch.tensor(self.threshold)
                else:
                    self.chosen[name] = top_share(-size, self.share, least=0)
                    most = size[self.chosen[name]]
                    self.limits[name] = most.max().cpu() if len(most) else torch.zeros(())

    def loss(self, model: nn.Module, batch: Batch, out: Outputs) -> Tensor | float:
        compact = entries_in(model) if self.form == "compact" else {}
        params = dict(model.named_parameters())
        able = [
            n for n, m in self.chosen.items()
            if m.ndim == 2 and min(m.shape) > self.least and (n in compact or params[n].requires_grad)
        ]  # fmt: skip
        if not able:
            return 0.0
        name = able[mix(self.seed, self.steps, "matrix") % len(able)]
        mask = self.chosen[name].to(params[name].device)
        if name in compact:
            part = torch.zeros(mask.shape, dtype=compact[name].dtype, device=mask.device)
            part = part.masked_scatter(mask, compact[name])
        else:
            part = params[name] * mask
        return self.nuclear * nuclear_norm(part)

    def resting(self, site: Site) -> Tensors:
        rests = self.still(site)
        if not self.grown_out:
            return rests
        if not self.narrowed:
            self.narrowed = {n: rests[n] | m if n in rests else m for n, m in self.grown_out.items()}
        return {**rests, **self.narrowed}

    def still(self, site: Site) -> Tensors:
        if not self.resters:
            if self.form == "compact":
                refuse_unheard(site, self)
            held = site.params
            self.resters = {
                n: (~m).to(held[n].device) for n, m in self.chosen.items() if n in held and not bool(m.all())
            }
        return self.resters

    def after_step(self, batch: Batch, out: Outputs, site: Site) -> None:
        if batch.before + batch.share < WHOLE:
            return
        self.steps += 1
        if self.narrow and site.step == self.narrow:
            for name, limit in self.limits.items():
                here = name + VALUES if name + VALUES in site.params else name
                if here in site.params:
                    size, most = site.params[here].detach().abs(), limit.to(site.params[here])
                    self.grown_out[here] = size >= most if self.share is None else size > most

    def end_stage(self, model: nn.Module, task: Task) -> None:
        take_out_entries(model)
        self.inside = False
        self._forget()

    def _forget(self) -> None:
        self.chosen, self.limits, self.grown_out, self.resters, self.narrowed = {}, {}, {}, {}, {}
