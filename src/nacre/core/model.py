"""What the library asks of a model, and how it is read without being disturbed.

A model answers `model(x)` with a tensor of logits, or with an object that has `.logits` and, where a part needs them,
`.features` of shape (rows, width). A head that can grow has a method `grow(classes)`, and one that separates tasks a method
`own(members, task_id)`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from . import shards
from .errors import BadData, BadModel, BadSetting
from .rows import Batch

WRAPPERS = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "OptimizedModule": "_orig_mod",
    "FullyShardedDataParallel": "_fsdp_wrapped_module",
}
"""Where wrappers keep the model that they wrap, by the name of their class."""
HEADS = ("head", "heads", "fc", "classifier")
"""What the layer that reads the answer is usually called."""


def bare(model: nn.Module) -> nn.Module:
    """The model inside any DDP, FSDP, torch.compile or PEFT wrapper."""
    while True:
        kind = type(model).__name__
        if (place := WRAPPERS.get(kind)) is not None:
            model = getattr(model, place)
        elif kind.startswith("PeftModel"):  # PeftModelForSequenceClassification and so on
            inner: Any = model
            if (own := inner.get_base_model()) is getattr(inner, "base_model", None):
                return model  # prompts live in the wrapper
            model = own
        else:
            return model


def called(model: nn.Module) -> nn.Module:
    """What a driver calls for an answer: the model without DDP, whose place the driver takes.

    Raises:
        BadSetting: a wrapper that cannot be left out, or that flattens the weights.
    """
    while type(model).__name__ == "DistributedDataParallel":
        model = getattr(model, WRAPPERS["DistributedDataParallel"])
    inner = model
    while (place := WRAPPERS.get(type(inner).__name__)) is not None:
        if type(inner).__name__ == "FullyShardedDataParallel":
            raise BadSetting(
                "FullyShardedDataParallel keeps flat pieces of weights, which have no names: use its successor, "
                "torch.distributed.fsdp.fully_shard(model)"
            )
        inner = getattr(inner, place)
        if type(inner).__name__ == "DistributedDataParallel":
            raise BadSetting(
                "DDP inside torch.compile: wrap the other way, DDP(torch.compile(model)), or leave DDP out"
            )
    return model


def device_of(model: nn.Module) -> torch.device:
    """Where the model's weights lie; the CPU for a model without any."""
    first = next(model.parameters(), None)
    return torch.device("cpu") if first is None else first.device


@dataclass(frozen=True)
class Outputs:
    """One forward pass, shared by every part.

    Attributes:
        logits: (rows, ..., classes) as the model gave them: what is stored or distilled.
        competing: The same after `shape_logits`: what is trained.
        features: (rows, width), or None where the model gives none.
        extra: Whatever else the model answers with.
    """

    logits: Tensor
    competing: Tensor
    features: Tensor | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)

    def detach(self) -> Outputs:
        """The same values without their graph."""
        features = self.features.detach() if self.features is not None else None
        extra = {k: v.detach() for k, v in self.extra.items()}
        return Outputs(self.logits.detach(), self.competing.detach(), features, extra)

    def need_features(self, who: str) -> Tensor:
        """The features, (rows, width).

        Raises:
            BadModel: the model gives none.
        """
        if self.features is None:
            raise BadModel(
                f"{who} reads features, but the model answers with logits only: let forward() return an object with "
                ".logits and .features, or use nacre.backbones.Classifier(nacre.backbones.tapped(model, layer), head)"
            )
        return self.features


def forward(model: nn.Module, batch: Batch) -> Outputs:
    """Answer for `batch`; a model with `takes_task = True` is told the task ids."""
    told = {"task": batch.task} if getattr(bare(model), "takes_task", False) else {}
    answer = model(**batch.x, **told) if isinstance(batch.x, Mapping) else model(batch.x, **told)
    shards.resharded(model)
    if isinstance(answer, Tensor):
        return Outputs(answer, answer)
    extra = getattr(answer, "extra", None)
    return Outputs(answer.logits, answer.logits, getattr(answer, "features", None), dict(extra) if extra else {})


def row_loss(out: Outputs, batch: Batch) -> Tensor:
    """Loss of each row, (rows,).

    Squared error for float targets, cross-entropy for classes, its mean over the labelled tokens for token ids.
    """
    if batch.y.is_floating_point():
        if out.competing.numel() != batch.y.numel():
            raise BadData(
                f"the model answers with shape {tuple(out.competing.shape)}, the targets have {tuple(batch.y.shape)}: squared "
                "errors need one target for each number"
            )
        return (out.competing - batch.y.view_as(out.competing)).square().flatten(1).mean(1)
    if batch.y.ndim == 1:
        return F.cross_entropy(out.competing, batch.y, reduction="none")
    loss = F.cross_entropy(out.competing.movedim(-1, 1), batch.y, reduction="none")
    return loss.sum(1) / (batch.y != -100).sum(1).clamp_min(1)


def mean_loss(out: Outputs, batch: Batch) -> Tensor:
    """Weighted mean of the rows' losses, a scalar; 0 where no row counts."""
    if batch.weight is None and batch.y.ndim == 1 and not batch.y.is_floating_point():
        return F.cross_entropy(out.competing, batch.y)
    loss = row_loss(out, batch)
    return loss.mean() if batch.weight is None else (loss * batch.weight).sum() / batch.weight.sum().clamp_min(1e-12)


def grow(model: nn.Module, classes: int, task_id: int | None = None, members: Sequence[int] = ()) -> bool:
    """Add rows to every head that can grow until it answers for `classes` classes; old rows keep their weights.

    Args:
        model: Any module; its submodules with a method `grow(classes)` are asked, and those that separate tasks and so have
            a method `own(members, task_id)` are told whose classes they are.
        classes: The number of classes known from now on.
        task_id: The task that the members belong to.
        members: The classes of that task.

    Returns:
        Whether any head became wider.
    """
    wider = False
    for name, module in bare(model).named_modules():
        if callable(more := getattr(module, "grow", None)):
            shards.refuse_growth(module, name, classes)
            wider = bool(more(classes)) or wider
        if task_id is not None and callable(own := getattr(module, "own", None)):
            own(members, task_id)
    return wider


def exact(device: torch.device) -> torch.autocast:
    """Autocast switched off inside: closed-form answers are not rounded to bf16."""
    return torch.autocast(device.type, enabled=False)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode inside, every module's own mode back outside."""
    modes = [(m, m.training) for m in model.modules()]
    if any(mode for _, mode in modes):  # writing a mode costs more than reading it, and predictions come batch by batch
        model.eval()
    try:
        yield
    finally:
        for m, mode in modes:
            if m.training is not mode:
                m.training = mode


def head_prefixes(model: nn.Module) -> tuple[str, ...]:
    """Names of the modules that read the answer out of the features.

    A model's own `head_names` if it has them, else its growing heads, else what is called head, heads, fc or classifier.
    """
    named = getattr(model, "head_names", None)
    if named is not None:
        return tuple(named)
    return tuple(n for n, m in model.named_modules() if n and callable(getattr(m, "grow", None))) or HEADS


@torch.no_grad()
def fingerprint(model: nn.Module, without: Collection[str] = ()) -> str:
    """A digest of the parameters and buffers below the head, 32 hex digits.

    Statistics of features carry the fingerprint they were taken with; under another one they are stale.

    Args:
        model: The model, wrapped or not.
        without: Names of tensors that are left out.
    """
    model = bare(model)
    prefixes = head_prefixes(model)
    digest = hashlib.blake2b(digest_size=16)
    for name, t in model.state_dict().items():
        if name in without or any(name == p or name.startswith(p + ".") for p in prefixes):
            continue
        digest.update(name.encode())
        bits: Any = shards.whole(t.detach()).cpu().contiguous().flatten().view(torch.uint8).numpy()
        digest.update(bits)
    return digest.hexdigest()
