"""Path integral: how much of the loss's fall each weight's own moves brought about.

Shapes: one tensor per parameter, of its shape.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.state import Stateful, Tensors, grown, scratch, state

Params = Mapping[str, nn.Parameter]


@dataclass
class PathIntegral(Stateful):
    """omega_i = sum over steps of -g_i (move of w_i): along a path of small steps it adds up to the fall of the loss.

    The move is that of the step as it was taken, whatever the optimizer made of the gradient and whatever came after it. Of a
    step tell, in this order, its gradient (`gradient`), the weights before it (`before`), and that it is done (`moved`).

    Paper: Continual Learning Through Synaptic Intelligence (arXiv 1703.04200).

    >>> layer, path = nn.Linear(1, 1, bias=False), PathIntegral()
    >>> params = dict(layer.named_parameters())
    >>> path.begin(params)
    >>> path.gradient({"weight": torch.tensor([[2.0]])})
    >>> path.before({n: p.detach() for n, p in params.items()})
    >>> with torch.no_grad():
    ...     _ = layer.weight.sub_(0.5)
    >>> path.moved(params)
    >>> path.sums["weight"].item(), round(path.importance(params, 0.25)["weight"].item(), 3)
    (1.0, 2.0)
    """

    sums: Tensors = state()  # omega
    start: Tensors = state()  # the weights when it began
    slopes: Tensors = scratch(dict)  # the present step's gradient
    old: Tensors = scratch(dict)  # the weights before it

    def begin(self, params: Params) -> None:
        """Begin a new path here."""
        self.sums = {n: torch.zeros_like(p, dtype=_kind(p), requires_grad=False) for n, p in params.items()}
        self.start = {n: p.detach().to(_kind(p), copy=True) for n, p in params.items()}
        self.slopes, self.old = {}, {}

    def gradient(self, grads: Tensors) -> None:
        """Note the gradient that the step is made from; of several in one step the last counts."""
        self.slopes = _copied(self.slopes, grads)

    def before(self, weights: Tensors) -> None:
        """Note the weights that the step starts from."""
        self.old = _copied(self.old, weights)

    @torch.no_grad()
    def moved(self, params: Params) -> None:
        """Add up the step that was taken."""
        names = [n for n in self.slopes if n in self.old and n in self.sums and n in params]
        moves = torch._foreach_sub([self.old[n] for n in names], [params[n].detach() for n in names])
        torch._foreach_addcmul_([self.sums[n] for n in names], [self.slopes[n] for n in names], moves)

    def importance(self, params: Params, damping: float) -> Tensors:
        """Omega / (D^2 + damping), with D the whole way from the beginning to here.

        Args:
            params: The weights as they are.
            damping: Keeps weights that hardly moved finite (xi).
        """
        far = {n: params[n].detach().to(s.dtype) - self.start[n] for n, s in self.sums.items() if n in params}
        return {n: self.sums[n] / (d.square() + damping) for n, d in far.items()}


def summed(total: Tensors, fresh: Tensors, decay: float = 1.0) -> Tensors:
    """Decay * total + fresh by name; what is missing or shorter counts as 0, and names of the total stay.

    >>> summed({"w": torch.ones(1)}, {"w": torch.ones(2), "b": torch.ones(1)}, 0.5)
    {'w': tensor([1.5000, 1.0000]), 'b': tensor([1.])}
    """
    found = {n: t * decay for n, t in total.items()}
    return found | {n: f + grown(found[n], f) if n in found else f for n, f in fresh.items()}


def _kind(t: Tensor) -> torch.dtype:
    return torch.promote_types(t.dtype, torch.float32)


def _copied(kept: Tensors, tensors: Tensors) -> Tensors:
    """Copies of tensors, in the memory of earlier copies where that fits."""
    if kept.keys() != tensors.keys():
        kept = {n: torch.empty_like(t) for n, t in tensors.items()}
    torch._foreach_copy_(list(kept.values()), [tensors[n] for n in kept])
    return kept
