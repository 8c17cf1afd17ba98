"""Silent failures that were found once, each kept from coming back."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from compositions import equal, finished, trained
from torch import nn
from worlds import Net, noise, rows, stream

from nacre import checkpoint
from nacre.core.dice import mix
from nacre.core.drive import Drive
from nacre.core.errors import BadCheckpoint, BadData, BadSetting, TooFewRows, UnknownName
from nacre.core.method import Method, compose
from nacre.core.model import Outputs, bare, grow, head_prefixes, row_loss
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch, TensorRows
from nacre.core.rule import attached
from nacre.core.stream import Experience, Task
from nacre.heads import ClassStatistics, GrowingLinear
from nacre.learner import Learner, Listener, Stage
from nacre.memory import ClassBalanced, Reservoir
from nacre.methods import ER, EWC, MIST, Joint, RanPAC, SimpleCIL
from nacre.metrics import Matrix, score
from nacre.rules import Rest
from nacre.schedules import schedule

SGD = MadeOptimizer("sgd", 0.1)


def told_accuracy(method: Method) -> float:
    learner = Learner(
        Net(heads=True, dropout=0.0), (Stage(method, MadeOptimizer("adamw", 0.01), batch_size=8, epochs=5),)
    )
    list(learner.learn(stream(told=True)))
    tests = [t for e in stream(told=True) for t in e.tests.values()]
    return sum(score(learner.predict, t) for t in tests) / len(tests)


def test_the_joint_bound_knows_the_tasks_of_a_told_stream():
    joint, plain = told_accuracy(Joint()), told_accuracy(Method())
    assert joint > 0.9 and joint > plain - 0.02


@pytest.mark.parametrize("method", [Method(), SimpleCIL(), RanPAC(width=24)], ids=lambda m: type(m).__name__)
def test_a_class_that_two_told_tasks_have_competes_in_both(method):
    make = MadeOptimizer("adamw", 0.02) if type(method) is Method else None
    learner = Learner(Net(heads=True, dropout=0.0), (Stage(method, make, batch_size=8, epochs=4),))
    met = list(learner.learn(stream(told=True, splits=((0, 1), (0, 1)))))
    assert min(score(learner.predict, t) for e in met for t in e.tests.values()) > 0.75


def test_a_submodule_called_module_is_no_wrapper():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.module, self.head = nn.Linear(8, 16), GrowingLinear(16)

        def forward(self, x):
            return self.head(self.module(x).relu())

    model = Mine()
    assert bare(model) is model and bare(nn.DataParallel(model)) is model
    before = model.module.weight.detach().clone()
    next(Learner(model, (Stage(Method(), SGD, batch_size=8),)).learn(stream()))
    assert model.head.weight.shape[0] == 2 and not torch.equal(model.module.weight, before)


def test_rest_looks_anew_at_each_optimizer_and_refuses_names_that_are_not_there():
    rule = Rest("weight")
    for _ in range(2):
        model = nn.Linear(3, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        before = model.weight.detach().clone()
        with attached(rule, optimizer, model):
            model(torch.ones(4, 3)).sum().backward()
            optimizer.step()
        assert torch.equal(model.weight, before)
    with pytest.raises(BadSetting, match="finds no parameter"), attached(Rest("wieght"), optimizer, model):
        optimizer.step()


def test_an_optimizer_that_does_not_hold_a_methods_parts_is_refused_and_left_clean():
    net = Net()
    grow(net, 2)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with (
        pytest.raises(BadSetting, match=r"does not hold parts\.MIST\.projection\.weight"),
        Drive(MIST(width=8, batch=16), net, optimizer, stream()[0].task, augment=noise),
    ):
        pass
    assert not optimizer._optimizer_step_pre_hooks


def test_a_stage_that_would_train_nothing_is_refused():
    for method in (Method(), ER(), EWC(), Rest("body"), Joint()):
        with pytest.raises(BadSetting, match="trains only with an optimizer"):
            Stage(method)
    with pytest.raises(BadSetting, match="when = '5-3'"):
        Stage(SimpleCIL(), when="5-3")
    for name in ("cosine", "linear", "wsd"):
        for steps in (1, 2, 7):
            rate = schedule(name).over(steps)
            assert min(rate(step) for step in range(steps)) > 0, f"{name} has a step that trains nothing"


@pytest.mark.parametrize(
    "make",
    [
        lambda: EWC(labels="sample"),
        lambda: EWC(how="Pull"),
        lambda: MIST(objective_of="contrast"),
        lambda: ClassStatistics(covariance="lowrank"),
        lambda: RanPAC(precision="float46"),
        lambda: RanPAC(ridge="tasks"),
        lambda: Learner(nn.Linear(2, 2), (Stage(SimpleCIL()),), precision="bfloat16"),
        lambda: Learner(nn.Linear(2, 2), (Stage(SimpleCIL()),), on_nonfinite="raise"),
        lambda: Stage(SimpleCIL(), clock="steam"),
    ],
)
def test_choices_are_checked_in_python_too(make):
    with pytest.raises(UnknownName, match="known are"):
        make()


def test_types_are_checked_in_python_too():
    for wrong in (lambda: Stage(SimpleCIL(), epochs=1.5), lambda: ER(rows="8"), lambda: EWC(rows=True)):
        with pytest.raises(BadSetting, match="is int, not"):
            wrong()


def test_stale_tasks_carry_their_own_numbers_and_empty_ones_none():
    stages = (Stage(Method(), SGD, batch_size=8), Stage(SimpleCIL(), when="later"))
    learner = Learner(Net(), stages)
    list(learner.learn(stream()))
    assert learner.answering().stale(learner.model) == [1]
    tasks = [
        Experience(Task(0)),
        *[Experience(Task(i + 1, e.task.train, e.task.classes)) for i, e in enumerate(stream())],
    ]
    learner = Learner(Net(), (Stage(Method(), SGD, batch_size=8), Stage(RanPAC(width=24))))
    list(learner.learn(tasks))
    assert learner.answering().stale(learner.model) == [1, 2]


def test_a_usual_classifier_is_no_part_of_the_backbone():
    class Usual(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.fc = nn.Linear(2, 2), nn.Linear(2, 2)

    assert "fc" in head_prefixes(Usual())


def test_targets_of_another_shape_do_not_broadcast():
    out = Outputs(*[torch.tensor([[0.0], [1.0], [2.0]])] * 2)
    assert row_loss(out, Batch(None, torch.tensor([0.0, 1.0, 4.0]))).tolist() == [0, 0, 4]
    with pytest.raises(BadData, match="one target for each number"):
        row_loss(out, Batch(None, torch.zeros(2)))


def test_names_that_read_alike_keep_apart_in_a_checkpoint_and_an_interrupted_rename_is_found(tmp_path):
    tree = {"a": {"b": torch.ones(1)}, "a/b": torch.zeros(1), "n": {1: torch.ones(1), "1": torch.zeros(1)}}
    checkpoint.save(tmp_path / "one", tree)
    assert equal(checkpoint.load(tmp_path / "one"), tree)
    (tmp_path / "one").rename(tmp_path / "one.old")
    assert equal(checkpoint.load(tmp_path / "one"), tree)


def test_a_memory_keeps_hidden_tasks_hidden():
    memory = Reservoir(capacity=8)
    memory.add(Batch(torch.zeros(2, 1), torch.zeros(2, dtype=torch.long), task=torch.tensor([3, 3])))
    memory.add(Batch(torch.zeros(2, 1), torch.zeros(2, dtype=torch.long)))
    assert sorted(memory.draw(8).task.tolist()) == [-1, -1, 3, 3]


@pytest.mark.parametrize("how", ["loss", "pull"])
@pytest.mark.parametrize("first", [True, False])
def test_contrastive_mist_composes_with_ewc_and_er_and_resumes(how, first, tmp_path):
    def make() -> Learner:
        parts = [MIST(width=8, batch=16), EWC(rows=8, how=how, strength=10.0), ER(rows=4)]
        return Learner(Net(), (trained(compose(*(parts if first else parts[::-1]))),))

    class Save(Listener):
        def stepped(self, learner, loss):
            if learner.experience == 1 and learner.step == 3:
                learner.save(tmp_path / "here")

    whole = make()
    list(whole.learn(stream(), Save()))
    ewc = next(m for m in whole.stages[0].method.members if isinstance(m, EWC))
    assert sum(f.sum() for f in ewc.importance.values()) > 0
    again = make()
    again.resume(tmp_path / "here")
    assert equal(finished(again).state_dict(), whole.state_dict())


@pytest.mark.parametrize("moment", ["saved", "interrupted"])
def test_a_stage_that_has_begun_does_not_begin_again(moment, tmp_path):
    class Stops(Listener):
        stopped = False

        def stage_begins(self, learner, stage, total):
            if learner.experience == 1 and not Stops.stopped:
                Stops.stopped = True
                learner.save(tmp_path / "here")
                if moment == "interrupted":
                    raise KeyboardInterrupt

    def make() -> Learner:
        return Learner(Net(), (trained(MIST(width=8, batch=16)),))

    plain, stopping = finished(make()), make()
    if moment == "interrupted":
        with pytest.raises(KeyboardInterrupt):
            list(stopping.learn(stream(), Stops()))
        list(stopping.learn(stream()))
    else:
        list(stopping.learn(stream(), Stops()))
        stopping = make()
        stopping.resume(tmp_path / "here")
        finished(stopping)
    assert equal(stopping.state_dict(), plain.state_dict())


def test_a_ridge_too_small_for_float32_is_raised_and_said(caplog):
    method = RanPAC(width=200, precision="float32")
    learner = Learner(Net(dropout=0.0), (Stage(method),))
    list(learner.learn(stream()))
    method.head.chosen, method.head.readout = 1e-8, None
    assert score(learner.predict, stream()[0].tests["task0"]) > 0.5
    assert "the ridge was raised" in caplog.text


def test_labels_that_do_not_fit_the_task_are_refused_by_name():
    task = Task(0, rows((0, 3), 5, "x"), (0, 1))
    with pytest.raises(BadData, match=r"has classes \[0, 1\], but its rows carry \[3\]"):
        next(Learner(Net(), (Stage(Method(), SGD, batch_size=10),)).learn([Experience(task)]))
    with pytest.raises(BadSetting, match="name the classes"):
        next(Learner(Net(), (Stage(Method(), SGD),)).learn([Experience(Task(0, rows((0, 1), 5, "x")))]))
    with pytest.raises(TooFewRows, match="batch_size"):
        next(Learner(Net(), (Stage(Method(), SGD, batch_size=39),)).learn(stream()))


def test_modes_do_not_depend_on_the_dice_of_the_first_step():
    class Bare(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = nn.Sequential(nn.Linear(8, 4, bias=False), nn.Dropout(0.5)), GrowingLinear(4)

        def forward(self, x):
            return self.head(self.body(x))

    for seed in range(12):
        model = Bare()
        mist = MIST(objective_of="stage", select=0.1, drop=0.9, seed=seed)
        with Drive(mist, model, SGD, stream()[0].task, seed=0) as drive:
            drive.loss(next(drive.batches(0, 8)))
            assert model.body.training


def test_modes_and_the_global_generator_are_afterwards_as_they_were():
    net = Net().eval()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    finished(Learner(net, (trained(ER()), Stage(SimpleCIL()))))
    assert not any(m.training for m in net.modules()) and torch.equal(torch.get_rng_state(), before)
    assert mix(np.int64(3), "a") == mix(3, "a")


def test_a_learner_that_knows_more_is_not_rewound(tmp_path):
    learner = Learner(Net(), (trained(Method()),))
    run = learner.learn(stream())
    next(run)
    learner.save(tmp_path / "early")
    list(run)
    with pytest.raises(BadCheckpoint, match="knows 6 classes already, the checkpoint 2"):
        learner.resume(tmp_path / "early")


def test_few_replayed_rows_are_shared_out_among_many_pieces():
    @dataclass
    class Counts(ER):
        def shape_batch(self, batch):
            out = super().shape_batch(batch)
            drawn.append(len(out) - len(batch))
            return out

    drawn: list[int] = []
    stage = Stage(Counts(rows=1), SGD, batch_size=8, accumulate=4)
    list(Learner(Net(norm=False), (stage,)).learn(stream()))
    assert sum(drawn) == 14, "15 steps, the first without a past"


def test_where_lower_is_better_transfer_has_its_sign():
    better, worse = Matrix(), Matrix(better="lower")
    for matrix, sign in ((better, 1), (worse, -1)):
        for moment, scores in {"start": (0.1, 0.1), "task0": (0.9, 0.2), "task1": (0.6, 0.8)}.items():
            for i, value in enumerate(scores):
                matrix.add(moment, f"task{i}", sign * value, 10, learned=moment == f"task{i}")
    for figure in ("forgetting", "backward_transfer", "forward_transfer"):
        assert getattr(better, figure)() == pytest.approx(getattr(worse, figure)())
    assert better.backward_transfer() == pytest.approx(-0.3) and better.forward_transfer() == pytest.approx(0.1)


def test_a_balanced_memory_stays_quick_with_many_classes():
    """A thousand classes: once 160 ms a batch of 64."""
    memory = ClassBalanced(capacity=2000)
    y = torch.arange(20_000) % 1000
    memory.add(Batch(torch.zeros(20_000, 1), y))
    started = time.process_time()
    for _ in range(10):
        memory.add(Batch(torch.zeros(64, 1), torch.arange(64)))
    assert time.process_time() - started < 0.4
    counts = torch.tensor(memory.labels).bincount()
    assert counts.max() - counts.min() <= 1


def test_rows_given_in_python_need_as_many_labels():
    with pytest.raises(BadData, match="one label for each row"):
        TensorRows(torch.zeros(3, 2), torch.zeros(2, dtype=torch.long))
