"""A run keeps what it promises: the folder, the record, seeds, watch sets that disturb nothing, a model that loads back."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch

import nacre
from nacre.core.errors import BadCheckpoint, BadData, BadSetting, NonFinite
from nacre.core.rows import Batch
from nacre.core.run import MEASURED, Run
from nacre.experiment import Experiment, Finished, Observer, load
from nacre.report import comparison, matrix, write_report
from tests.end_to_end.small import config, newest, pictures, same

KEYS = {
    *(
        "format",
        "name",
        "status",
        "settings",
        "stages",
        "data",
        "versions",
        "seeds",
        "score",
        "matrix",
        "moments",
        "tests",
    ),
    *(
        "curves",
        "summary",
        "motion",
        "stale",
        "drift",
        "rest",
        "nonfinite",
        "seconds",
        "peak_memory_bytes",
        "papers",
        "fidelity",
        "started",
        "error",
    ),
}
SUMMARY = {"last", "average", "union", "forgetting", "backward_transfer", "forward_transfer", "learning"}
READ_OUT = [{"methods": [{"name": "ranpac", "width": 60}]}]


class Keep(Observer):
    """Keeps the trial that ran."""

    def seed_ends(self, trial, result):
        self.trial, self.learner = trial, trial.learner


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "one"
    Experiment(config("run.keep=3", "stream.evaluate=all", "watch.every=4", "watch.rows=10")).run(out)
    return out


def test_folder_holds_config_record_checkpoints_and_model(finished: Path):
    assert {p.name for p in finished.iterdir()} == {"config.toml", "run.json", "checkpoints", "export"}
    assert len(list((finished / "checkpoints" / "seed-0").iterdir())) == 3
    assert (
        nacre.Config.load(finished).to_dict()
        == config("run.keep=3", "stream.evaluate=all", "watch.every=4", "watch.rows=10").to_dict()
    )


def test_record_has_every_key(finished: Path):
    said = json.loads((finished / "run.json").read_text())
    assert set(said) == KEYS
    assert set(MEASURED) < KEYS
    assert said["status"] == "finished"
    assert set(said["summary"]) == SUMMARY
    assert said["moments"] == ["start", "task0", "task1", "task2", "task3", "task4"]
    assert [t["name"] for t in said["tests"]] == ["task0", "task1", "task2", "task3", "task4"]
    assert [t["learned"] for t in said["tests"]] == said["moments"][1:]
    assert len(said["matrix"]) == 6 and all(len(row) == 5 for row in said["matrix"])
    assert said["data"]["rows"] == {"train": 1197, "test": 600} and len(said["data"]["sha256"]) == 64
    assert said["stages"][0]["optimizer"]["betas"] == [0.9, 0.999]  # what torch adds is there too
    assert said["motion"]["task0"]["total"]["moved"] > 0.9
    assert set(said["motion"]["task1"]["tensors"]) >= {"body.layers.0.weight", "head.weight"}
    assert said["summary"]["forward_transfer"] == 0.0
    loss = said["curves"]["loss"][1]
    assert (loss["task"], loss["stage"], loss["step"]) == (1, 0, sorted(loss["step"]))
    assert len(loss["loss"]) == len(loss["lr"]) == len(loss["step"]) and loss["step"][0] == 1
    watched = said["curves"]["watch"][1]
    assert watched["step"][0] == 4 and set(watched["scores"]) == {"task0", "task1"}
    assert all(len(v) == len(watched["step"]) for v in watched["scores"].values())
    assert set(said["seconds"]) == {"training", "evaluation", "saving"} and said["peak_memory_bytes"] > 2**20


def test_record_loads_back(finished: Path):
    run = Run.load(finished)
    assert run.to_json() == json.loads((finished / "run.json").read_text())
    assert "task4" in run.table() and repr(run.table()) == str(run.table())
    assert run.name in comparison([run]).text() and "| task0 |" in matrix(run).markdown()
    with pytest.raises(BadData, match=r"holds no run\.json"):
        Run.load(finished / "checkpoints")


def test_the_folder_of_a_run_is_not_taken_twice(finished: Path):
    same_settings = ("run.keep=3", "stream.evaluate=all", "watch.every=4", "watch.rows=10")
    with pytest.raises(Finished):
        Experiment(config(*same_settings)).run(finished)
    with pytest.raises(Finished):
        Experiment(config(*same_settings)).resume(finished)
    with pytest.raises(BadSetting, match=r"watch\.every: 4 -> 5"):
        Experiment(config(*same_settings, "watch.every=5")).run(finished)
    with pytest.raises(BadData, match="is no run's folder"):
        Experiment(config()).run(finished / "checkpoints")


def test_several_seeds_give_mean_and_spread(tmp_path):
    run = Experiment(config("run.seeds=[0, 5]", stage=READ_OUT)).run(tmp_path / "two")
    said = json.loads((tmp_path / "two" / "run.json").read_text())
    each = [said["summary"][s]["last"] for s in ("0", "5")]
    assert said["summary"]["mean"]["last"] == pytest.approx(statistics.fmean(each))
    assert said["summary"]["spread"]["last"] == pytest.approx(statistics.stdev(each)) and each[0] != each[1]
    assert set(said["matrix"]) == {"0", "5", "mean", "spread"}
    assert set(said["moments"]) == {"0", "5"}
    assert run.figure("last") == (pytest.approx(statistics.fmean(each)), pytest.approx(statistics.stdev(each)))
    assert Run.load(tmp_path / "two").to_json() == said
    assert {p.name for p in (tmp_path / "two" / "export").iterdir()} == {"seed-0", "seed-5"}
    alone = Experiment(config("run.seeds=[5]", stage=READ_OUT)).run()
    assert same(alone.results[5].matrix, run.results[5].matrix)
    assert run.results[0].data["sha256"] != run.results[5].data["sha256"]  # digits are split by the seed


def test_watch_sets_disturb_nothing(tmp_path):
    stages = [{"methods": [{"name": "er", "rows": 8}], "optimizer": "adamw"}, *READ_OUT]
    plain = config("backbone.source=convnet:8-16", "backbone.augment=shift", stage=stages)
    watched = config(
        "backbone.source=convnet:8-16", "backbone.augment=shift", "watch.every=1", "watch.rows=8", stage=stages
    )
    one = Experiment(plain).run(tmp_path / "plain")
    other = Experiment(watched).run(tmp_path / "watched")
    assert same(newest(tmp_path / "plain"), newest(tmp_path / "watched"))
    assert same(one.results[0].matrix, other.results[0].matrix)
    assert other.results[0].curves["watch"] and not one.results[0].curves["watch"]


def test_callers_random_numbers_are_left_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    Experiment(config("run.threads=1")).run()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("kind", ["class-incremental", "task-incremental"])
@pytest.mark.parametrize("stage", [None, READ_OUT, [{"methods": ["simplecil"]}]])
def test_export_predicts_as_the_learner_did(tmp_path, stage, kind):
    keep = Keep()
    Experiment(config(f"stream.kind={kind}", stage=stage)).run(tmp_path / "run", keep)
    split = keep.trial.split
    model = load(tmp_path / "run")
    assert model.classes == list(split.class_names)
    for i in (0, 3):
        rows = split[i].tests[f"task{i}"]
        batch = rows.take(torch.arange(40))
        told = i if kind == "task-incremental" else None
        expected = keep.learner.predict(batch).float()
        assert torch.equal(model.scores(batch.x, told), expected)
        assert model.predict(batch.x.numpy(), told) == [model.classes[c] for c in expected.argmax(1)]
        best = model.top(batch.x[:2], 3, told)
        assert [row[0][0] for row in best] == model.predict(batch.x[:2], told)
        assert all(math.isfinite(value) for row in best for _, value in row)


def test_export_holds_no_replayed_rows(tmp_path):
    keep = Keep()
    Experiment(config(stage=[{"methods": ["er", {"name": "ranpac", "width": 60}]}])).run(tmp_path / "run", keep)
    saved = nacre.checkpoint.load(tmp_path / "run" / "export")
    assert saved["method"]["name"] == "RanPAC" and "memory" not in saved["state"]
    batch = Batch(torch.rand(3, 1, 8, 8), torch.zeros(3, dtype=torch.long))
    assert torch.equal(load(tmp_path / "run").scores(batch.x), keep.learner.predict(batch).float())


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(BadCheckpoint, match="is no checkpoint"):
        load(tmp_path)
    nacre.checkpoint.save(tmp_path / "other", {"step": 1})
    with pytest.raises(BadCheckpoint, match="holds no exported model"):
        load(tmp_path / "other")


def test_only_the_last_moment_where_that_is_asked():
    result = Experiment(config("stream.evaluate=last", stage=READ_OUT)).run().results[0]
    assert [sum(not math.isnan(v) for v in row) for row in result.matrix] == [0, 0, 0, 0, 5]
    assert result.summary["last"] > 0.5 and math.isnan(result.summary["learning"])


def test_joint_training_is_one_task_with_every_test():
    result = Experiment(config(stage=[{"methods": ["joint"], "epochs": 12}])).run().results[0]
    assert result.moments == ["task0"] and len(result.matrix[0]) == 5 and result.summary["last"] > 0.5


def test_statistics_of_an_older_backbone_are_in_the_record():
    stages = [{"methods": [], "optimizer": "adamw"}, *READ_OUT]
    stale = Experiment(config(stage=stages)).run().results[0].stale
    assert stale == {f"task{i}": list(range(i)) for i in range(5)}
    assert not any(Experiment(config(stage=READ_OUT)).run().results[0].stale.values())


def test_a_run_that_fails_says_why_in_its_record(tmp_path):
    bad = config(stage=[{"optimizer": {"name": "sgd", "lr": 1e12}, "epochs": 3}])
    with pytest.raises(NonFinite):
        Experiment(bad).run(tmp_path / "bad")
    run = Run.load(tmp_path / "bad")
    assert run.status == "failed" and run.error.startswith("NonFinite: the loss became NaN")


def test_three_lines_to_a_first_number():
    run = nacre.fit("digits", method="simplecil", tasks=2)
    assert "last" in run.table() and run.figure("last")[0] > 0.5
    given = nacre.fit(
        tuple(pictures().values()), method=nacre.ER(rows=4), backbone="mlp:64-16", tasks=[2, 4], epochs=1, seeds=[0, 1]
    )
    assert given.settings["data"]["source"] == "given in Python" and len(given.results) == 2
    assert given.stages[0]["methods"][0]["rows"] == 4
    module = nacre.fit(
        tuple(pictures().values()), "fine-tuning", backbone=nacre.backbone("mlp:64-8"), tasks=2, epochs=1
    )
    assert module.stages[0]["methods"] == []
    with pytest.raises(nacre.NacreError, match="did you mean 'rows'"):
        nacre.fit("digits", "er", row=3)
    with pytest.raises(BadSetting, match="settings belong to one method"):
        nacre.fit("digits", ["er", "ewc"], rows=3)


def test_fit_takes_numbers_of_numpy_and_refuses_what_is_no_method():
    run = nacre.fit("digits", "simplecil", seeds=np.int64(1), tasks=np.array([4, 6]))
    assert run.seeds == [1] and run.settings["stream"]["tasks"] == [4, 6]
    for wrong, said in (
        (None, "not NoneType"),
        (nacre.ER, r"ER is a class: give ER\(\)"),
        (nacre.rules.Rest({}), "not Rest"),
        (nacre.compose(nacre.ER(), nacre.rules.Rest({})), "not Rest"),
    ):
        with pytest.raises(BadSetting, match=said):
            nacre.fit("digits", wrong)
    with pytest.raises(BadSetting, match="cannot make 0 tasks"):
        nacre.fit("digits", "simplecil", tasks=0)


def test_a_run_that_failed_before_it_learned_may_be_begun_anew(tmp_path):
    with pytest.raises(BadSetting, match="matches no parameter"):
        Experiment(config("stage.0.optimizer.groups=[{match='nothing', lr=1}]")).run(tmp_path / "run")
    assert Experiment(config("stream.tasks=2")).run(tmp_path / "run").status == "finished"


def test_a_record_that_is_none_is_named(tmp_path):
    for text in ("[]", '"a"', "null", "{", '{"format": "nacre-run-1"}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(BadData):
            Run.load(tmp_path)


def test_a_last_batch_of_one_small_picture_can_be_normalised():
    rows = pictures(65, 5)
    run = Experiment(config("backbone.source=convnet", "stream.tasks=[5]"), data=tuple(rows.values())).run()
    assert run.status == "finished"


def test_statistics_that_follow_the_backbone_are_recorded(tmp_path):
    """By a method of the tuning stage, and by one in a stage behind it; anchors come from a file of the same kind."""
    tuned = {"methods": [], "epochs": 1, "optimizer": {"name": "sgd", "lr": 0.01}}
    ldc = {"name": "ldc", "head": {"name": "Ridge"}}
    runs = [
        Experiment(config(stage=stages)).run()
        for stages in ([{**tuned, "methods": [ldc]}], [tuned, {"methods": [ldc]}])
    ]
    one, other = (run.results[0] for run in runs)
    assert one.matrix == other.matrix and one.drift == other.drift
    assert set(one.drift) == {"1", "2", "3", "4"} and not any(one.stale.values())
    assert all(0 < told["cosine"] <= 1 and told["rows"] > 0 for told in one.drift.values())
    page = write_report(runs[0], tmp_path / "page.html")
    assert "Statistics were taken along to the present backbone 4 times" in page.read_text(encoding="utf-8")
    x = np.random.default_rng(0).integers(0, 17, (30, 1, 8, 8)).astype("uint8")
    np.savez(tmp_path / "far.npz", x=x, y=np.arange(30) % 3)
    seen = config(stage=[{**tuned, "methods": [ldc]}])
    seen.data.anchors = str(tmp_path / "far.npz")
    rows = Experiment(seen).run().results[0].drift["1"]["rows"] - one.drift["1"]["rows"]
    assert rows == 24  # the training share of them


def test_answering_with_stale_statistics_is_recorded_and_said_once(caplog):
    stages = [{"methods": [{"name": "mist", "batch": 200}], "optimizer": {"name": "sgd", "lr": 0.1}}, *READ_OUT]
    run = Experiment(config(stage=stages)).run()
    stale = list(next(iter(run.results.values())).stale.values())
    assert stale[0] == [] and stale[-1] == list(range(len(stale) - 1))
    said = [r.message for r in caplog.records if "older backbone" in r.message]
    assert len(said) == 1 and "answer with LDC" in said[0]
