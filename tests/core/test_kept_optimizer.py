"""Optimizer state that goes on from task to task: one optimizer over the stream, by hand and by the learner."""

from __future__ import annotations

from itertools import islice

import pytest
import schedulefree
import torch
from compositions import equal
from torch import nn
from worlds import Net, stream

from nacre.core.drive import Drive
from nacre.core.errors import BadSetting
from nacre.core.method import Method
from nacre.core.optim import OPTIMIZERS, MadeOptimizer
from nacre.core.stream import Experience
from nacre.core.widen import longer
from nacre.learner import Learner, Listener, Stage

ADAM = MadeOptimizer("adam", 0.05)
SAME = ((0, 1),) * 3  # no head grows


def learner(made=ADAM, **settings) -> Learner:
    return Learner(Net(), (Stage(optimizer=made, batch_size=8, epochs=2, **settings),))


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: t.clone() for name, t in model.state_dict().items()}


def learned(one: Learner, met: list[Experience], *listeners: Listener) -> dict[str, torch.Tensor]:
    list(one.learn(met, *listeners))
    return weights(one.model)


@pytest.mark.parametrize("name", ["adam", "sgd", "rmsprop", "adafactor"])
def test_what_is_kept_equals_one_optimizer_made_before_the_stream(name):
    options = {"momentum": 0.9} if name == "sgd" else {}
    made = MadeOptimizer(name, 0.01, options=options)
    net = Net()
    net.head.grow(2)
    optimizer = made(dict(net.named_parameters()))
    for met in stream(splits=SAME):
        with Drive(Method(), net, optimizer, met.task, seed=0) as drive:
            for epoch in range(2):
                for batch in drive.batches(epoch, 8):
                    optimizer.zero_grad()
                    drive.loss(batch).backward()
                    optimizer.step()
                    drive.stepped()
    assert equal(learned(learner(made, optimizer_state="kept"), stream(splits=SAME)), weights(net))


def test_the_usual_way_begins_anew_and_so_differs():
    new, kept = (learned(learner(optimizer_state=how), stream()) for how in ("new", "kept"))
    assert not equal(new, kept)
    assert equal(new, learned(learner(), stream()))


def test_rows_that_a_head_gained_begin_without_momentum_and_old_ones_go_on():
    one = learner(optimizer_state="kept")
    assert [met.task.index for met in islice(one.learn(stream()), 2)] == [0, 1]
    held = one.kept["0"]["head.weight"]
    assert held["rows"] == len(one.model.head.weight) == 4
    assert held["state"]["exp_avg"].shape == one.model.head.weight.shape
    assert float(held["state"]["step"]) == 20.0  # two tasks of 40 rows, twice, in steps of 8


@pytest.mark.parametrize("stop", [7, 10, 13])
def test_a_run_that_stopped_anywhere_goes_on_with_the_same_bits(stop, tmp_path):
    class Stop(Listener):
        def __init__(self):
            self.steps = 0

        def stepped(self, learner, loss):
            self.steps += 1
            if self.steps == stop:
                learner.save(tmp_path)
                raise KeyboardInterrupt

    whole = learned(learner(optimizer_state="kept"), stream())
    with pytest.raises(KeyboardInterrupt):
        learned(learner(optimizer_state="kept"), stream(), Stop())
    again = learner(optimizer_state="kept")
    again.resume(tmp_path)
    assert equal(learned(again, stream()), whole)


def test_a_run_that_stopped_between_two_tasks_goes_on_with_the_same_bits(tmp_path):
    whole = learned(learner(optimizer_state="kept"), stream())
    half = learner(optimizer_state="kept")
    next(half.learn(stream()))
    half.save(tmp_path)
    again = learner(optimizer_state="kept")
    again.resume(tmp_path)
    assert again.kept["0"]
    assert equal(learned(again, stream()), whole)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - {"muon"}))  # which takes matrices only
def test_every_optimizer_of_torch_goes_on(name):
    kept = learned(learner(MadeOptimizer(name, 0.001), optimizer_state="kept"), stream())
    assert all(bool(t.isfinite().all()) for t in kept.values())


def test_state_that_0_does_not_begin_is_made_anew_where_a_head_grew():
    steps, factors = {"step_size": torch.ones(2, 3)}, {"row_var": torch.ones(1, 1), "col_var": torch.ones(1, 3)}
    assert longer(steps, 2, torch.zeros(4, 3)) == {}
    assert {key: len(t) for key, t in longer(factors, 1, torch.zeros(3, 3)).items()} == {"row_var": 3, "col_var": 1}
    assert longer(steps, 4, torch.zeros(4, 3)).keys() == {"step_size"}
    assert longer({"exp_avg": torch.ones(2, 3)}, 2, torch.zeros(4, 3))["exp_avg"].sum(1).tolist() == [3, 3, 0, 0]


def test_an_optimizer_with_two_faces_is_refused():
    def made(params):
        return schedulefree.AdamWScheduleFree(params.values(), lr=0.01)

    with pytest.raises(BadSetting, match='set optimizer_state = "new"'):
        learned(learner(made, optimizer_state="kept"), stream())
