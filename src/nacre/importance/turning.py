"""How little a layer turns what goes through it: importance of whole layers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core import ranks
from ..core.model import evaluating, forward
from ..core.rows import Batch, batches
from ..core.stream import Task


@torch.no_grad()
def turned_least(
    model: nn.Module, task: Task, layers: Sequence[str], rows: int | None = None, size: int = 64
) -> dict[str, float]:
    """The mean cosine between input and output of each layer, with a mean of 1 over those that have one.

    Args:
        model: Answers for the task's rows.
        task: What is read.
        layers: Names of modules whose first argument is their input.
        rows: How many rows are read; None = all.
        size: Rows in a batch.

    Returns:
        By name; 1 for a layer whose output is not of its input's shape. A negative mean counts as 0. Positions that the rows'
        `attention_mask` leaves out do not count.
    """
    sums = torch.zeros(len(layers), 2, dtype=torch.float64, device=task.device)  # of cosines, and how many
    read: list[Batch] = []  # the rows that are read now

    def hear(i: int) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> None:
            if args and args[0].shape == out.shape:
                cosines = F.cosine_similarity(args[0].double(), out.double(), dim=-1)
                x = read[-1].x
                mask = x.get("attention_mask") if isinstance(x, Mapping) else None
                if mask is not None and mask.shape == cosines.shape:
                    cosines = cosines[mask.bool()]
                sums[i] += torch.stack([cosines.sum(), cosines.new_tensor(cosines.numel())])

        return hook

    order = torch.arange(0, task.rows, max(task.rows // (rows or task.rows or 1), 1))[:rows]
    starts = ranks.share_of(torch.arange(0, len(order), size)).tolist()
    handles = [model.get_submodule(name).register_forward_hook(hear(i)) for i, name in enumerate(layers)]
    try:
        with evaluating(model):
            for low in starts:
                for batch in batches(task.train, size, order[low : low + size], device=task.device):
                    read[:] = [batch]
                    forward(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    ranks.total([sums])
    means = {n: max(s / c, 0.0) for n, (s, c) in zip(layers, sums.tolist(), strict=True) if c}
    mean = sum(means.values()) / max(len(means), 1)
    return {n: means[n] / mean if n in means and mean > 0 else 1.0 for n in layers}
