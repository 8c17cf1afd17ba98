"""Two processes that learn one model: the same bits on both, and what one process learns."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from compositions import COMPOSITIONS

from nacre.cli.main import cli
from nacre.core import ranks
from nacre.core.errors import BadSetting, LostRank
from nacre.core.run import Run
from nacre.core.spawn import in_ranks
from nacre.experiment import Config, Experiment
from tests.ranks import jobs

pytestmark = [pytest.mark.ranks, pytest.mark.slow]
ROUNDING = 1e-5


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_replicas_are_bit_equal_after_each_task_and_learn_what_one_process_learns(name, pair):
    found = pair["compositions"][name]
    assert not found["differing"], f"{name}: the ranks hold different {found['differing'][:5]}"
    assert found["weights"] < ROUNDING, f"{name}: weights end {found['weights']:.1e} from one process"
    assert found["learned"] < ROUNDING, f"{name}: what it knows ends {found['learned']:.1e} from one process"


def test_unequal_and_empty_parts_of_a_step_bias_nothing_and_hang_nothing(pair):
    assert len(pair["uneven"]) == len(jobs.UNEVEN) + 2
    worst = max(pair["uneven"], key=pair["uneven"].get)
    assert pair["uneven"][worst] < ROUNDING, f"{worst} ends {pair['uneven'][worst]:.1e} from one process"


def test_odd_streams_leave_no_rank_behind(pair):
    assert len(pair["odd_streams"]) == len(COMPOSITIONS)  # without Joint, with a refusal on all ranks
    assert not any(pair["odd_streams"].values()), pair["odd_streams"]


def test_own_loops_end_with_the_learners_bits_also_under_ddp(pair):
    assert pair["own_loops"] and all(pair["own_loops"].values()), pair["own_loops"]


def test_rows_of_other_loaders_shares_and_closures_give_the_gradient_of_the_step(pair):
    assert len(pair["foreign_rows"]) == 4 and max(pair["foreign_rows"].values()) < 1e-6, pair["foreign_rows"]


def test_an_overflow_on_one_rank_skips_the_step_on_all(pair):
    assert pair["overflow"] == {"effect": [True, False, True, True, True], "seen": 32, "differing": []}


def test_a_run_resumes_on_as_many_ranks_bit_for_bit_and_on_fewer_within_rounding(pair):
    for name, found in pair["resumes"].items():
        assert found is True or found < ROUNDING, f"{name}: {found}"


@pytest.mark.parametrize(
    "name, said",
    {
        "the gradient is divided by the ranks twice": 1e-2,
        "unequal parts count alike": 1e-3,
        "running statistics of one's own": 1e-3,
        "each memory holds its own rank's rows": "method.memory.block.kept.x",
        "statistics of one shard": "method.importance.body.0.weight",
        "a method that counts its own rank's rows": "method.met",
    }.items(),
)
def test_classic_bugs_are_seen(name, said, pair):
    found = pair["mutants"][name]
    if isinstance(said, str):
        assert f"the ranks hold different {said}" in found and "belongs in after_step" in found, found
    else:
        assert float(found) > said > 10 * ROUNDING, f"{name} ends only {found} from one process"


def test_what_ranks_say_to_each_other(pair):
    found = pair["collectives"]
    assert found["world"] == [0, 2, True] and found["gathered"] and found["apart"]
    assert found["sums"] == [[3.0] * 3, 1, [3.0] * 4, 2.0]
    assert found["broadcast"] == [0, 0, 0] and found["told"] == "said by 0"
    assert found["share"] == [0, 2, 4] and found["in turn"] == [0, 1, 2, 3, 4]
    assert found["differing"] == ["b", "c"]


def test_in_one_process_everything_is_the_identity():
    one = torch.ones(2)
    ranks.total([one])
    ranks.broadcast([one])
    ranks.wait()
    assert one.tolist() == [1, 1] and (ranks.world(), ranks.rank(), ranks.first()) == (1, 0, True)
    assert ranks.gathered("a") == ["a"] and ranks.told("a") == "a" and ranks.differing({"a": one}) == []
    assert ranks.share_of(torch.arange(3)).tolist() == [0, 1, 2] and ranks.in_turn([1, 2]) == [1, 2]


def test_a_rank_that_fails_ends_all_and_one_that_is_left_says_so(tmp_path):
    since, said = time.monotonic(), tmp_path / "said"
    with pytest.raises(LostRank, match=r"(?s)rank 1 failed.*NacreError: this rank fails"):
        in_ranks(jobs.fails_on_one, str(said), minutes=2)
    assert "rank 0 of 2 waited for the others in vain" in said.read_text()
    assert time.monotonic() - since < 60


CONFIG = """
[run]
name = "two"
save_every = 5
[data]
source = "digits"
[stream]
tasks = 3
[backbone]
source = "mlp:64-32-16"
[[stage]]
methods = [{name = "ER", rows = 16}]
optimizer = {name = "sgd", lr = 0.05}
"""


def test_a_launched_run_is_that_of_one_process_and_one_of_them_writes(tmp_path):
    config = tmp_path / "two.toml"
    config.write_text(CONFIG)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "nacre", "run"]
    source = str(Path(__file__).parents[2] / "src")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": source, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, *launcher, str(config), "--out", str(tmp_path / "two")]
    two = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("kept in") == 1 and two.stderr.count("task 3/3") == 1, "only the first process speaks"
    theirs = Run.load(tmp_path / "two").results[0]
    mine = Experiment(Config.load(config, ["stage.0.accumulate=2"])).run().results[0]
    assert str(theirs.matrix) == str(mine.matrix)
    for a, b in zip(theirs.curves["loss"], mine.curves["loss"], strict=True):
        assert a["step"] == b["step"]
        assert torch.allclose(torch.tensor(a["loss"]), torch.tensor(b["loss"]), atol=ROUNDING)


def test_a_row_that_is_nan_on_one_rank_is_met_by_all_alike(pair):
    for mode in ("skip", "rollback"):
        found = pair["nonfinite"][mode]
        assert found["told"] == ["the batch of rows"] * 2 and found["same"], found
        assert not found["differing"] and found["far"] < ROUNDING, found
    assert "the batch of rows became NaN or infinite in experience 1" in pair["nonfinite"]["stop"]


def test_an_interrupted_experiment_goes_on_on_two_ranks(pair):
    assert pair["experiments"] == {"equal": True, "status": "finished"}


def test_a_comparison_is_refused_under_a_launcher(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    asked = CliRunner().invoke(cli, ["run"])
    assert asked.exit_code == 2 and "a comparison runs its rows in processes of its own" in asked.output


def test_processes_share_no_gpu(monkeypatch):
    monkeypatch.setattr(ranks, "world", lambda: 2)
    monkeypatch.setattr(ranks, "rank", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    with pytest.raises(BadSetting, match="process 1 of this machine finds only 1 GPUs"):
        ranks.own_device("cuda")
    assert ranks.own_device("cpu") == torch.device("cpu")
