"""Resumed from every border and from random steps, in a fresh process, a run ends bit for bit as if it had never stopped.

With dropout, augmentation, two stages, momentum, replay, importance, a closed-form head, watch sets, and two seeds.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ViTConfig, ViTModel

from nacre.core.errors import BadData, BadSetting
from nacre.core.run import Run
from nacre.experiment import Config, Experiment, Finished, Observer, load
from tests.end_to_end.small import config, newest, pictures, same

STAGES = [
    {
        "methods": [{"name": "mist", "width": 8, "batch": 16}],
        "when": "0,2",
        "optimizer": {"name": "sgd", "lr": 0.05, "momentum": 0.9, "weight_decay": 0.01},
        "batch_size": 8,
    },
    {
        "methods": [
            {"name": "er", "rows": 6, "memory": {"name": "ClassBalanced", "capacity": 12}},
            {"name": "ewc", "rows": 10},
            {"name": "ranpac", "width": 40},
        ],
        "optimizer": {"name": "adamw", "lr": 1e-3, "groups": [{"match": "head", "lr": 1e-2}]},
        "schedule": "cosine",
        "clip": 1.0,
        "epochs": 2,
        "batch_size": 16,
        "accumulate": 2,
    },
]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A tiny vision transformer with dropout, and rows for it."""
    place = tmp_path_factory.mktemp("world")
    tiny = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        num_channels=1, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        ViTModel(tiny, add_pooling_layer=False).save_pretrained(place / "vit")
    np.savez(place / "rows.npz", **pictures())
    return place


def experiment(world: Path, *changes: str) -> Config:
    return config(
        *(f"data.source={world / 'rows.npz'}", f"backbone.source={world / 'vit'}", "backbone.augment=shift"),
        *("stream.tasks=3", "watch.every=3", "watch.rows=10", "run.save_every=2", "run.keep=10000", *changes),
        stage=STAGES,
    )


@pytest.fixture(scope="module")
def whole(world: Path) -> Path:
    """A run that never stopped, with every checkpoint kept."""
    Experiment(experiment(world)).run(world / "whole")
    return world / "whole"


def copied(whole: Path, to: Path, upto: Path | None) -> Path:
    """The folder as it was when a checkpoint had just been written."""
    shutil.copytree(whole, to, ignore=shutil.ignore_patterns("checkpoints", "export", "run.json"))
    if upto is not None:
        shutil.copytree(upto, to / "checkpoints" / "seed-0" / upto.name)
    return to


def test_resumed_anywhere_it_ends_the_same(whole: Path, tmp_path: Path):
    saved = sorted((whole / "checkpoints" / "seed-0").iterdir())
    borders = [p for p in saved if p.name.endswith("step0")]
    steps = random.Random(7).sample([p for p in saved if not p.name.endswith("step0")], 4)
    assert len(borders) >= 9 and len(saved) > 20
    folders = [copied(whole, tmp_path / p.name, p) for p in (*borders, *steps)]
    folders.append(copied(whole, tmp_path / "from the beginning", None))
    script = Path(__file__).with_name("go_on.py")
    done = subprocess.run(
        [sys.executable, str(script), *map(str, folders)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    record, weights = Run.load(whole).repeatable(), newest(whole)
    x = torch.from_numpy(pictures()["x_test"])
    scores = load(whole).scores(x)
    for folder in folders:
        assert same(Run.load(folder).repeatable(), record), f"{folder.name}: the record differs"
        assert same(newest(folder), weights), f"{folder.name}: weights or state differ"
        assert torch.equal(load(folder).scores(x), scores), f"{folder.name}: predictions differ"


ALONE = {
    "fine-tuning": [{"methods": []}],
    "joint": [{"methods": ["joint"]}],
    "ewc": [{"methods": [{"name": "ewc", "rows": 6, "how": "pull"}]}],
    "er": [{"methods": [{"name": "er", "rows": 4}]}],
    "simplecil": [{"methods": ["simplecil"]}],
    "ranpac": [{"methods": [{"name": "ranpac", "width": 40}]}],
    "mist": [{"methods": [{"name": "mist", "width": 8, "batch": 16}], "when": "first"}, {"methods": ["simplecil"]}],
}


@pytest.fixture(scope="module")
def alone(world: Path) -> Path:
    """Each method's run, and the same gone on with from every border and four steps, all in one fresh process."""
    folders = []
    for name, stages in ALONE.items():
        place = world / "alone" / name
        stages = [{**stage, "batch_size": 8, "accumulate": 2} for stage in stages]
        given = config(
            *(f"data.source={world / 'rows.npz'}", f"backbone.source={world / 'vit'}", "backbone.augment=shift"),
            *("stream.tasks=3", "run.save_every=1", "run.keep=10000"),
            stage=stages,
        )
        Experiment(given).run(place / "whole")
        saved = sorted((place / "whole" / "checkpoints" / "seed-0").iterdir())
        steps = [p for p in saved if not p.name.endswith("step0")]
        chosen = [p for p in saved if p.name.endswith("step0")] + random.Random(3).sample(steps, min(4, len(steps)))
        folders += [copied(place / "whole", place / p.name, p) for p in chosen]
    script = Path(__file__).with_name("go_on.py")
    subprocess.run([sys.executable, str(script), *map(str, folders)], check=True, capture_output=True, timeout=300)
    return world / "alone"


@pytest.mark.parametrize("name", ALONE)
def test_each_method_resumed_anywhere_in_a_fresh_process_ends_with_the_same_record(name: str, alone: Path):
    whole, x = alone / name / "whole", torch.from_numpy(pictures()["x_test"])
    again = [p for p in (alone / name).iterdir() if p.name != "whole"]
    trained = name not in ("simplecil", "ranpac")
    assert len(again) >= (2 if name == "joint" else 6) + 4 * trained
    for folder in again:
        assert same(Run.load(folder).repeatable(), Run.load(whole).repeatable()), f"{folder.name}: the record differs"
        assert same(newest(folder), newest(whole)), f"{folder.name}: weights or state differ"
        assert torch.equal(load(folder).scores(x), load(whole).scores(x)), f"{folder.name}: predictions differ"


class Stop(Observer):
    """Interrupts a run after some steps in all."""

    def __init__(self, after: int):
        self.left = after

    def stepped(self, learner, loss):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_interrupted_in_the_second_seed_it_ends_the_same(world: Path, tmp_path: Path):
    two = experiment(world, "run.seeds=[0, 1]", "stream.tasks=2", "run.save_every=4", "run.keep=2")
    Experiment(two).run(tmp_path / "whole")
    steps = sum(newest(tmp_path / "whole")["clocks"])
    with pytest.raises(KeyboardInterrupt):
        Experiment(two).run(tmp_path / "cut", Stop(steps + 7))
    assert Run.load(tmp_path / "cut").status == "interrupted"
    with pytest.raises(BadSetting, match="nacre resume"):
        Experiment(two).run(tmp_path / "cut")
    again = Experiment(Config.load(tmp_path / "cut")).resume(tmp_path / "cut")
    assert same(again.repeatable(), Run.load(tmp_path / "whole").repeatable())
    assert same(newest(tmp_path / "cut", 1), newest(tmp_path / "whole", 1))
    assert len(list((tmp_path / "cut" / "checkpoints" / "seed-0").iterdir())) == 2
    with pytest.raises(Finished):
        Experiment(two).resume(tmp_path / "cut")


def test_an_unreadable_checkpoint_is_passed_over(whole: Path, tmp_path: Path, caplog):
    saved = sorted((whole / "checkpoints" / "seed-0").iterdir())
    folder = copied(whole, tmp_path / "broken", saved[20])
    broken = folder / "checkpoints" / "seed-0" / saved[21].name
    shutil.copytree(saved[21], broken)
    (broken / "tensors.safetensors").write_bytes(b"half")
    (folder / "checkpoints" / "seed-0" / (saved[22].name + ".new")).mkdir()
    resumed = Experiment(Config.load(folder)).resume(folder)
    assert "going back to the one before" in caplog.text
    assert same(resumed.repeatable(), Run.load(whole).repeatable())


def test_other_data_are_refused(whole: Path, world: Path, tmp_path: Path):
    folder = copied(whole, tmp_path / "moved", sorted((whole / "checkpoints" / "seed-0").iterdir())[20])
    np.savez(tmp_path / "other.npz", **{k: v if k[0] == "y" else 255 - v for k, v in pictures().items()})
    text = (folder / "config.toml").read_text().replace(str(world / "rows.npz"), str(tmp_path / "other.npz"))
    (folder / "config.toml").write_text(text)
    with pytest.raises(BadData, match="the data have changed"):
        Experiment(Config.load(folder)).resume(folder)
