"""A config is complete, survives TOML, and each mistake in it is answered with its place, its value and a cure."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from nacre.catalogue import KINDS, entries, find, make
from nacre.core.errors import BadData, BadSetting, MissingExtra, UnknownName
from nacre.core.method import Method
from nacre.experiment import Config, Experiment, default_comparison, differences
from nacre.experiment.config import tomllib
from tests.end_to_end.small import config, pictures


class Mine(Method):
    """A method of somebody else's."""


STAGES = [
    {"methods": ["mist"], "when": "first", "optimizer": {"name": "sgd", "momentum": 0.9}, "schedule": "cosine"},
    {"methods": [{"name": "er", "memory": {"name": "ClassBalanced", "capacity": 50}}, "ewc"], "clip": 1.0},
    {"methods": ["ranpac"]},
]


def test_complete_config_survives_toml():
    given = config(stage=STAGES)
    again = Config.of(tomllib.loads(given.to_toml()))
    assert again == given
    assert not differences(given.to_dict(), again.to_dict())
    assert given.stage[1].methods[0]["rows"] == 64  # defaults are written down
    assert "seed" not in given.stage[1].methods[0]["memory"]  # but for seeds that nobody chose: they are the run's


def test_stages_that_only_read_get_no_optimizer():
    optimizers = [s.optimizer for s in config(stage=[{"methods": ["ranpac"]}, {"methods": ["er"]}, {}]).stage]
    assert optimizers[0] is None
    assert optimizers[1] == optimizers[2] == {"name": "adamw", "lr": 1e-3, "groups": []}


def test_changes_read_toml_values_and_plain_words():
    changed = config(
        *("stage.1.memory", "stage.1.methods.0.memory.capacity=7", "stage.0.optimizer.lr=0.5")[1:],
        *("data.source=glyphs", "run.seeds=[3, 4]", 'stream.order="given"', "stage.1.methods.1.how=pull"),
        stage=STAGES,
    )
    assert changed.stage[1].methods[0]["memory"]["capacity"] == 7
    assert (changed.stage[0].optimizer or {})["lr"] == 0.5
    assert (changed.data.source, changed.run.seeds, changed.stream.settings["order"]) == ("glyphs", [3, 4], "given")
    assert changed.stage[1].methods[1]["how"] == "pull"


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ("stage.1.methods.0.name=ERR", UnknownName, "stage.1.methods.0: unknown method 'ERR': did you mean 'ER'?"),
        ("stage.1.methods.1.strenght=1", UnknownName, "unknown setting of EWC 'strenght': did you mean 'strength'?"),
        ("stage.1.methods.0.memory.name=Reservior", UnknownName, "unknown part 'Reservior': did you mean 'Reservoir'?"),
        ("stage.0.epoch=1", UnknownName, "stage.0: unknown setting of [[stage]] 'epoch': did you mean 'epochs'?"),
        ("watch.evry=1", UnknownName, "watch: unknown setting of [watch] 'evry': did you mean 'every'?"),
        ("strem.kind=x", UnknownName, "unknown setting of the config 'strem': did you mean 'stream'?"),
        ("stream.kind=class-incremntal", UnknownName, "did you mean 'class-incremental'?"),
        ("backbone.augment=jiter", UnknownName, "backbone.augment: unknown augment 'jiter': did you mean 'jitter'?"),
        ("stage.0.optimizer.name=sdg", UnknownName, "did you mean 'sgd'?"),
        ("stage.0.optimizer.momentun=1", UnknownName, "did you mean 'momentum'?"),
        ("stage.0.schedule.name=cosin", UnknownName, "did you mean 'cosine'?"),
        ("stage.0.schedule.warmpu=2", UnknownName, "did you mean 'warmup'?"),
        ("stage.1.epochs=five", BadSetting, "stage.1.epochs is a whole number, not 'five' (str)"),
        ("stage.1.epochs=1.5", BadSetting, "stage.1.epochs is a whole number, not 1.5 (float)"),
        ("stage.1.epochs=0", BadSetting, "stage.1: epochs must be at least 1, not 0"),
        ("stage.1.clip=0", BadSetting, "stage.1: clip must be above 0"),
        ("run.threads=1000000000000", BadSetting, "threads must be in [0, 1024]"),
        ("data.source=''", BadSetting, "data: source is a name or a path, not ''"),
        ("backbone.source=' '", BadSetting, "backbone: source is a name or a path"),
        ("stage.0.optimizer.betas=[0.9]", UnknownName, "unknown setting of optimizer 'sgd' 'betas'"),
        ("stage.1.optimizer={name='adamw', betas=[0.9]}", BadSetting, "stage.1.optimizer: the settings of adamw do not fit"),
        ("stage.1.optimizer={name='adamw', capturable=true}", BadSetting, "capturable is for CUDA graphs"),
        ("stage.1.optimizer={name='adamw', differentiable=true}", BadSetting, "differentiable is for CUDA graphs"),
        ("stage.1.optimizer=[1]", BadSetting, "stage.1.optimizer is a table"),
        ("stage.1.epochs=true", BadSetting, "stage.1.epochs is a whole number, not True (bool)"),
        ("stage.1.methods.1.how=pul", BadSetting, "'loss' or 'gradient' or 'pull', not 'pul' (str): did you mean 'pull'?"),
        ("stage.1.methods.1.decay=2", BadSetting, "EWC.decay must be in [0.0, 1.0], not 2"),
        ("stage.1.methods.0.memory.capacity=0", BadSetting, "methods.0.memory: ClassBalanced.capacity must be at least 1"),
        ("stage.1.methods.0.memory=5", BadSetting, "a part is a table with a name"),
        ("stage.0.optimizer.momentum=x", BadSetting, "stage.0.optimizer: the settings of sgd do not fit"),
        ("stage.0.optimizer.lr=-1", BadSetting, "a learning rate is a number of at least 0, not -1"),
        ("stage.1.clock=stram", BadSetting, "did you mean 'stream'?"),
        ("data.source=3", BadSetting, "data.source is a text, not 3 (int)"),
        ("data=digits", BadSetting, "data is a table, not 'digits' (str)"),
        ("stage.7.epochs=1", BadSetting, "stage has entries 0 to 2, not '7'"),
        ("run.seeds=[1, 1]", BadSetting, "seeds is a list of different whole numbers"),
        ("run.device=gpu", BadSetting, "not 'gpu'"),
        ("run.device", BadSetting, "--set takes place=value"),
    ],
)  # fmt: skip
def test_mistakes_name_their_place_and_the_nearest(change: str, error: type[Exception], said: str):
    with pytest.raises(error) as raised:
        config(change, stage=STAGES)
    assert said in str(raised.value)


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ("data.source=digit", UnknownName, "data: unknown data 'digit': did you mean 'digits'?"),
        ("data.source=./nowhere", BadData, "there is nothing at"),
        ("backbone.source=glyphvit", UnknownName, "did you mean 'glyph-vit'?"),
        ("backbone.source=mlp:10-5", BadData, "the rows of digits are 1x8x8: write mlp:64-"),
        ("stream.tasks=11", BadSetting, "stream: 10 classes cannot make 11 tasks"),
        ("stage.0.when=frist", BadSetting, "stage.0: when = 'frist'"),
        ("stage.2.methods=['ranpac', 'simplecil']", BadSetting, "only one part may define predict()"),
        ("stream.tasks=0", BadSetting, "stream: 10 classes cannot make 0 tasks"),
        ("stream.tasks=[]", BadSetting, "stream: tasks of [] classes make 0"),
        ("stage.1.when=7", BadSetting, "stage.1.when is a text"),
        ("stage.1.when='7-9'", BadSetting, "stage.1: when = '7-9' is none of the 5 tasks, which count from 0"),
        ("backbone.source=timm:vit", MissingExtra, "backbone: the backbone 'timm:vit' needs the package 'timm'"),
        (
            "stage.1.optimizer.groups=[{match='nothing', lr=1}]",
            BadSetting,
            "stage.1.optimizer: the optimizer group 'nothing'",
        ),
        ("stage.1.optimizer=none", BadSetting, "stage.1: a stage of ER, EWC "),
        ("run.device=mps", BadSetting, "run.device: torch sees no mps here"),
    ],
)
def test_mistakes_that_show_when_parts_are_made(change: str, error: type[Exception], said: str, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # as if it were not installed
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    with pytest.raises(error) as raised:
        Experiment(config(change, stage=STAGES)).run()
    assert said in str(raised.value)


def test_a_config_without_stage_says_so():
    with pytest.raises(BadSetting, match=r"no \[\[stage\]\]"):
        Config.of({})
    with pytest.raises(UnknownName, match=r"'stages': did you mean 'stage'\?"):
        Config.of({"stages": [{}]})
    with pytest.raises(BadSetting, match=r"write \[\[stage\]\] with two brackets"):
        Config.of({"stage": {"epochs": 1}})


def test_a_part_without_its_name_is_the_one_of_the_default():
    made = config("stage.0.methods.0.memory.capacity=100", stage=[{"methods": [{"name": "er"}]}])
    assert made.stage[0].methods[0]["memory"] == {"name": "Reservoir", "capacity": 100}


def test_names_in_any_case_are_written_as_they_are_called():
    made = config("backbone.augment=['Flip', 'SHIFT']", "stream.kind=Class-Incremental")
    assert (made.backbone.augment, made.stream.kind) == (["flip", "shift"], "class-incremental")


def test_empty_data_and_one_class(tmp_path):
    rows = pictures()
    np.savez(tmp_path / "empty.npz", **{k: v[:0] for k, v in rows.items()})
    with pytest.raises(BadData, match=r"data: .*none"):
        Experiment(config(f"data.source={tmp_path / 'empty.npz'}")).run()
    np.savez(tmp_path / "one.npz", **{k: v if k[0] == "x" else v * 0 for k, v in rows.items()})
    with pytest.raises(BadData, match="only one class"):
        Experiment(config(f"data.source={tmp_path / 'one.npz'}")).run()


def test_a_missing_extra_says_which_to_install():
    error = MissingExtra("the backbone timm", "timm", "vision")
    assert "pip install 'nacre[vision]'" in str(error)


def test_a_rule_stands_wherever_a_method_does():
    told = ["ER", {"name": "drop", "share": 0.3}, {"name": "Rest", "rests": "layers.0"}, "AdaRem"]
    stage = config(stage=[{"methods": told}]).stage[0]
    assert [t["name"] for t in stage.methods] == ["ER", "Drop", "Rest", "AdaRem"] and stage.methods[1]["share"] == 0.3
    assert {"Anchor", "Drop", "Project", "Rest", "Scale", "TrustRadius"} <= {e.name for e in entries("rule")}
    assert not {e.name for e in entries("rule")} & {e.name for e in entries("method")}
    made = make("rule", {"name": "Anchor", "form": "decoupled", "strength": 0.5})
    assert make("method", {"name": "Anchor", "form": "decoupled", "strength": 0.5}) == made
    with pytest.raises(UnknownName, match="Scale"):
        make("rule", "scal")


def test_methods_of_others_are_named_by_module():
    assert type(make("method", "tests.end_to_end.test_config:Mine")) is Mine
    with pytest.raises(BadSetting, match="is not known here"):
        make("method", "no.such:Thing")
    with pytest.raises(BadSetting, match=r"is no Method"):
        make("method", "nacre.core.paper:Paper")


def test_everything_in_the_catalogue_has_a_summary_and_every_setting_a_meaning():
    for kind in KINDS:
        for entry in entries(kind):
            assert entry.summary, f"{kind} {entry.name} says nothing of itself"
            if kind in ("method", "memory"):
                assert all(s.help for s in entry.settings), f"a setting of {entry.name} has no meaning"
                assert type(make(kind, entry.name.lower())) is entry.made_by
    assert find("method", "EWC").paper is not None


def test_the_embedded_comparison_is_sound():
    several = default_comparison()
    assert len(several.configs) == 6
    assert len({c.run.name for c in several.configs}) == 6
    assert {(c.data.source, c.stream.settings["tasks"]) for c in several.configs} == {("glyphs", 10)}
    assert several.text
    assert not default_comparison(["stream.tasks=5"]).text  # what is said holds for the default only


def test_a_config_never_imports_code():
    with pytest.raises(BadSetting, match="a config does not import code"):
        config(stage=[{"methods": ["antigravity:geohash"]}])
    with pytest.raises(BadSetting, match=r"is no Method"):
        config(stage=[{"methods": ["os:system"]}])
    assert "antigravity" not in sys.modules
    assert config(stage=[{"methods": [f"{__name__}:Mine"]}]).stage[0].methods[0]["name"] == f"{__name__}:Mine"
