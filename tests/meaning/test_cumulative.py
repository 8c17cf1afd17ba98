"""Cumulative training: all rows so far, each task again; from the last weights, or from none."""

from __future__ import annotations

import pytest
import torch
from worlds import Net, stream

from nacre.core.errors import BadSetting
from nacre.core.method import Method, as_met
from nacre.core.optim import MadeOptimizer
from nacre.core.stream import Accumulated, Joined, experiences
from nacre.learner import Learner, Listener, Stage
from nacre.memory import Reservoir
from nacre.methods import ER, EWC, MAS, Cumulative, DERpp, GDumb, ICaRL, Joint, LwF
from nacre.metrics import score
from nacre.streams import online

SGD = MadeOptimizer("sgd", 0.1)


def test_each_experience_brings_the_rows_and_classes_of_all_before_it():
    met = list(experiences(Accumulated(stream(told=True))))
    assert [e.task.index for e in met] == [0, 1, 2] and [e.task.rows for e in met] == [40, 80, 120]
    assert met[2].task.classes == (0, 1, 2, 3, 4, 5) and [*met[2].tests] == ["task2"]
    last = met[2].task.train.take(torch.tensor([0, 45, 119]))
    assert last.y.tolist() == [0, 2, 5] and last.task.tolist() == [0, 1, 2], "rows say whose they are"
    assert met[1].task.growth == (((0, 1), 0), ((2, 3), 1))
    with pytest.raises(IndexError):
        Accumulated(stream())[3]


def test_rows_that_are_met_once_are_not_accumulated():
    learner = Learner(Net(), (Stage(Cumulative(), SGD, batch_size=8),))
    with pytest.raises(BadSetting, match='set arrival = "offline"'):
        next(iter(learner.learn(online(stream()))))
    assert next(iter(Learner(Net(), (Stage(Joint(), SGD, batch_size=8),)).learn(online(stream())))).task.rows == 120


def test_a_learner_accumulates_by_itself_and_only_once():
    for given in (stream(), Accumulated(stream())):
        learner = Learner(Net(), (Stage(Cumulative(), SGD, batch_size=8),))
        assert [e.task.rows for e in learner.learn(given)] == [40, 80, 120]
    assert isinstance(as_met(stream(), Cumulative(), Joint()), Joined)


def test_with_one_task_it_is_joint_training_bit_for_bit():
    ends = []
    for method in (Cumulative(), Cumulative(start="scratch"), Joint()):
        learner = Learner(Net(), (Stage(method, SGD, batch_size=8),))
        list(learner.learn(stream()[:1]))
        ends.append(learner.model.state_dict())
    assert all(torch.equal(t, end[n]) for end in ends[1:] for n, t in ends[0].items())


def test_warm_goes_on_and_scratch_begins_anew():
    class Begins(Listener):
        def __init__(self):
            self.weights: list[torch.Tensor] = []

        def stage_begins(self, learner: Learner, stage: Stage, total: int) -> None:
            self.weights.append(learner.model.body[0].weight.detach().clone())

    for start, same in (("warm", False), ("scratch", True)):
        learner = Learner(Net(), (Stage(Cumulative(start=start), SGD, batch_size=8),))
        list(learner.learn(stream(), begins := Begins()))
        first, *later = begins.weights
        assert len(later) == 2 and all(torch.equal(w, first) is same for w in later), start


def test_replay_of_all_rows_from_an_endless_memory_takes_the_same_steps():
    ends = []
    for method in (Cumulative(), ER(rows=500, memory=Reservoir(capacity=500)), Method()):
        learner = Learner(Net(norm=False, dropout=0.0), (Stage(method, SGD, batch_size=500),))
        list(learner.learn(stream()))
        ends.append(torch.cat([p.detach().flatten() for p in learner.model.parameters()]))
    assert (ends[0] - ends[1]).abs().max() < 1e-6 < 1e-2 < (ends[0] - ends[2]).abs().max()


def test_no_method_answers_better_than_one_that_has_all_rows_at_once():
    means = {}
    for method in (Joint(), Method(), Cumulative(), ER(rows=8), DERpp(rows=8), LwF(), EWC(), MAS(), ICaRL(), GDumb()):
        stage = Stage(method, MadeOptimizer("adamw", 0.01), batch_size=8, epochs=3)
        learner = Learner(Net(norm=False, dropout=0.0), (stage,))
        list(learner.learn(stream()))
        found = [score(learner.predict, e.tests[f"task{i}"]) for i, e in enumerate(stream())]
        means[type(method).__name__] = sum(found) / len(found)
    noise = 2 * (0.1 * 0.9 / 300) ** 0.5  # two standard errors of a share of 300 rows
    assert max(means.values()) <= means["Joint"] + noise and means["Method"] < means["Joint"] - 0.2, means


def test_nothing_is_forgotten():
    stage = Stage(Cumulative(), MadeOptimizer("adamw", 0.01), batch_size=8, epochs=3)
    learner = Learner(Net(norm=False, dropout=0.0), (stage,))
    list(learner.learn(stream()))
    assert min(score(learner.predict, e.tests[f"task{i}"]) for i, e in enumerate(stream())) > 0.8
