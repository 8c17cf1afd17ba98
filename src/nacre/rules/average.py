"""A running average of weights, kept beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.elsewhere import lending
from ..core.errors import BadSetting
from ..core.model import Outputs, bare, forward
from ..core.rows import Batch
from ..core.rule import Site
from ..core.shards import is_sharded
from ..core.state import Stateful, Tensors, scratch, state

Live = Mapping[str, Tensor]


@dataclass
class Average(Stateful):
    """Follows the weights of a model, and can answer in their place: mean <- mean + share (w - mean).

    It holds the weights that require a gradient and the floating buffers (running statistics), in fp32 or better. Rows that a
    tensor gains later begin at their own first values.

    >>> layer, slow = nn.Linear(1, 1, bias=False), Average()
    >>> _ = nn.init.constant_(layer.weight, 4.0)
    >>> slow.meet(slow.live(layer))
    >>> _ = nn.init.constant_(layer.weight, 8.0)
    >>> slow.follow(slow.live(layer), 0.25)
    >>> slow.mean["weight"].item(), slow.answer(layer, Batch(torch.ones(1, 1), torch.zeros(1))).logits.item()
    (5.0, 5.0)
    """

    mean: Tensors = state()
    room: Tensors = scratch(dict)  # for weights of lower precision, and for differences

    def live(self, model: nn.Module, site: Site | None = None) -> Tensors:
        """What is followed, as it is now: what trains here, what is followed already, and floating buffers."""
        model = bare(model)
        found: Tensors = {n: b for n, b in model.named_buffers() if b.is_floating_point()}
        if site is not None and self.mean.keys() <= found.keys() | site.params.keys():
            return found | {n: p for n, p in site.params.items() if not n.startswith("parts.")}
        return found | {n: p for n, p in model.named_parameters() if p.requires_grad or n in self.mean}

    @torch.no_grad()
    def meet(self, live: Live, anew: bool = False) -> None:
        """Begin to follow what is not followed yet, rows that came later too; all of it where it begins `anew`.

        Raises:
            BadSetting: of a weight each rank holds a part.
        """
        for n, t in live.items():
            kept = self.mean.get(n)
            if kept is not None and kept.shape == t.shape and not anew:
                continue
            if is_sharded(t):
                raise BadSetting(
                    f"of {n} each rank holds a part, and an average of weights needs whole ones: train without fully_shard"
                )
            fresh = t.detach().to(torch.promote_types(t.dtype, torch.float32), copy=True)
            more = kept is not None and not anew and kept.shape[1:] == t.shape[1:] and kept.ndim and len(kept) < len(t)
            self.mean[n] = torch.cat([kept, fresh[len(kept) :]]) if more and kept is not None else fresh

    @torch.no_grad()
    def follow(self, live: Live, share: float | Tensors) -> None:
        """Go a share of the way to where the weights are: one for all, or by name tensors of shares, () or (rows, ...)."""
        names = [n for n in self.mean if n in live and (not isinstance(share, dict) or n in share)]
        means = [self.mean[n] for n in names]
        there = [self.exact(n, live[n]) for n in names]
        if isinstance(share, dict):
            torch._foreach_lerp_(means, there, [share[n] for n in names])
        else:
            torch._foreach_lerp_(means, there, share)

    def exact(self, name: str, t: Tensor) -> Tensor:
        """A live tensor in the precision of its mean; as it is where that is its own."""
        if t.dtype == self.mean[name].dtype:
            return t.detach()
        return self.roomy(name).copy_(t.detach())

    def roomy(self, name: str) -> Tensor:
        """Memory of the kind of a mean, kept from step to step."""
        like, held = self.mean[name], self.room.get(name)
        if held is None or held.shape != like.shape or held.device != like.device or held.dtype != like.dtype:
            held = self.room[name] = torch.empty_like(like)
        return held

    @torch.no_grad()
    def put_into(self, model: nn.Module) -> None:
        """Make the weights and buffers of a model those of the average; what it has gained since stays."""
        model = bare(model)
        for n, t in (*model.named_parameters(), *model.named_buffers()):
            if n in self.mean:
                (t[: len(self.mean[n])] if t.ndim else t).copy_(self.mean[n])

    def cast(self, model: nn.Module) -> Tensors:
        """The average in the types that the model has, for `core.elsewhere.lending`; rows it has gained since are its own."""
        model, found = bare(model), Tensors()
        for n, t in (*model.named_parameters(), *model.named_buffers()):
            if n in self.mean:
                mean = self.mean[n].to(t.dtype)
                found[n] = torch.cat([mean, t.detach()[len(mean) :]]) if t.ndim and len(mean) < len(t) else mean
        return found

    def answer(self, model: nn.Module, batch: Batch) -> Outputs:
        """What the model answers with the average in place of its own weights, which stay where they are."""
        model = bare(model)
        return lending(model, self.cast(model), lambda: forward(model, batch))
