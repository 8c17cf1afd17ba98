"""What draws from class statistics, heads that are trained on them, and distillation of features are refused."""

from __future__ import annotations

from typing import Any

import torch
from worlds import Answer, Net, stream

from nacre.core.errors import BadData, BadModel, BadSetting, NonFinite
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch
from nacre.heads import Alignment, ClassStatistics, GrowingLinear, draws, head_of, kernel_shift
from nacre.learner import Learner, Stage
from nacre.methods import EKPC, SLCA, FeatureDistillation
from tests.errors.row import Place, Row


class Bent(Net):
    """Its logits are not those that its head makes of its features."""

    def forward(self, x: torch.Tensor, task: torch.Tensor | None = None) -> Answer:
        answer = super().forward(x, task)
        return Answer(answer.logits + x.sum(1, keepdim=True), answer.features)


def bent(at: Place) -> Any:
    return list(Learner(Bent(), (Stage(SLCA(), MadeOptimizer("sgd", 0.1), batch_size=8),)).learn(stream()))


def in_parts(at: Place) -> Any:
    net, batch = Net(), Batch(torch.zeros(2, 8), torch.zeros(2, dtype=torch.long))
    at.patch.setattr("nacre.heads.alignment.is_sharded", lambda t: True)
    return head_of(net, batch, "SLCA")


def torn(at: Place) -> None:
    statistics = ClassStatistics(covariance="full")
    statistics.add(torch.tensor([[0.0], [1.0], [4.0], [5.0]]), torch.tensor([0, 0, 1, 1]))
    Alignment(lr=1e30).train(GrowingLinear(1, 2), statistics, {0: 1, 1: 1})


ALIGNMENT = [
    Row(
        "draws of no rows",
        BadSetting,
        "draws need a count of at least 1 and a residual of at least 0, not 0 and 0.0",
        lambda at: draws(torch.zeros(2), torch.eye(2), 0, torch.Generator()),
    ),
    Row(
        "a drift of other rows before and after",
        BadData,
        "a drift is read off the same rows before and after, at least one: not off (3, 2) and (4, 2)",
        lambda at: kernel_shift(torch.zeros(1, 2), torch.zeros(3, 2), torch.zeros(4, 2), 1.0),
    ),
    Row(
        "a head trained on draws that does not answer from features alone",
        BadModel,
        "SLCA trains the head on draws of features, but no single module (found: head) makes the model's .logits of its "
        ".features: use nacre.backbones.Classifier(body, head), or name it in the model's head_names",
        bent,
    ),
    Row(
        "a head in parts that is to be trained on draws",
        BadSetting,
        "SLCA trains 'head' on draws of features, and of its weights each rank holds a part: shard the body only, "
        "fully_shard(model.body)",
        in_parts,
    ),
    Row(
        "a head trained on draws until it is NaN",
        NonFinite,
        "a head that was trained on draws of features with lr = 1e+30 became NaN or infinite: lower it, or the rate of the "
        "drift table beside it",
        torn,
    ),
    Row(
        "SLCA without a covariance of each class",
        BadSetting,
        'SLCA.statistics needs covariance = "full" or "low_rank", not \'shared\': leave the setting out',
        lambda at: SLCA(statistics=ClassStatistics(covariance="shared")),
    ),
    Row(
        "EKPC without a covariance of each class",
        BadSetting,
        'EKPC.statistics needs covariance = "full" or "low_rank", not \'none\': leave the setting out',
        lambda at: EKPC(statistics=ClassStatistics(covariance="none")),
    ),
    Row(
        "rows to distil that are none",
        BadSetting,
        "FeatureDistillation.rows is at least one row, given in Python (such as TensorRows), not 'texts.csv': leave it out of "
        "a config",
        lambda at: FeatureDistillation(rows="texts.csv"),
    ),
]
