"""Weights in other types, autocast, and other devices."""

from __future__ import annotations

import pytest
import torch
from compositions import COMPOSITIONS
from worlds import Answer, Net, stream

from nacre.core.method import leaves
from nacre.core.rows import TensorRows
from nacre.core.stream import Experience
from nacre.learner import Learner, Stage
from nacre.methods import EWC, MIST, RanPAC
from nacre.metrics import score


def cast(dtype: torch.dtype) -> list[Experience]:
    """The toy stream with its numbers in another type."""

    def rows(r: TensorRows) -> TensorRows:
        return TensorRows(r.x.to(dtype), r.y)

    return [
        Experience(
            type(e.task)(e.task.index, rows(e.task.train), e.task.classes), {n: rows(t) for n, t in e.tests.items()}
        )
        for e in stream()
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_weights_of_other_types_learn_and_keep_their_type(name, dtype):
    learner = Learner(Net().to(dtype), COMPOSITIONS[name]())
    met = list(learner.learn(cast(dtype)))
    for t in learner.model.parameters():
        assert t.dtype == dtype and t.isfinite().all()
    assert score(learner.predict, met[-1].tests["task2"]) > 0.1
    for part in (p for s in learner.stages for p in leaves(s.method)):
        if isinstance(part, RanPAC):
            assert part.head.gram.dtype == torch.float64 and part.statistics.mean.dtype == torch.float64
        if isinstance(part, EWC):
            assert all(t.dtype != torch.bfloat16 for t in (*part.importance.values(), *part.anchor.values()))
        if isinstance(part, MIST) and len(part.parts):
            assert part.parts["projection"].weight.dtype == torch.float32


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_autocast_keeps_the_weights_in_fp32_and_changes_the_result_a_little(name):
    ends = {}
    for precision in ("fp32", "bf16"):
        learner = Learner(Net(), COMPOSITIONS[name](), precision=precision)
        met = list(learner.learn(stream()))
        ends[precision] = [score(learner.predict, t) for e in met for t in e.tests.values()]
        assert all(t.dtype == torch.float32 and t.isfinite().all() for t in learner.model.parameters())
    assert max(abs(a - b) for a, b in zip(*ends.values(), strict=True)) < 0.35


def test_autocast_does_not_round_the_sums_of_a_closed_form():
    class Plain(torch.nn.Module):
        """Features that no product rounds."""

        def forward(self, x):
            return Answer(x, x)

    ends = []
    for precision in ("fp32", "bf16"):
        method = RanPAC(width=24, ridge=1.0, precision="float32")
        learner = Learner(Plain(), (Stage(method),), precision=precision)
        met = list(learner.learn(stream()))
        ends.append(
            (method.head.gram, method.head.cross, learner.predict(met[0].tests["task0"].take(torch.arange(20))))
        )
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_deterministic_algorithms_are_asked_for_only_while_training():
    learner = Learner(Net(), COMPOSITIONS["ER"](), deterministic=True)
    asked = []

    class Looks(torch.nn.Module):
        def forward(self, x):
            asked.append(torch.are_deterministic_algorithms_enabled())
            return x

    learner.model.body.append(Looks())
    next(learner.learn(stream()))
    assert asked and all(asked) and not torch.are_deterministic_algorithms_enabled()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", COMPOSITIONS)
def test_a_gpu_gives_the_same_and_its_checkpoint_loads_on_the_cpu(name, tmp_path):
    ends = {}
    for device in ("cpu", "cuda"):
        learner = Learner(Net(dropout=0.0).to(device), COMPOSITIONS[name]())
        next(learner.learn(stream()))
        learner.save(tmp_path / device)
        again = Learner(Net(dropout=0.0), COMPOSITIONS[name]())
        again.resume(tmp_path / device)
        ends[device] = again.predict(stream()[0].tests["task0"].take(torch.arange(50)))
    known = ends["cpu"].isfinite()
    assert (ends["cpu"] - ends["cuda"])[known].abs().max() < 1e-3
