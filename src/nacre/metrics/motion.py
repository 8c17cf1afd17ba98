"""How far what moved: per tensor and task, on the weights the forward pass uses, buffers included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import nan
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
    `relative` = distance / |w_then| in the Euclidean norm; `effective_step` = relative / steps, the mean way of a step;
    `from_start` = |w_now - w_start| / |w_start|, with w_start the weights when the first task began; `entries`, how many there
    are. A tensor that grew is compared on its old rows, one that is new is left out. Of a model given as a module, a layer that
    an adapter was put into keeps its name, and the adapter is a tensor of its own; `nacre.adapters.effective(model)` gives the
    weights with adapters merged in.

    >>> model, motion = nn.Linear(2, 1), Motion()
    >>> motion.begin(model)
    >>> _ = nn.init.constant_(model.bias, 9.0)
    >>> {name: row["moved"] for name, row in motion.since(model).items()}
    {'weight': 0.0, 'bias': 1.0}
    """

    then: Tensors = state()
    start: Tensors = state()  # of tensors that have moved since the first task began; the others are in `then`

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        super().load_state_dict({"start": {}, **saved})  # earlier versions did not keep it

    def begin(self, model: nn.Module | Mapping[str, Tensor]) -> None:
        """Remember the model as it is now; weights that ranks hold in parts are gathered, so all ranks ask together."""
        now = {n: whole(t.detach()).clone() for n, t in _tensors(model)}
        for name, then in self.then.items():
            if name not in self.start and name in now and not _same(then, now[name]):
                self.start[name] = then
        self.then = now

    @torch.no_grad()
    def since(self, model: nn.Module | Mapping[str, Tensor], steps: int = 0) -> dict[str, dict[str, Any]]:
        """What has moved since `begin`, by tensor name.

        Args:
            model: What `begin` was given.
            steps: How many steps the task took; where they are not told, `effective_step` is NaN.
        """
        found = {}
        for name, now in _tensors(model):
            if name in self.then and now.numel() and now.is_floating_point():  # a counter is no weight
                now = whole(now)
                row = _compare(*_rows(self.then[name], now))
                row["from_start"] = row["relative"]
                if name in self.start:
                    row["from_start"] = _compare(*_rows(self.start[name], now))["relative"]
                row["effective_step"] = row["relative"] / steps if steps else nan
                found[name] = row
        return {n: row for n, row in found.items() if row["entries"]}


def total(motion: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The motion of all tensors as one: share of entries moved, the relative distance, also of a step and from the start."""
    entries = sum(row["entries"] for row in motion.values())
    moved = sum(row["moved"] * row["entries"] for row in motion.values())
    size = sum(row["size"] ** 2 for row in motion.values()) ** 0.5

    def over_all(key: str) -> float:
        return sum((row.get(key, nan) * row["size"]) ** 2 for row in motion.values()) ** 0.5 / size if size else 0.0

    return {
        "entries": entries,
        "moved": moved / entries if entries else 0.0,
        "relative": sum(row["distance"] ** 2 for row in motion.values()) ** 0.5 / size if size else 0.0,
        "from_start": over_all("from_start"),
        "effective_step": over_all("effective_step"),
    }


def _tensors(model: nn.Module | Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """What a model holds, by the names from before any adapter was put in."""
    held = bare(model).state_dict() if isinstance(model, nn.Module) else model
    for name, tensor in held.items():
        yield name.replace(".base_layer.", "."), tensor


def _rows(then: Tensor, now: Tensor) -> tuple[Tensor, Tensor]:
    """Both where `now` is, of the rows that there were then."""
    return then.to(now.device), now[: len(then)] if now.ndim else now


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one.to(other.device), other)


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
