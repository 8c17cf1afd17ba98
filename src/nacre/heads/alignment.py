"""A head trained on draws from class statistics: what is done where old rows are gone and their statistics are not.

Shapes: features (rows, width), logits (rows, classes).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..core import ranks
from ..core.dice import dice
from ..core.errors import BadModel, BadSetting, NonFinite
from ..core.model import bare, evaluating, exact, forward, head_prefixes
from ..core.rows import Batch
from ..core.shards import is_sharded
from ..core.state import Stateful, setting
from .draws import draws, factor_of, gaussian_draws
from .linear import MultiHead
from .statistics import ClassStatistics


def competing(logits: Tensor, y: Tensor, classes: list[int]) -> Tensor:
    """Logits in which rows of these classes compete among these; rows of other classes, such as replayed ones, among all.

    Where the labels are no class ids, or no classes are named, they are as they were.

    >>> competing(torch.zeros(2, 3), torch.tensor([0, 2]), [1, 2]).tolist()
    [[0.0, 0.0, 0.0], [-10000.0, 0.0, 0.0]]
    """
    if not classes or y.ndim != 1 or y.is_floating_point():
        return logits
    inside = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    inside[classes] = True
    return logits.masked_fill(inside[y][:, None] & ~inside, MultiHead.OTHER)


@torch.no_grad()
def head_of(model: nn.Module, batch: Batch, who: str) -> nn.Module:
    """The module that reads a model's logits out of its features, seen to do so on some rows.

    Raises:
        BadModel: the model gives no features, or no single module makes its logits of these alone.
        BadSetting: each rank holds a part of its weights.
    """
    model = bare(model)
    prefixes = head_prefixes(model)
    found = [(n, m) for n, m in model.named_modules() if n in prefixes]
    if len(found) == 1:
        name, head = found[0]
        if any(map(is_sharded, head.parameters())):
            raise BadSetting(
                f"{who} trains {name!r} on draws of features, and of its weights each rank holds a part: shard the body only, "
                "fully_shard(model.body)"
            )
        with evaluating(model), exact(batch.y.device):
            out = forward(model, replace(batch, task=None))  # heads that separate tasks let all classes compete
            z, wanted = out.need_features(who), out.logits
            try:
                close = torch.allclose(head(z), wanted, rtol=1e-2, atol=1e-2 * float(wanted.abs().max()))
            except (RuntimeError, TypeError):  # it reads something of another shape
                close = False
        if close:
            return head
    names = ", ".join(n for n, _ in found) or "none"
    raise BadModel(
        f"{who} trains the head on draws of features, but no single module (found: {names}) makes the model's .logits of its "
        ".features: use nacre.backbones.Classifier(body, head), or name it in the model's head_names"
    )


@dataclass
class Alignment(Stateful):
    """Trains a head, and nothing below it, on rows drawn from each class's mean and covariance.

    Each epoch draws `samples` rows of N(s_c mu_c, Sigma_c + spread I) for each class c and goes through them in batches of
    `samples` in a drawn order, by SGD with momentum, whose rate falls by half a cosine from epoch to epoch. Classes that task
    t_c brought, of t tasks so far (both counted from 1), have s_c = 1 - decay + decay t_c / t: older ones are drawn nearer to
    0. Only classes that are drawn compete, and all dice are counted. The head trains in fp32 or better and in eval mode, and is
    written back when it is done.

    Paper: SLCA: Slow Learner with Classifier Alignment for Continual Learning on a Pre-trained Model (arXiv 2303.05118).

    >>> from nacre.heads import GrowingLinear
    >>> statistics, head = ClassStatistics(covariance="full"), GrowingLinear(1, 2)
    >>> statistics.add(torch.tensor([[0.0], [1.0], [4.0], [5.0]]), torch.tensor([0, 0, 1, 1]))
    >>> Alignment(samples=50, lr=0.5).train(head, statistics, {0: 1, 1: 1})
    >>> head(torch.tensor([[1.0], [4.0]])).argmax(1).tolist()
    [0, 1]
    """

    epochs: int = setting(5, "how often rows are drawn and gone through; 0 trains nothing", low=0)
    samples: int = setting(256, "rows of a class in an epoch, and rows of a batch", low=1)
    lr: float = setting(0.01, "rate of the first epoch", low=0.0)
    momentum: float = setting(0.9, "of the SGD", low=0.0, high=1.0)
    weight_decay: float = setting(5e-4, "of the SGD", low=0.0)
    decay: float = setting(0.1, "how much nearer to 0 the means of the oldest classes are drawn", low=0.0, high=1.0)
    spread: float = setting(1e-4, "added to the variance in every direction", low=0.0)
    drawn: Literal["gaussian", "matched"] = setting(
        "gaussian", "each row by itself, or all so that their mean and covariance are exactly those kept"
    )
    seed: int = setting(0, "seeds the rows and their order")

    def scales(self, since: Mapping[int, int]) -> dict[int, float]:
        """s_c for each class, given the task that brought it, counted from 1."""
        last = max(since.values(), default=1)
        return {c: 1 - self.decay + self.decay * t / last for c, t in since.items()}

    def train(
        self,
        head: nn.Module,
        statistics: ClassStatistics,
        since: Mapping[int, int],
        *place: int | str,
        loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
        table: Tensor | None = None,
        moving: Sequence[int] = (),
        table_lr: float = 0.0,
    ) -> None:
        """Train a head.

        Args:
            head: Reads features; changed in place.
            statistics: With the covariance of each class.
            since: The classes that are drawn, each with the task that brought it, counted from 1.
            *place: Further place of the dice, such as the task.
            loss: Of logits (rows, classes drawn) and positions among these classes (rows,), a scalar.
            table: (moving, width), added to the means of the moving classes and trained beside the head; changed in place.
            moving: The classes that the rows of the table belong to.
            table_lr: Its rate in the first epoch.

        Raises:
            NonFinite: the head's weights became NaN or infinite.
        """
        if statistics.mean is None or not self.epochs or not since:
            return
        mean, classes = statistics.mean.double(), list(since)
        named = dict(head.named_parameters())
        weights = {n: _copied(p).requires_grad_() for n, p in named.items()}
        like = next(iter(weights.values()))
        learned = mean.new_zeros(0, mean.shape[1]) if table is None else table.detach().to(mean, copy=True)
        moved = torch.tensor(moving, dtype=torch.long, device=mean.device)
        groups = [{"params": list(weights.values()), "lr": self.lr, "weight_decay": self.weight_decay}]
        if table_lr:
            groups.append({"params": [learned.requires_grad_()], "lr": table_lr, "weight_decay": 0.0})
        sgd = torch.optim.SGD(groups, lr=self.lr, momentum=self.momentum)
        scale = torch.tensor(list(self.scales(since).values()), dtype=mean.dtype, device=mean.device)[:, None]
        known = torch.tensor(classes, device=mean.device)
        with torch.enable_grad(), exact(like.device), evaluating(head):
            for epoch in range(self.epochs):
                fall = (1 + math.cos(math.pi * epoch / self.epochs)) / 2
                for group, peak in zip(sgd.param_groups, (self.lr, table_lr), strict=False):
                    group["lr"] = peak * fall
                noise = self._noise(statistics, classes, *place, epoch).to(like)
                order = torch.randperm(len(noise), generator=dice(self.seed, "align", *place, epoch, "order"))
                for rows in order.to(like.device).split(self.samples):
                    y = rows // self.samples  # which of the classes that are drawn
                    at = y.to(mean.device)
                    centres = scale[at] * mean.index_add(0, moved, learned)[known[at]]
                    logits = functional_call(head, weights, (centres.to(like) + noise[rows],))
                    sgd.zero_grad()
                    loss(logits[:, known.to(like.device)], y).backward()
                    sgd.step()
        if not all(bool(w.isfinite().all()) for w in (*weights.values(), learned)):
            raise NonFinite(
                f"a head that was trained on draws of features with lr = {self.lr:g} became NaN or infinite: lower it, or the "
                "rate of the drift table beside it"
            )
        with torch.no_grad():
            for n, p in named.items():
                p.copy_(weights[n])
            if table is not None:
                table.copy_(learned)
        ranks.broadcast([*(p.detach() for p in named.values()), *([] if table is None else [table])])

    def _noise(self, statistics: ClassStatistics, classes: list[int], *place: int | str) -> Tensor:
        """Rows around 0 with the covariance of each class, one class behind the other, (classes * samples, width)."""
        draw, found = gaussian_draws if self.drawn == "gaussian" else draws, list[Tensor]()
        for c in classes:
            covariance = statistics.covariance_of(c)
            factor = factor_of(covariance + self.spread * torch.eye(len(covariance)).to(covariance))
            generator = dice(self.seed, "align", *place, "draws", c)
            found.append(draw(torch.zeros_like(covariance[0]), factor, self.samples, generator))
        return torch.cat(found)


def _copied(p: Tensor) -> Tensor:
    """A copy in fp32 or better."""
    return p.detach().to(torch.promote_types(p.dtype, torch.float32), copy=True)
