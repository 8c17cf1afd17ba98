"""Two processes that `accelerate launch` started: replicas are equal to the bit, and learn what one process learns."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

pytest.importorskip("accelerate", reason="pip install 'nacre[accelerate]'")
from accelerate import Accelerator
from accelerate.state import AcceleratorState, PartialState

import nacre
from nacre.core.errors import BadSetting
from nacre.core.method import Method
from nacre.core.run import Run
from nacre.experiment import Config, Experiment
from nacre.integrations.accelerate import learning
from tests.integrations import launched, loops

TREE = Path(__file__).parents[2]
HALF_A_POINT = 0.005
CONFIG = """
[run]
device = "cpu"
[stream]
tasks = 2
[backbone]
source = "mlp:64-32"
[[stage]]
methods = [{name = "MIST", objective_of = "stage"}, {name = "EWC", rows = 32}, {name = "ER", rows = 16}]
optimizer = {name = "sgd", lr = 0.1}
batch_size = 32
epochs = 2
"""


@pytest.fixture(autouse=True)
def _alone():
    """Accelerate remembers its first Accelerator for the life of a process."""
    yield
    AcceleratorState._reset_state()
    PartialState._reset_state()


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


def launch(*words: str) -> str:
    """Start two processes on the CPU, for which accelerate wants to be told both things; what they print."""
    told = ("--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no", "--dynamo_backend=no")
    found = os.pathsep.join([str(TREE), str(TREE / "tests"), os.environ.get("PYTHONPATH", "")])
    env = {
        **os.environ,
        "PYTHONPATH": found,
        "ACCELERATE_USE_CPU": "true",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
    }
    command = [sys.executable, "-m", "accelerate.commands.launch", *told, f"--main_process_port={free_port()}", *words]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def alone() -> dict[str, Any]:
    """The example in one process, its steps cut as two processes cut them."""
    return launched.example(accumulate=2)


def apart(one: Any, other: Any) -> float:
    return float(np.nanmax(np.abs(np.array(one, float) - np.array(other, float))))


@pytest.mark.ranks
@pytest.mark.slow
def test_two_launched_processes_hold_the_same_bits_and_learn_what_one_learns(tmp_path, alone):
    config = tmp_path / "my.toml"
    config.write_text(CONFIG)
    told = launch(launched.__file__, str(tmp_path))
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert first == second and first["world"] == 2, "a loop of one's own: weights and buffers are equal bit for bit"
    assert told.count("moved though resting: nothing") == 1, "the first process alone prints"
    assert apart(alone["matrix"], first["example"]["matrix"]) <= HALF_A_POINT and first["example"]["leaks"] == []
    assert "the ranks hold different" in first["unaveraged"], "the ranks compare all they know after each task"
    theirs = launched.trainers(tmp_path / "alone", accumulate=2)
    assert {name: apart(theirs[name], first["trainers"][name]) <= 1e-5 for name in theirs} == dict.fromkeys(
        theirs, True
    )
    two = Run.load(tmp_path / "two")
    one = Experiment(Config.load(config, ["stage.0.accumulate=2"])).run()
    assert two.status == "finished" and apart(one.results[0].matrix, two.results[0].matrix) <= HALF_A_POINT


def test_the_example_keeps_most_and_moves_nothing_that_rests(alone):
    rows = alone["matrix"]
    assert len(rows) == 5 and sum(rows[-1]) / 5 > 0.85 and alone["leaks"] == []


def test_an_accelerator_that_accumulates_too_is_refused_and_keeps_no_optimizer_of_a_task_that_is_over():
    task = loops.tasks(Method())[0]
    make = nacre.MadeOptimizer("sgd", 0.1)
    with (
        pytest.raises(BadSetting, match=r"accumulate=4"),
        learning(Accelerator(cpu=True, gradient_accumulation_steps=4), Method(), nn.Linear(8, 2), make, task),
    ):
        pass
    AcceleratorState._reset_state()
    PartialState._reset_state()
    accelerator = Accelerator(cpu=True, mixed_precision="bf16")
    with learning(accelerator, Method(), loops.Net(), make, task) as (drive, optimizer):
        assert drive.precision == "bf16" and optimizer in accelerator._optimizers
    assert not accelerator._optimizers


def test_an_optimizer_that_accelerate_wrapped_keeps_its_rest():
    """A loop that prepares everything first, as accelerate's own examples do."""
    method, model = loops.method_of("Rest"), loops.Net(norm=False)
    task = loops.tasks(method)[0]
    nacre.grow(model, 2)
    accelerator = Accelerator(cpu=True)
    model, optimizer = accelerator.prepare(model, loops.adamw(dict(model.named_parameters())))
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with nacre.Drive(method, model, optimizer, task) as drive:
        for batch in drive.batches(0, 8):
            accelerator.backward(drive.loss(batch))
            optimizer.step()
            drive.stepped()
            optimizer.zero_grad()
    assert drive.site.step == 3 and loops.leaks(method, model, before) == []
    assert not any(bool((p == before[n]).all()) for n, p in model.named_parameters() if not n.startswith("body.0"))
