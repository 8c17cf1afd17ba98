"""How far what moved: per tensor and task, on the weights the forward pass uses, buffers included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..core.model import bare
from ..core.shards import whole
from ..core.state import Stateful, Tensors, state


@dataclass
class Motion(Stateful):
    """Moves nothing; remembers the model as it was when a task began, and says what has moved since.

    For each parameter and buffer: `moved`, the share of entries whose value changed; `distance` = |w_now - w_then| and
    `relative` = distance / |w_then| in the Euclidean norm; `entries`, how many there are. A tensor that grew is compared on
    its old rows, one that is new is left out. A layer that an adapter was put into keeps its name, and the adapter is a
    tensor of its own.

    >>> model, motion = nn.Linear(2, 1), Motion()
    >>> motion.begin(model)
    >>> _ = nn.init.constant_(model.bias, 9.0)
    >>> {name: row["moved"] for name, row in motion.since(model).items()}
    {'weight': 0.0, 'bias': 1.0}
    """

    then: Tensors = state()

    def begin(self, model: nn.Module) -> None:
        """Remember the model as it is now; weights that ranks hold in parts are gathered, so all ranks ask together."""
        self.then = {n: whole(t.detach()).clone() for n, t in _tensors(model)}

    @torch.no_grad()
    def since(self, model: nn.Module) -> dict[str, dict[str, Any]]:
        """What has moved since `begin`, by tensor name."""
        found = {}
        for name, now in _tensors(model):
            if name in self.then and now.numel() and now.is_floating_point():  # a counter is no weight
                then, now = self.then[name].to(now.device), whole(now)
                found[name] = _compare(then, now[: len(then)] if now.ndim else now)
        return {n: row for n, row in found.items() if row["entries"]}


def total(motion: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The motion of all tensors as one: share of entries moved, and the relative distance."""
    entries = sum(row["entries"] for row in motion.values())
    moved = sum(row["moved"] * row["entries"] for row in motion.values())
    far = sum(row["distance"] ** 2 for row in motion.values()) ** 0.5
    size = sum(row["size"] ** 2 for row in motion.values()) ** 0.5
    return {"entries": entries, "moved": moved / entries if entries else 0.0, "relative": far / size if size else 0.0}


def _tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a model holds, by the names from before any adapter was put in."""
    for name, tensor in bare(model).state_dict().items():
        yield name.replace(".base_layer.", "."), tensor


def _compare(then: Tensor, now: Tensor) -> dict[str, Any]:
    entries = now.numel()
    changed = int((now != then).sum()) if entries else 0
    distance = (now.double() - then.double()).norm().item() if changed else 0.0
    size = then.double().norm().item()
    return {
        "entries": entries,
        "moved": changed / entries if entries else 0.0,
        "distance": distance,
        "relative": distance / size if size else 0.0,
        "size": size,
    }
