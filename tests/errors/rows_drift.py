"""What drift maps, heads made of class statistics, and the method that transports these, refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from worlds import Net, stream

from nacre.core.errors import BadData, BadSetting, BadUse, NonFinite
from nacre.core.method import Method
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import TensorRows
from nacre.core.scrambled import Scrambled
from nacre.core.stream import Experience, Task
from nacre.experiment import Config, Experiment
from nacre.heads import ClassStatistics, Linear, NearestMean, RandomRidge, Ridge, discriminant
from nacre.learner import Learner, Stage
from nacre.methods import LDC
from nacre.streams import Anchored
from tests.errors.row import Place, Row

LABELS = torch.tensor([0, 0, 1, 1])


def learned(*stages: Stage, rows: TensorRows | None = None) -> Any:
    tasks = stream() if rows is None else [Experience(Task(0, rows, (0, 1)))]
    return list(Learner(Net(norm=False, dropout=0.0), stages).learn(tasks))


def tuning(method: Method, **settings: Any) -> Stage:
    return Stage(method, MadeOptimizer("sgd", 0.1), batch_size=8, **settings)


def alike(at: Place) -> None:
    """Two points: a scatter along one direction."""
    statistics = ClassStatistics(covariance="shared")
    statistics.add(torch.tensor([[1e9, 1e9], [-1e9, -1e9]]), torch.tensor([0, 0]))
    discriminant(statistics, 1e-12)


def few(at: Place) -> None:
    statistics = ClassStatistics()
    statistics.add(torch.eye(4)[:2], torch.tensor([0, 1]))
    Ridge(ridge=0.0).scores(statistics, torch.eye(4))


def endless(at: Place) -> None:
    class Endless:
        def __getitem__(self, index: int) -> Experience:
            return Experience(Task(index))

    len(Anchored(Endless(), TensorRows(torch.zeros(1, 2), torch.zeros(1))))


def anchored(at: Place, path: Any, source: str = "digits") -> None:
    tables = {"data": {"source": source, "anchors": str(path)}, "stage": [{"methods": ["SimpleCIL"]}]}
    Experiment(Config.of({**tables, "backbone": {"source": "mlp:64-8"}})).run()


def larger(at: Place) -> None:
    np.savez(at / "far.npz", x=np.zeros((8, 1, 9, 9), "uint8"), y=np.arange(8) % 2)
    anchored(at, at / "far.npz")


DRIFT = [
    Row(
        "a drift map of rows that are not the same before and after",
        BadUse,
        "a drift map is fitted on the same rows before and after, not on (4, 2) and (3, 2) with 4 labels: take features of one "
        "set of rows in one order, at least one of them",
        lambda at: Linear().fit(torch.zeros(4, 2), torch.zeros(3, 2), LABELS),
    ),
    Row(
        "a head that needs more than the statistics keep",
        BadSetting,
        "RandomRidge needs the covariance of each class, and the statistics keep covariance = 'shared': set \"low_rank\" or "
        '"full"',
        lambda at: RandomRidge().check(ClassStatistics(covariance="shared")),
    ),
    Row(
        "ridge regression without a ridge, of few rows",
        BadSetting,
        "ridge regression cannot be solved with ridge = 0: there are fewer rows than features; use a larger ridge",
        few,
    ),
    Row(
        "a discriminant whose covariance cannot be inverted",
        BadSetting,
        "the covariance of the classes cannot be inverted with shrinkage = 1e-12: use a larger one",
        alike,
    ),
    Row(
        "class statistics of NaN",
        NonFinite,
        "features of which class statistics are taken are NaN or infinite: lower the learning rate of what moves the backbone, "
        "set clip, or look at the rows",
        lambda at: ClassStatistics().add(torch.full((4, 2), torch.nan), LABELS),
    ),
    Row(
        "scatters that were not kept",
        BadSetting,
        'no covariance of a class is kept: set covariance = "low_rank" or "full"',
        lambda at: ClassStatistics(covariance="none").parts_of(0),
    ),
    Row(
        "a head by its name in Python",
        BadSetting,
        "LDC.head is a head made of class statistics, such as Ridge(), not 'Ridge'",
        lambda at: LDC(head="Ridge"),  # pyright: ignore[reportArgumentType]
    ),
    Row(
        "a drift by its name in Python",
        BadSetting,
        "LDC.drift is a drift map, such as Linear(), or None, not 'none'",
        lambda at: LDC(drift="none"),  # pyright: ignore[reportArgumentType]
    ),
    Row(
        "statistics that follow, before what moves the backbone",
        BadSetting,
        "LDC knows tasks 0 by another backbone than the one that task 1 begins with, and follows what moves it between the "
        "beginning of a task and its own stage only: put LDC behind all that moves the backbone (a later stage, or last in its "
        'own) on every task; or leave it stale, with drift = "none"',
        lambda at: learned(Stage(LDC(head=NearestMean())), tuning(Method())),
    ),
    Row(
        "class statistics of targets that are no classes",
        BadSetting,
        "LDC needs one class id a row, not labels of shape (4,) (torch.float32)",
        lambda at: learned(Stage(LDC(head=NearestMean())), rows=TensorRows(torch.randn(4, 8), torch.randn(4))),
    ),
    Row(
        "random tokens where there are none",
        BadSetting,
        "LDC.scrambled puts tokens in at random, and the model has no embedding of tokens: leave it out",
        lambda at: learned(tuning(LDC(head=NearestMean(), scrambled=3))),
    ),
    Row(
        "random tokens in rows of numbers",
        BadSetting,
        "tokens can be put in at random only where rows are token sequences, and these carry no input_ids: leave scrambled "
        "out, or give anchors",
        lambda at: Scrambled(TensorRows(torch.zeros(2, 3), LABELS[:2]), 2, 9).take(torch.arange(2)),
    ),
    Row(
        "the length of an anchored stream without one",
        BadData,
        "the stream Endless does not know its length: give it a __len__, or walk through it",
        endless,
    ),
    Row(
        "anchors of texts for a backbone of pictures",
        BadData,
        "data: anchors: PATH/far.txt holds texts, and the backbone reads none: give rows such as the data's",
        lambda at: anchored(at, at.write("far.txt", "a line\n")),
    ),
    Row(
        "a file of anchors without a text",
        BadData,
        "data: anchors: PATH/far.txt holds no text: give a file with a text a line, or a table of texts",
        lambda at: anchored(at, at.write("far.txt", "\n\n")),
    ),
    Row(
        "anchors of another size",
        BadData,
        "data: anchors: a row of PATH/far.npz is (1, 9, 9) torch.uint8, one of the data (1, 8, 8) torch.uint8: bring both to "
        "one shape and type",
        larger,
    ),
]
