"""Memories keep what they promise, and ER replays it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from worlds import Net, noise, stream

from nacre.core.method import Method
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch
from nacre.core.stream import Task
from nacre.learner import Learner, Stage
from nacre.memory import ClassBalanced, Greedy, Herding, Reservoir, Ring, TaskBalanced, replayed
from nacre.methods import ER
from nacre.metrics import Matrix, score


def rows(start: int, count: int, label: int = 0) -> Batch:
    x = torch.arange(start, start + count, dtype=torch.float32)[:, None]
    return Batch(x, torch.full((count,), label))


def test_a_reservoir_is_uniform_over_the_stream():
    """20 of 60 rows, 10000 seeds: each row's inclusion within 4 sigma of 1/3, and all of them by chi squared."""
    counts, stream = torch.zeros(60), [rows(start, min(25, 60 - start)) for start in range(0, 60, 25)]
    for seed in range(10_000):
        memory = Reservoir(capacity=20, seed=seed)
        for batch in stream:
            memory.add(batch)
        assert len(memory) == 20
        counts[memory.field("x").flatten().long()] += 1
    far = (counts - 10_000 / 3) / (10_000 * (1 / 3) * (2 / 3)) ** 0.5
    assert far.abs().max() < 4
    assert far.square().sum() * 59 / 60 < 92, "59 degrees of freedom: 3 sigma above their mean"


def test_class_balanced_counts_differ_by_at_most_one_and_stay_samples_of_their_class():
    memory, first = ClassBalanced(capacity=31, seed=1), torch.zeros(200)
    for start, label in ((0, 0), (200, 1), (220, 2), (320, 3)):
        memory.add(rows(start, {0: 200, 1: 20, 2: 100, 3: 50}[label], label))
        counts = torch.tensor(memory.labels).bincount()
        known = counts[: label + 1]
        assert known.max() - known.min() <= 1 and len(memory) == 31
    held = memory.draw(31)
    assert (held.y == torch.tensor([0] * 200 + [1] * 20 + [2] * 100 + [3] * 50)[held.x.flatten().long()]).all()
    for seed in range(1500):
        memory = ClassBalanced(capacity=10, seed=seed)
        memory.add(rows(0, 40, 0))
        first[memory.draw(10).x.flatten().long()] += 1
    sigma = (1500 * 0.25 * 0.75) ** 0.5
    assert ((first[:40] - 1500 * 0.25).abs() / sigma).max() < 4


def filled(memory, *counts: int) -> torch.Tensor:
    """The numbers of the rows held after so many rows of each class came by, class by class."""
    for label, count in enumerate(counts):
        memory.add(rows(1000 * label, count, label))
    return memory.field("x").flatten().long()


def test_a_greedy_memory_keeps_the_first_rows_of_each_class_equally_many():
    """A plain reservoir, as one library has in its place, would hold 40 to 2 here."""
    held = filled(Greedy(capacity=30), 400, 20, 20)
    assert [(held // 1000 == c).sum().item() for c in range(3)] == [10, 10, 10]
    assert (held % 1000)[held >= 1000].max() < 15 and held[held < 1000].max() < 30, "of the first that came"


def test_a_ring_keeps_the_latest_rows_of_each_class():
    held = filled(Ring(capacity=30), 400, 20, 20)
    expected = [*range(390, 400), *range(1010, 1020), *range(2010, 2020)]
    assert held.sort().values.tolist() == expected


@pytest.mark.parametrize("told", [False, True])
def test_task_balanced_counts_differ_by_at_most_one_whatever_the_classes_and_lengths(told):
    memory, index = TaskBalanced(capacity=31), 0
    for index, count in enumerate((200, 20, 100)):
        memory.begin(Task(index))
        batch = rows(1000 * index, count, 7)
        memory.add(replace(batch, task=torch.full((count,), index)) if told else batch)
        counts = [(memory.field("x").flatten() // 1000 == i).sum().item() for i in range(index + 1)]
        assert max(counts) - min(counts) <= 1 and sum(counts) == 31, counts


@pytest.mark.parametrize("kind", [Reservoir, ClassBalanced, TaskBalanced, Greedy, Ring, Herding])
def test_memories_are_bounded_hold_raw_stream_rows_and_draw_copies(kind):
    memory = kind(capacity=8)
    assert memory.draw(3) is None
    size = set()
    for k in range(40):
        x = torch.full((5, 2), float(k))
        source = torch.tensor([0, 0, 0, 1, -1])
        memory.add(Batch(x + 100, torch.full((5,), k % 3), source=source, raw=x), z=x[:, 0] * 10)
        size.add(memory.block.bytes)
    assert memory.seen == 120 and len(memory) == 8 and len(size) == 1
    drawn = memory.draw(99)
    assert len(drawn) == 8 and len(memory.draw(0) or ()) == 0
    assert torch.equal(drawn.extra["z"], drawn.x[:, 0] * 10) and torch.equal(drawn.x[:, 0] % 3, drawn.y.float())
    drawn.x.zero_()
    assert memory.draw(8).x.sum() > 0, "what is drawn is a copy"


def test_float_inputs_that_get_longer_are_padded_with_zero_as_batches_are():
    """A NaN among the inputs of one row makes the whole loss NaN."""
    memory = Reservoir(capacity=4)
    for length in (2, 3):
        held = torch.ones(2, length)
        memory.add(Batch({"spectrum": held, "mask": held.long()}, torch.zeros(2, dtype=torch.long)), z=held)
    drawn = memory.draw(4)
    assert drawn.x["spectrum"].sum() == 10.0 and drawn.x["mask"].sum() == 10
    assert drawn.extra["z"].isnan().sum() == 2, "fields of methods read as not known"


def test_draws_touch_no_global_state_and_agree_between_twins():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, two = (ClassBalanced(capacity=6, seed=3) for _ in range(2))
    for memory in (one, two):
        memory.add(rows(0, 30))
        memory.draw(4)
    assert torch.equal(one.draw(4).x, two.draw(4).x) and torch.equal(torch.get_rng_state(), before)


def test_replayed_rows_follow_the_stream_and_are_not_admitted_again():
    er = ER(rows=4, memory=Reservoir(capacity=10))
    er.memory.add(rows(0, 10, 1))
    batch = er.shape_batch(rows(50, 6, 2))
    assert batch.source.tolist() == [0] * 6 + [1] * 4 and batch.y.tolist() == [2] * 6 + [1] * 4
    er.after_step(batch, None, None)
    assert er.memory.seen == 16
    twice = replayed(batch, rows(0, 2, 1))
    assert twice.source.tolist()[-2:] == [2, 2]


@pytest.mark.parametrize("shape", [(), (1,), (3,)])
def test_replayed_rows_are_not_admitted_again_whatever_their_labels(shape):
    """A `source` made like targets is of their shape, and then of no row."""
    er = ER(rows=4, memory=Reservoir(capacity=10))
    er.memory.add(Batch(torch.zeros(10, 2), torch.rand(10, *shape)))
    batch = er.shape_batch(Batch(torch.zeros(6, 2), torch.rand(6, *shape)))
    assert batch.source.dtype == torch.long and batch.source.tolist() == [0] * 6 + [1] * 4
    er.after_step(batch, None, None)
    assert er.memory.seen == 16


def test_with_accumulation_the_replayed_rows_of_a_step_are_shared_out():
    class Counts(ER):
        drawn = 0

        def shape_batch(self, batch):
            out = super().shape_batch(batch)
            Counts.drawn += len(out) - len(batch)
            return out

    drawn = {}
    for pieces in (1, 4):
        Counts.drawn = 0
        stage = Stage(Counts(rows=8), MadeOptimizer("sgd", 0.01), batch_size=8, accumulate=pieces)
        list(Learner(Net(), (stage,)).learn(stream()))
        drawn[pieces] = Counts.drawn
    assert drawn[1] == drawn[4] == 14 * 8, "15 steps, the first without a past"


@pytest.mark.parametrize("kind", [Reservoir, ClassBalanced])
def test_replay_forgets_less_than_fine_tuning(kind):
    forgotten = {}
    for name, method in (("plain", Method()), ("er", ER(rows=16, memory=kind(capacity=60)))):
        learner = Learner(
            Net(dropout=0.0), (Stage(method, MadeOptimizer("adamw", 0.01), batch_size=8, epochs=4, augment=noise),)
        )
        matrix, tests = Matrix(), {}
        for met in learner.learn(stream()):
            tests |= met.tests
            for test, held in tests.items():
                matrix.add(f"task{met.task.index}", test, score(learner.predict, held), len(held), test in met.tests)
        forgotten[name] = matrix.forgetting()
    assert forgotten["plain"] > 0.8 and forgotten["er"] < 0.5 * forgotten["plain"], forgotten
