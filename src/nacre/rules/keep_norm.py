"""Keep norms: weight matrices stay as long as they were when they began to be trained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from ..core.model import head_prefixes
from ..core.rule import Rule, Site
from ..core.shards import is_sharded, local, norm
from ..core.state import Tensors, scratch, setting, state


@dataclass
class KeepNorm(Rule):
    """Scale each weight matrix back, after the step, to the Euclidean norm that it had before its first step.

    w <- w * rho / |w|, |w| over the whole tensor and rho its norm at the start. Matrices are tensors of two and more
    dimensions that are called a weight. Heads (of a model that names none, the last matrix), biases and the weights of norm
    layers stay as the optimizer makes them; with `scales = "joint"` the weight and the bias of each norm layer are scaled as
    one vector. A tensor that is 0 at the start (LoRA's B) stays free. Rows that a tensor gains later add their own squared
    norm to rho^2.

    Weight decay on what is scaled back changes nothing but the length of its steps.

    >>> KeepNorm(every=100).every
    100
    """

    off: ClassVar[dict[str, Any]] = {"every": 0}

    every: int = setting(1, "steps of a stage between two scalings; 0 = never", low=0)
    scales: Literal["free", "joint"] = setting(
        "free", "learned scales and offsets of norm layers: left to the optimizer, or scaled back together"
    )
    leave: str = setting("", "tensors whose names this expression finds stay free; empty = none beside those above")
    sizes: Tensors = state()  # rho, (), by the name of the first tensor of a group
    rows: dict[str, int] = state(dict)  # how many rows a tensor had when rho was last taken
    groups: tuple[Any, list[list[str]]] | None = scratch()  # names of what is scaled together
    place: Tensor | None = scratch()  # (tensors,), the group of each

    @classmethod
    def examples(cls) -> Iterator[Rule]:
        yield cls()
        yield cls(every=3, scales="joint")

    def shape_grads(self, grads: Tensors, site: Site) -> Tensors:
        if self.every:
            for names in self._groups(site):
                self._take(names, site)
        return grads

    def shape_weights(self, new: Tensors, old: Tensors, site: Site) -> Tensors:
        if self.every and (site.step + 1) % self.every == 0:
            groups = self._groups(site)
            names = [n for group in groups for n in group]
            if names:
                self._scale([new[n] for n in names], groups)
        return new

    def needs_old(self, name: str) -> bool:
        return False  # the norms were taken before the first step

    def wants_whole(self, name: str) -> bool:
        return self.every > 0 and not (self.leave and re.search(self.leave, name))

    def _scale(self, weights: list[Tensor], groups: list[list[str]]) -> None:
        far = _norms(weights)
        if self.place is None or len(self.place) != len(far) or self.place.device != far.device:
            self.place = torch.tensor([k for k, group in enumerate(groups) for _ in group], device=far.device)
        place = self.place
        size = torch.stack([self.sizes[group[0]] for group in groups]).to(far)
        total = torch.zeros_like(size).index_add_(0, place, far.square()).sqrt_()
        known = (total > 0) & (size > 0) & total.isfinite()
        factors = torch.where(known, size / total, 1.0)[place].unbind()
        torch._foreach_mul_([local(w) for w in weights], factors)

    def _take(self, names: list[str], site: Site) -> None:
        """Note the norm of tensors that are met for the first time, and of rows that are."""
        fresh: list[Tensor] = []
        for n in names:
            p, known = site.params[n].detach(), self.rows.get(n, 0)
            if known < len(p):
                fresh.append(p[known:] if known else p)
                self.rows[n] = len(p)
        if fresh:
            squares = _norms(fresh).square().sum()
            before = self.sizes.get(names[0])
            self.sizes[names[0]] = (squares if before is None else squares + before.to(squares).square()).sqrt()

    def _groups(self, site: Site) -> list[list[str]]:
        if self.groups is None or self.groups[0] is not site.params:
            self.groups, self.place = (site.params, list(self._chosen(site))), None
        return self.groups[1]

    def _chosen(self, site: Site) -> Iterator[list[str]]:
        heads = _heads(site.model)
        for name, p in site.params.items():
            path, _, last = name.rpartition(".")
            left = name.startswith(("parts.", *heads)) or (self.leave and re.search(self.leave, name))
            if left or "weight" not in last or not p.numel():
                continue
            if p.ndim > 1:
                yield [name]
            elif p.ndim == 1 and self.scales == "joint" and not isinstance(site.model.get_submodule(path), nn.PReLU):
                bias = f"{path}.bias".lstrip(".")
                yield [name, bias] if bias in site.params else [name]


def _heads(model: nn.Module) -> tuple[str, ...]:
    """How names of weights begin that read the answer out; where none is known for it, that is the last matrix."""
    heads = tuple(f"{p}." for p in head_prefixes(model))
    matrices = [n for n, p in model.named_parameters() if p.ndim > 1]
    known = any(n.startswith(heads) for n, _ in model.named_parameters())
    return heads if known else tuple(n.rpartition(".")[0] + "." if "." in n else n for n in matrices[-1:])


def _norms(weights: list[Tensor]) -> Tensor:
    """The norm of each tensor, (tensors,), in fp32 or better."""
    if any(map(is_sharded, weights)):
        return torch.stack([norm(w.float()) for w in weights])
    exact = [torch.promote_types(w.dtype, torch.float32) for w in weights]
    kinds = {w.dtype for w in weights}
    if len(kinds) == 1:
        return torch.stack(torch._foreach_norm(weights, 2, dtype=exact[0]))
    return torch.stack([w.norm(dtype=kind).float() for w, kind in zip(weights, exact, strict=True)])
