"""What scores of weights, choices by name, and the methods and studies over them refuse."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from worlds import Net, stream

from nacre.core.errors import BadData, BadSetting, NonFinite, UnknownName
from nacre.core.method import Method
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import TensorRows
from nacre.core.stream import Experience, Task
from nacre.importance import (
    batched_fisher,
    module_sensitivity,
    most_sensitive,
    named,
    top_share,
    top_share_of_all,
)
from nacre.learner import Learner, Stage
from nacre.methods import FPF, L2, HybridUpdate
from nacre.studies.linear_tasks import LinearTasks
from tests.errors.row import Place, Row

NAN = torch.tensor([1.0, torch.nan])


def learned(method: Method, rows: TensorRows | None = None, optimizer: Any = None) -> Any:
    made = optimizer or MadeOptimizer("sgd", 0.01)
    tasks = stream() if rows is None else [Experience(Task(0, rows, (0, 1)))]
    return list(Learner(Net(norm=False, dropout=0.0), (Stage(method, made, batch_size=8),)).learn(tasks))


def in_parts(at: Place, module: str, method: Method) -> Any:
    at.patch.setattr(f"nacre.methods.{module}.is_sharded", lambda t: True)
    return learned(method)


class TwoFaced(torch.optim.SGD):
    """Keeps a copy of each weight."""

    def step(self, closure: Any = None) -> Any:
        done = super().step(closure)
        for group in self.param_groups:
            for p in group["params"]:
                self.state[p]["z"] = p.detach().clone()
        return done


def two_faced(at: Place) -> Any:
    return learned(FPF(every=1, iters=1), optimizer=lambda named: TwoFaced(list(named.values()), lr=0.01))


def empty_batch(at: Place) -> dict[str, Tensor]:
    w = nn.Parameter(torch.ones(1))
    rows = TensorRows(torch.ones(2, 1), torch.zeros(2, dtype=torch.long))
    return batched_fisher(lambda batch: (batch.x * w).sum(), {"w": w}, rows, torch.arange(2), batch=0)


IMPORTANCE = [
    Row("a batched Fisher of no rows", BadSetting, "a batch has at least one row, not 0", empty_batch),
    Row(
        "the sensitivity of modules from one task",
        BadData,
        "the weights of 1 tasks with [1] epochs were recorded: sensitivity needs two tasks, and one of them with two epochs",
        lambda at: module_sensitivity([[{"w": torch.ones(1)}]]),
    ),
    Row(
        "a share of modules above 1",
        BadSetting,
        "share is in [0, 1], not 2",
        lambda at: most_sensitive({"a": 1.0}, {"a": 1}, 2),
    ),
    Row(
        "a score that is NaN",
        NonFinite,
        "a score is NaN, which has no rank: look at the loss that the scores were taken of",
        lambda at: top_share(NAN, 0.5),
    ),
    Row(
        "a score that is NaN among several tensors",
        NonFinite,
        "a score of w is NaN, which has no rank: look at the loss that the scores were taken of",
        lambda at: top_share_of_all({"w": NAN}, 0.5),
    ),
    Row(
        "select that is no expression",
        BadSetting,
        "L2: select = '(' is no regular expression: missing ), unterminated subpattern at position 0",
        lambda at: named({"w": torch.ones(1)}, "(", "L2"),
    ),
    Row(
        "select that finds nothing",
        BadSetting,
        "L2: select = 'attn' finds none of the weights that train: name some of w",
        lambda at: named({"w": torch.ones(1)}, "attn", "L2"),
    ),
    Row(
        "L2 with local cross-entropy, of targets that are no classes",
        BadSetting,
        "L2 with local = True needs one class id a row, not labels of shape (8, 2) (torch.float32): set local = False",
        lambda at: learned(L2(local=True), TensorRows(torch.randn(8, 8), torch.randn(8, 2))),
    ),
    Row(
        "HybridUpdate by a line for groups",
        BadSetting,
        'HybridUpdate: "line" takes one loss for all weights: set level = "global", not "layer"',
        lambda at: HybridUpdate(estimator="line", level="layer"),
    ),
    Row(
        "HybridUpdate by groups that are not named",
        BadSetting,
        'HybridUpdate: level = "group" with groups = None: groups is the expression for level = "group", such as "attn|mlp", '
        "and for no other",
        lambda at: HybridUpdate(level="group"),
    ),
    Row(
        "HybridUpdate of weights in parts",
        BadSetting,
        "HybridUpdate reads weights whole, and of body.0.weight each rank has a part: leave fully_shard out",
        lambda at: in_parts(at, "hybrid_update", HybridUpdate(probe=1, batch=4, warmup=0)),
    ),
    Row(
        "FPF of weights in parts",
        BadSetting,
        "FPF trains weights whole, and of … each rank has a part: leave fully_shard out",
        lambda at: in_parts(at, "fpf", FPF(iters=1, modules="body")),
    ),
    Row(
        "FPF of modules that are not there",
        BadSetting,
        "FPF: modules = 'attn' finds nothing that trains: name modules with weights that require a gradient",
        lambda at: learned(FPF(iters=1, modules="attn")),
    ),
    Row(
        "FPF between steps of an optimizer that keeps copies",
        BadSetting,
        "FPF with every = 1, but TwoFaced keeps copies of the weights (z), which would undo a phase: set every = 0, or take "
        "another optimizer",
        two_faced,
    ),
    Row(
        "a study of more tasks than weights",
        BadSetting,
        "10 tasks of 20 rows with 5 weights: take two tasks or more, no more than there are weights, with fewer rows than "
        "weights less one",
        lambda at: LinearTasks(width=5),
    ),
    Row(
        "a study of targets that lie too far apart",
        BadSetting,
        "targets of squared norm 1.0 are at most 2.222 apart, squared, not 3.0",
        lambda at: LinearTasks(far=3.0),
    ),
    Row(
        "a study that there is not",
        UnknownName,
        "unknown study 'update': did you mean 'update-magnitude'? known are update-magnitude",
        lambda at: __import__("nacre.cli.studying", fromlist=["run_study"]).run_study("update", 1, 0, None),
    ),
]
