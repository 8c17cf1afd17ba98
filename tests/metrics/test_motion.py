"""What motion says of the start, of steps and of adapters; and rest that is verified where a stage ends."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from worlds import Net, stream

from nacre.adapters import effective, put_in_entries
from nacre.core.drive import Drive
from nacre.core.errors import BadStep
from nacre.core.optim import MadeOptimizer
from nacre.core.rested import Rested
from nacre.learner import Learner, Stage
from nacre.methods import EWC
from nacre.metrics import Motion
from nacre.metrics.motion import total
from nacre.rules import Rest

SGD = MadeOptimizer("sgd", 0.1)


def test_distance_is_told_from_the_task_from_the_start_and_a_step():
    layer, motion = nn.Linear(4, 1, bias=False), Motion()
    nn.init.constant_(layer.weight, 1.0)
    for task in range(3):
        motion.begin(layer)
        with torch.no_grad():
            layer.weight += 1.0
        row = motion.since(layer, steps=10)["weight"]
        assert row["relative"] == pytest.approx(1 / (task + 1))
        assert row["from_start"] == pytest.approx(task + 1)
        assert row["effective_step"] == pytest.approx(row["relative"] / 10)
    whole = total({"weight": row})
    assert whole["from_start"] == pytest.approx(3.0) and whole["effective_step"] == pytest.approx(row["effective_step"])


def test_the_start_is_kept_of_what_moved_alone_and_goes_on_after_a_load():
    model, motion = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)), Motion()
    motion.begin(model)
    first = model[1].weight.detach().clone()
    nn.init.constant_(model[1].weight, 2.0)
    motion.begin(model)
    assert motion.start.keys() == {"1.weight"}
    again = Motion()
    again.load_state_dict(motion.state_dict())
    far = (2.0 - first).norm() / first.norm()
    assert again.since(model)["1.weight"]["from_start"] == pytest.approx(far.item())
    older = {"then": motion.state_dict()["then"]}  # as earlier versions wrote it
    again.load_state_dict(older)
    assert again.since(model)["1.weight"]["from_start"] == 0.0


def test_an_adapter_is_seen_in_the_weights_that_it_changes():
    peft = pytest.importorskip("peft")
    from nacre.adapters import put_in

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    base = net[0].weight.detach().clone()
    names = list(net.state_dict())
    motion = Motion()
    motion.begin(effective(net))
    put_in(net, "a", peft.LoraConfig(r=2, lora_alpha=4, target_modules=["0"]))
    assert list(effective(net)) == names, "original names, none for the adapter"
    assert motion.since(effective(net))["0.weight"]["moved"] == 0.0
    layer = net[0]
    with torch.no_grad():
        layer.lora_B["a"].weight.normal_()
    delta = 2.0 * layer.lora_B["a"].weight @ layer.lora_A["a"].weight
    held = effective(net)
    torch.testing.assert_close(held["0.weight"], base + delta)
    assert torch.equal(layer.get_base_layer().weight, base), "the model stays as it is"
    x = torch.randn(3, 6)
    torch.testing.assert_close(
        torch.func.functional_call(nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)), held, x), net(x)
    )
    row = motion.since(held)["0.weight"]
    assert row["distance"] == pytest.approx(delta.detach().norm().item(), rel=1e-5)


def test_compact_entries_are_seen_in_the_dense_weight():
    layer = nn.Linear(4, 3)
    values = put_in_entries(layer, {"weight": torch.eye(3, 4).bool()})["weight"]
    motion = Motion()
    motion.begin(effective(layer))
    with torch.no_grad():
        values += 1.0
    assert motion.since(effective(layer))["weight"]["moved"] == pytest.approx(3 / 12)


# ---------------------------------------------------------------------------------------------------- rest is verified


def steps(drive: Drive, behind=None) -> None:
    for batch in drive.batches(0, 8):
        drive.optimizer.zero_grad()
        drive.loss(batch).backward()
        drive.optimizer.step()
        drive.stepped()
        if behind is not None:
            with torch.no_grad():
                behind()


@pytest.mark.parametrize("entries", [torch.tensor(True), torch.eye(2, 16).bool()], ids=["all", "some"])
def test_an_own_loop_that_breaks_rest_is_told_when_the_stage_ends(entries):
    net = Net()
    nn_head = net.head
    for verify in (True, False):
        with pytest.raises(BadStep, match=r"1 entries of head.weight moved") if verify else torch.no_grad():
            torch.set_grad_enabled(True)
            with Drive(Rest({"head.weight": entries}), net, SGD, stream()[0].task, seed=0, verify_rest=verify) as drive:
                steps(drive, lambda: nn_head.weight[0, 0].add_(1.0))
        torch.set_grad_enabled(True)


def test_rest_that_holds_is_let_through_and_copies_are_given_back():
    net = Net()
    before = net.head.weight.detach().clone() if hasattr(net.head, "weight") else None
    with Drive(Rest("body"), net, SGD, stream()[0].task, seed=0) as drive:
        steps(drive)
        assert drive.rested.then and "head.weight" not in drive.rested.then
    assert not drive.rested.then and before is not None


def test_who_asks_nothing_to_rest_keeps_no_copies():
    with Drive(EWC(), Net(), SGD, stream()[0].task, seed=0) as drive:
        assert not drive.rested.then


def test_a_learner_verifies_too():
    class Breaks:
        def __getattr__(self, _):
            return lambda *args: None

        def stepped(self, learner, loss):
            with torch.no_grad():
                learner.model.head.weight[0, 0] += 1.0

    def learner(verify: bool) -> Learner:
        return Learner(Net(), (Stage(Rest("head.weight"), SGD, batch_size=8),), verify_rest=verify)

    with pytest.raises(BadStep, match=r"head\.weight"):
        list(learner(True).learn(stream()[:1], Breaks()))
    list(learner(False).learn(stream()[:1], Breaks()))


def test_a_nan_that_rests_has_not_moved_and_a_sign_of_zero_has():
    rested, weight, mask = Rested(), torch.tensor([float("nan"), 0.0]), torch.tensor(True)
    rested.begin({"w": mask}, {"w": weight}, {})
    assert rested.broken({"w": mask}, {"w": weight}, {}) == {}
    weight[1] = -0.0
    assert rested.broken({"w": mask}, {"w": weight}, {}) == {"w": 1}
