"""The learner: growth, resume from anywhere, the same bits as an own loop, and reading without traces."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from compositions import COMPOSITIONS, equal, finished, learner, predictions, trained
from torch import nn
from worlds import Net, rows, stream

from nacre import checkpoint
from nacre.core.drive import Drive
from nacre.core.errors import BadCheckpoint, BadData, BadSetting, NonFinite
from nacre.core.method import Method, compose
from nacre.core.model import fingerprint, grow
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import TensorRows
from nacre.core.stream import Experience, Joined, Task
from nacre.learner import Learner, Listener, Stage
from nacre.memory import Reservoir
from nacre.methods import ER, EWC, MIST, Joint, RanPAC, SimpleCIL


class _Cut(nn.Module):
    """A model whose answer does not depend on any weight that is free."""

    def __init__(self, net: Net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net.head(self.net.body(x).detach())


class Saves(Listener):
    """Saves at chosen global steps and at every stage border."""

    def __init__(self, folder: Path, steps: tuple[int, ...]):
        self.folder, self.steps, self.count = folder, steps, 0

    def stepped(self, learner, loss):
        self.count += 1
        if self.count in self.steps:
            learner.save(self.folder / f"step{self.count}")

    def stage_ends(self, learner):
        learner.save(self.folder / f"border{learner.experience}-{learner.stage}")


STEPS = (2, 7, 13, 19)


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_every_method_grows_with_its_stream(name):
    who = learner(name)
    for met in who.learn(stream()):
        width = 6 if name == "Joint" else 2 * met.task.index + 2
        assert who.model.head.weight.shape[0] == width
        scores = predictions(who)
        assert scores.shape == (300, width) and torch.isfinite(scores[scores != -torch.inf]).all()


@pytest.fixture(scope="module")
def resumed(tmp_path_factory) -> Path:
    """Each composition saved at every border and four steps, then carried on from each place by a fresh process."""
    folder = tmp_path_factory.mktemp("resumed")
    for name in COMPOSITIONS:
        saves = Saves(folder / name / "from", STEPS)
        whole = learner(name)
        list(whole.learn(stream(), saves))
        checkpoint.save(folder / name / "whole", {"learner": whole.state_dict(), "scores": predictions(whole)})
        borders = len(whole.stages) * (1 if name == "Joint" else 3)
        assert len(list((folder / name / "from").iterdir())) == borders + sum(step <= saves.count for step in STEPS)
    script = (
        "import sys, torch\n"
        "from pathlib import Path\n"
        "from compositions import finished, learner, predictions\n"
        "from nacre import checkpoint\n"
        "torch.set_num_threads(1)\n"
        "for place in sorted(Path(sys.argv[1]).glob('*/from/*')):\n"
        "    who = learner(place.parts[-3])\n"
        "    who.resume(place)\n"
        "    tree = {'learner': finished(who).state_dict(), 'scores': predictions(who)}\n"
        "    checkpoint.save(place.parents[1] / 'again' / place.name, tree)\n"
    )
    tests = Path(__file__).parents[1]
    path = ":".join([str(tests), str(tests.parent / "src")])
    subprocess.run([sys.executable, "-c", script, str(folder)], check=True, env={**os.environ, "PYTHONPATH": path})
    return folder


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_every_method_resumes_bit_equal_in_a_fresh_process_from_every_border_and_four_steps(name, resumed):
    again = sorted((resumed / name / "again").iterdir())
    assert [p.name for p in again] == sorted(p.name for p in (resumed / name / "from").iterdir())
    for end in again:
        for file in ("state.json", "tensors.safetensors"):
            same = (end / file).read_bytes() == (resumed / name / "whole" / file).read_bytes()
            assert same, f"{name} resumed from {end.name} ends elsewhere: {file}"


def test_the_resume_test_sees_what_it_should(tmp_path):
    """A mutant: a memory that forgets how often it drew."""

    class Forgets(Reservoir):
        def load_state_dict(self, saved):
            super().load_state_dict(saved)
            self.draws = 0

    def make() -> Learner:
        method = ER(rows=8, memory=Forgets(capacity=20))
        return Learner(Net(), (Stage(method, MadeOptimizer("sgd", 0.05), batch_size=8),))

    whole = make()
    list(whole.learn(stream(), Saves(tmp_path, (7,))))
    again = make()
    again.resume(tmp_path / "step7")
    assert not equal(finished(again).model.state_dict(), whole.model.state_dict())


@pytest.mark.parametrize("name", [n for n in COMPOSITIONS if n != "Joint"])
def test_an_own_loop_through_the_driver_equals_the_learner_bit_for_bit(name):
    whole = finished(learner(name))
    mine = learner(name)  # only to have the same stages
    model, clocks = mine.model, [0] * len(mine.stages)
    for met in stream():
        drives = [
            Drive(s.method, model, s.optimizer, replace(met.task, stage=k), augment=s.augment, seed=3)
            for k, s in enumerate(mine.stages)
        ]
        grow(model, max(met.task.classes) + 1)
        for drive in drives[1:]:  # the first one does so itself
            drive.meet()
        for k, stage in enumerate(mine.stages):
            if not stage.runs_on(met.task):
                continue
            with drives[k] as drive:
                if stage.optimizer is None:
                    continue
                total = stage.epochs * -(-len(met.task.train) // stage.batch_size)
                peaks = [g["lr"] for g in drive.optimizer.param_groups]
                held = [p for g in drive.optimizer.param_groups for p in g["params"]]
                for epoch in range(stage.epochs):
                    for batch in drive.batches(epoch, stage.batch_size):
                        now = clocks[k] if stage.clock == "stream" else drive.site.step
                        for group, peak in zip(drive.optimizer.param_groups, peaks, strict=True):
                            group["lr"] = peak * stage.schedule.over(total)(now)
                        drive.optimizer.zero_grad()
                        half = -(-len(batch) // 2)
                        for low in range(0, len(batch), half):
                            piece = batch.pick(slice(low, low + half))
                            drive.loss(piece, len(piece) / len(batch)).backward()
                        nn.utils.clip_grad_norm_(held, stage.clip)
                        drive.optimizer.step()
                        drive.stepped()
                        clocks[k] += 1
    assert equal(model.state_dict(), whole.model.state_dict())
    mine.classes = 6
    assert torch.equal(predictions(mine), predictions(whole))


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_watching_leaves_no_trace(name):
    class Watches(Listener):
        def stepped(self, learner, loss):
            torch.rand(3)  # somebody else draws, too
            predictions(learner)
            fingerprint(learner.model)

    watched = learner(name)
    list(watched.learn(stream(), Watches()))
    assert equal(watched.state_dict(), finished(learner(name)).state_dict())


def test_the_seed_decides_and_the_global_generator_does_not():
    torch.manual_seed(1)
    one = finished(learner("MIST-EWC-ER"))
    torch.manual_seed(2)
    two = finished(learner("MIST-EWC-ER"))
    assert equal(one.state_dict(), two.state_dict())
    other = Learner(Net(), COMPOSITIONS["MIST-EWC-ER"](), seed=4)
    assert not equal(finished(other).state_dict()["model"], one.state_dict()["model"])


def test_pieces_of_a_batch_add_up_to_the_whole():
    def end(accumulate: int) -> dict[str, torch.Tensor]:
        net = Net(norm=False, dropout=0.0).double()
        stage = Stage(EWC(rows=8), MadeOptimizer("sgd", 0.05), batch_size=24, accumulate=accumulate)
        who = Learner(net, (stage,))
        list(who.learn(stream(double=True)))
        return net.state_dict()

    one, five = end(1), end(5)
    assert max((one[n] - five[n]).abs().max() for n in one) < 1e-12


def test_odd_streams():
    plain = stream()
    empty = Experience(Task(0, TensorRows(torch.empty(0, 8), torch.empty(0, dtype=torch.long))))
    single = Experience(Task(1, rows((0,), 1, "one"), (0,)))
    back = Experience(replace(plain[0].task, index=2), plain[0].tests)
    last = Experience(Task(3))
    for name in COMPOSITIONS:
        if name == "Joint":
            continue
        who = Learner(Net(norm=False), COMPOSITIONS[name]())
        assert len(list(who.learn([empty, single, back, last]))) == 4
        assert all(t.isfinite().all() for t in who.model.state_dict().values())


def test_joint_training_joins_the_stream_and_refuses_a_second_task():
    who = finished(learner("Joint"))
    right = predictions(who).argmax(1) == torch.arange(6).repeat_interleave(50)
    stream_trained = predictions(finished(learner("fine-tuning"))).argmax(1) == torch.arange(6).repeat_interleave(50)
    assert right.float().mean() > 0.6 > 0.45 > stream_trained.float().mean()
    assert len(Joined(stream())[0].task.train) == sum(len(e.task.train) for e in stream())
    with (
        pytest.raises(BadData, match="Joint trains on all tasks at once"),
        Drive(Joint(), Net(), None, stream()[1].task),
    ):
        pass


def test_misuse_is_refused_with_a_cure():
    with pytest.raises(BadData, match="give the whole stream"):
        list(learner("ER").learn(stream()[1:]))
    with pytest.raises(BadSetting, match="belongs to one stage"):
        shared = ER()
        Learner(Net(), (trained(shared), trained(shared)))
    with pytest.raises(BadSetting, match=r"only one part may define predict\(\), but SimpleCIL and RanPAC do"):
        compose(SimpleCIL(), RanPAC())
    with pytest.raises(BadSetting, match="two methods of one name"):
        compose(ER(), ER())
    with pytest.raises(BadSetting, match="when = 'sometimes'"):
        Stage(SimpleCIL(), when="sometimes")
    with pytest.raises(BadSetting, match="answers for 2 classes"):
        list(Learner(nn.Linear(8, 2), (Stage(Method(), MadeOptimizer()),)).learn(stream()))
    with pytest.raises(TypeError, match="SimpleCIL reads features"):
        list(Learner(nn.Linear(8, 6), (Stage(SimpleCIL()),)).learn(stream()))
    with pytest.raises(BadSetting, match="the optimizer was made before"):
        net = Net()
        with Drive(Method(), net, torch.optim.SGD(net.parameters(), lr=0.1), stream()[0].task):
            pass
    with pytest.raises(BadSetting, match="nothing to choose from"):
        list(Learner(Net(), (trained(MIST(free="")),)).learn(stream()))
    with pytest.raises(BadSetting, match="trains nothing"):
        net = Net()
        net.head.requires_grad_(False)
        net.body[:2].requires_grad_(False)
        stage = Stage(Method(), lambda named: torch.optim.SGD(named.values(), lr=0.1))
        list(Learner(_Cut(net), (stage,)).learn(stream()))
    with pytest.raises(NonFinite, match="lower the learning rate"):
        hot = Stage(Method(), MadeOptimizer("sgd", 1e30), batch_size=8)
        list(Learner(Net(norm=False), (hot,)).learn(stream()))


def test_checkpoints_of_other_things_are_refused_by_name(tmp_path):
    list(learner("ER").learn(stream(), Saves(tmp_path, (7,))))
    with pytest.raises(BadCheckpoint, match="EWC keeps"):
        learner("EWC").resume(tmp_path / "step7")
    with pytest.raises(BadCheckpoint, match="has 1 stages, this learner 2"):
        learner("MIST-SimpleCIL").resume(tmp_path / "step7")
    with pytest.raises(BadCheckpoint, match="another model"):
        other = Learner(nn.Sequential(nn.Linear(8, 6)), COMPOSITIONS["ER"]())
        other.resume(tmp_path / "step7")
    with pytest.raises(BadCheckpoint, match="is no checkpoint"):
        checkpoint.load(tmp_path)
    whole = (tmp_path / "step7" / "tensors.safetensors").read_bytes()
    (tmp_path / "step7" / "tensors.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadCheckpoint, match="was altered or cut"):
        checkpoint.load(tmp_path / "step7")
