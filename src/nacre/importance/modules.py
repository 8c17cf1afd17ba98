"""Which modules forget: how much more they move where a task begins than within tasks.

Weights are recorded at the end of each epoch, as copies by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ..core.errors import BadData, BadSetting


@torch.no_grad()
def module_sensitivity(epochs: Sequence[Sequence[Mapping[str, Tensor]]]) -> dict[str, float]:
    """For each module: its mean move in the first epoch of a task, over its mean move in the later epochs of tasks.

    With d(a, b) the mean size of the change of an entry, over all of a module's own tensors,

        s = mean over tasks t > 0 of d(weights after t's first epoch, weights after task t - 1)
          / mean over tasks and their epochs e > 0 of d(weights after epoch e, weights after epoch e - 1).

    A module whose s is well above 1 jumps where a task begins: what it knows is of the task. On a stream of equal tasks s is
    about 1. Statistics that a norm layer keeps count with its weights, where they are recorded.

    The published rule is known in outline only: mean sizes of changes, within tasks and between them; the ratio is ours.

    Args:
        epochs: For each task, the tensors after each of its epochs, by name: `epochs[task][epoch]`. Of a tensor that gained
            rows the rows that were there before are compared. Counters, which are no floating point numbers, are left out.

    Returns:
        s by the name of the module (the tensor's without its last part); 0 where it never moves, infinite where it moves in
        first epochs only.

    Raises:
        BadData: there are fewer than two tasks, or no task has two epochs: there is nothing to divide.

    Paper: Does Continual Learning Equally Forget All Parameters? (arXiv 2304.04158).

    >>> at = lambda a, b: {"body.weight": torch.tensor([a]), "head.weight": torch.tensor([b])}
    >>> module_sensitivity([[at(0.0, 0.0), at(1.0, 1.0)], [at(2.0, 7.0), at(3.0, 8.0)]])
    {'body': 1.0, 'head': 6.0}
    """
    between = [(then[-1], now[0]) for then, now in pairwise(epochs) if then and now]
    within = [pair for task in epochs for pair in pairwise(task)]
    if not between or not within:
        raise BadData(
            f"the weights of {len(epochs)} tasks with {[len(task) for task in epochs]} epochs were recorded: sensitivity needs "
            "two tasks, and one of them with two epochs"
        )
    jumps, drifts = _mean_moves(between), _mean_moves(within)
    return {m: jumps[m] / drifts[m] if drifts.get(m) else (float("inf") if jumps[m] else 0.0) for m in jumps}


def most_sensitive(sensitivity: Mapping[str, float], sizes: Mapping[str, int], share: float) -> list[str]:
    """The modules with the highest sensitivity that fit into a share of all parameters, in this order.

    One that does not fit any more is passed over; of equal ones the earlier goes first.

    Args:
        sensitivity: By module.
        sizes: The number of parameters of each module.
        share: Of the sum of sizes, between 0 and 1.

    >>> most_sensitive({"a": 1.0, "b": 9.0, "c": 4.0}, {"a": 10, "b": 60, "c": 30}, 0.4)
    ['c', 'a']
    """
    if not 0 <= share <= 1:
        raise BadSetting(f"share is in [0, 1], not {share!r}")
    room, found = share * sum(sizes[m] for m in sensitivity) + 1e-9, []
    for module in sorted(sensitivity, key=lambda m: -sensitivity[m]):
        if sizes[module] <= room:
            room -= sizes[module]
            found.append(module)
    return found


def _mean_moves(pairs: Sequence[tuple[Mapping[str, Tensor], Mapping[str, Tensor]]]) -> dict[str, float]:
    """The mean over pairs of the mean size of the change of a module's entries."""
    found: dict[str, list[float]] = {}
    for then, now in pairs:
        size: dict[str, float] = {}
        count: dict[str, int] = {}
        for n, new in now.items():
            if n in then and new.is_floating_point() and new.numel():
                old, module = then[n], n.rpartition(".")[0]
                same = new[: len(old)] if new.ndim else new
                far = (same - old.to(same)).abs().sum(dtype=torch.float64)
                size[module] = size.get(module, 0.0) + float(far)
                count[module] = count.get(module, 0) + same.numel()
        for module, far in size.items():
            found.setdefault(module, []).append(far / max(count[module], 1))
    return {m: sum(moves) / len(moves) for m, moves in found.items()}
