"""Fisher information: how much the model's answer depends on each weight.

Shapes: one tensor per parameter, of its shape.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from ..core import ranks
from ..core.dice import dice
from ..core.errors import BadSetting, NonFinite
from ..core.model import Outputs
from ..core.rows import Batch, Rows
from ..core.shards import gradients
from ..core.state import Tensors
from .squares import squared_gradients

Labels = Literal["sampled", "exact", "empirical"]


def fisher(
    objective: Callable[[Batch], Tensor],
    outputs: Callable[[Batch], Outputs],
    params: dict[str, nn.Parameter],
    rows: Rows,
    index: Tensor,
    *,
    labels: Labels = "sampled",
    seed: tuple[int | str, ...] = (0,),
    device: torch.device | str = "cpu",
) -> Tensors:
    """Diagonal Fisher information: the mean over rows of squared per-row gradients of the loss.

    With p_c the model's probability of class c for a row x, and g_c the gradient of the loss for that label:

    - `"exact"`: F = E_x sum_c p_c g_c^2, the Fisher information itself; one backward pass per row and class.
    - `"sampled"`: F = E_x g_c^2 with one c drawn from p: unbiased for the exact one; one backward pass per row.
    - `"empirical"`: F = E_x g_y^2 with the row's own label y: not the Fisher information unless the model is right, but
      common.

    Rows are taken one at a time: a squared gradient of a batch mean is about `batch` times smaller, so strengths that were
    found with such an estimator do not carry over.

    Args:
        objective: The loss of a batch that shall be looked at, a scalar.
        outputs: The model's answer; its `competing` logits give p.
        params: Parameters by name.
        rows: Where rows are taken from.
        index: Which rows, (rows,).
        labels: The estimator.
        seed: Place of the dice that draw labels.
        device: Where the batches are put.

    Returns:
        F by parameter name, in fp32 or better; zero where a parameter is not used. Where several ranks learn together each
        takes its share of the rows, and all of them get the mean over all rows; all must ask.

    Raises:
        BadSetting: the labels are not class ids but `labels` is not "empirical".
        NonFinite: the model's answers are NaN or infinite.
    """
    total = {n: torch.zeros_like(p, dtype=torch.promote_types(p.dtype, torch.float32)) for n, p in params.items()}
    for i in ranks.share_of(index).tolist():
        batch = rows.take(torch.tensor([i])).to(device)
        for y, weight in _labels(labels, outputs, batch, dice(*seed, "label", i)):
            loss = objective(replace(batch, y=y))
            grads = gradients(loss, list(params.values()))
            for total_n, g in zip(total.values(), grads, strict=True):
                if g is not None:
                    g = g.to(total_n.dtype)
                    total_n.addcmul_(g, g, value=weight / len(index))
    ranks.total(list(total.values()))
    return total


def batched_fisher(
    objective: Callable[[Batch], Tensor],
    params: dict[str, nn.Parameter],
    rows: Rows,
    index: Tensor,
    *,
    batch: int = 64,
    device: torch.device | str = "cpu",
) -> Tensors:
    """The mean over batches of squared gradients of the batch's mean loss: what many libraries call Fisher information.

    It is not the Fisher information, nor the empirical one times a factor: with B rows a batch, mean gradient m and variance
    v over rows it is about m^2 + v / B where the empirical one is m^2 + v. So its scale goes with the batch size, and
    strengths found with it hold for that size only. With `batch = 1` it is the empirical Fisher information. Of a contrastive
    loss it is the score by mutual information that sparse tuning ranks weights by.

    Args:
        objective: The loss of a batch, a scalar: of its own labels.
        params: Parameters by name.
        rows: Where rows are taken from.
        index: Which rows, (rows,), cut into batches in this order; the last one may be smaller and counts as much.
        batch: Rows in a batch.
        device: Where the batches are put.

    Returns:
        Scores by parameter name, in fp32 or better; zero where a parameter is not used. Where several ranks learn together
        each takes its share of the batches, and all of them get the mean over all; all must ask.
    """
    if batch < 1:
        raise BadSetting(f"a batch has at least one row, not {batch}")
    return squared_gradients(lambda k, chosen: objective(rows.take(chosen).to(device)), params, index, batch)


@torch.no_grad()
def _labels(
    kind: Labels, outputs: Callable[[Batch], Outputs], batch: Batch, draw: torch.Generator
) -> list[tuple[Tensor, float]]:
    """The labels that a row is scored with, and the weight of each."""
    if kind == "empirical":
        return [(batch.y, 1.0)]
    if batch.y.ndim != 1 or batch.y.is_floating_point():
        raise BadSetting(f'labels = "{kind}" needs one class id a row; for other targets use "empirical"')
    p = outputs(batch).competing[0].double().softmax(0).cpu()
    if not bool(p.isfinite().all()):
        raise NonFinite(
            "the model's answers are NaN or infinite where its Fisher information is taken: lower the learning rate or the "
            "strength of what pulls its weights, or set clip"
        )
    if kind == "sampled":
        c = torch.multinomial(p, 1, generator=draw)
        return [(c.to(batch.y), 1.0)]
    return [(torch.full_like(batch.y, c), w) for c, w in enumerate(p.tolist()) if w > 0]
