"""An exported run is a folder of the hub's own form, loads here and there with the same bits, and its card does not lie."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import nacre
from nacre.cli.main import cli
from nacre.core.errors import BadCheckpoint
from nacre.core.run import Run, percent
from nacre.experiment import Config, Experiment
from tests.end_to_end.small import config as digits
from tests.end_to_end.small import pictures
from tests.texts import small

ADAPTED = [
    {"methods": [{"name": "TaskAdapters", "rank": 2}], "optimizer": {"name": "adamw", "lr": 0.01}, "batch_size": 12}
]
SHARED = [
    {"methods": [{"name": "TaskAdapters", "kind": "ia3", "per": "all"}], "optimizer": {"name": "adamw"}},
    {"methods": ["SimpleCIL"]},
]
TUNED = [{"methods": [], "optimizer": {"name": "adamw", "lr": 3e-3}, "batch_size": 12}]
TEXTS = ["red1 word2 red3", "blue1 word4", "grey2 grey1 word1 word2 word7"]


def exported(run: Path, out: Path, *words: str) -> str:
    done = CliRunner().invoke(cli, ["export", str(run), str(out), *words])
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.tables(tmp_path_factory.mktemp("data"))


def finished(data: Path, encoder: Path, out: Path, stage: list[Any], *changes: str) -> Path:
    tables = {
        "data": {"source": str(data)},
        "stream": {"tasks": 2},
        "backbone": {"source": str(encoder)},
        "stage": stage,
    }
    Experiment(Config.of(tables, changes)).run(out / "run")
    return out / "run"


@pytest.mark.parametrize("stage", [ADAPTED, SHARED, TUNED], ids=["per task", "shared", "tuned"])
def test_a_text_encoder_is_loaded_by_auto_classes_and_here(stage: list[Any], data: Path, encoder: Path, tmp_path: Path):
    from transformers import AutoModel, AutoTokenizer

    run, out = finished(data, encoder, tmp_path, stage), tmp_path / "out"
    told = exported(run, out)
    model, again = nacre.load(run), nacre.load(out)
    assert torch.equal(model.scores(TEXTS), again.scores(TEXTS)) and again.classes == model.classes
    body: Any = nacre.backbone(out)
    net, tokenizer = AutoModel.from_pretrained(out).eval(), AutoTokenizer.from_pretrained(out)
    assert tokenizer.pad_token == "[PAD]" and tokenizer.model_max_length == body.tokenizer.max_length
    batch = tokenizer(TEXTS, padding=True, truncation=True, return_tensors="pt")
    ours = body.tokenizer(TEXTS)
    assert [len(t) for t in tokenizer(TEXTS)["input_ids"]] == ours.ends.diff(prepend=torch.tensor([0])).tolist()
    with torch.no_grad():
        theirs = net(**batch).last_hidden_state
        features = body.module(batch["input_ids"], batch["attention_mask"])
        plain = nacre.adapters.merged(model.model)
        hidden = plain.get_submodule("body.net")(**batch).last_hidden_state
        pooled = plain.get_submodule("body")(batch["input_ids"], batch["attention_mask"])
    assert torch.equal(theirs, hidden) and torch.equal(features, pooled)
    adapters = sorted(p.parent.name for p in out.glob("*/adapter_config.json"))
    assert adapters == {"per task": ["task0", "task1"], "shared": ["shared"], "tuned": []}[_name(stage)]
    if adapters:
        from peft import PeftModel

        with torch.no_grad(), nacre.adapters.answering_with(model.model, adapters[-1]):
            wanted: Any = model.model.body.net(**batch).last_hidden_state
            assert torch.equal(
                PeftModel.from_pretrained(net, out / adapters[-1]).eval()(**batch).last_hidden_state, wanted
            )
        assert "PEFT loads its adapters" in told
    there = sum(p.stat().st_size for p in out.rglob("*.safetensors"))
    assert there < 1.5 * (out / "model.safetensors").stat().st_size  # weights are written once


def _name(stage: list[Any]) -> str:
    return "tuned" if stage is TUNED else "shared" if stage is SHARED else "per task"


def test_a_vision_model_is_loaded_with_how_it_prepares_pictures(tmp_path: Path):
    from transformers import AutoModel

    np.savez(tmp_path / "data.npz", **pictures(40))
    made = digits(
        f"data.source={tmp_path / 'data.npz'}",
        "backbone.source=glyph-vit",
        "stream.tasks=2",
        stage=[{"methods": ["ranpac"]}],
    )
    Experiment(made).run(tmp_path / "run")
    exported(tmp_path / "run", tmp_path / "out")
    x = pictures(12)["x_test"]
    model, again = nacre.load(tmp_path / "run"), nacre.load(tmp_path / "out")
    assert torch.equal(model.scores(x), again.scores(x))
    body, first = nacre.backbone(tmp_path / "out"), nacre.backbone("glyph-vit")
    assert body.pixels is not None and first.pixels is not None and body.pixels.settings == first.pixels.settings
    inputs = body.pixels(torch.from_numpy(x))
    with torch.no_grad():
        assert torch.equal(body.module(inputs), first.module(inputs))
        assert torch.equal(
            AutoModel.from_pretrained(tmp_path / "out").eval()(inputs).last_hidden_state[:, 0], body.module(inputs)
        )


def test_the_card_says_what_the_record_says(data: Path, encoder: Path, tmp_path: Path):
    from huggingface_hub import ModelCard

    run = finished(data, encoder, tmp_path, ADAPTED, "run.seeds=[3, 4]", "run.name=two | lines")
    exported(run, tmp_path / "out", "--seed", "4")
    record, text = Run.load(run), (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    front = ModelCard(text).data.to_dict()
    assert front["library_name"] == "transformers" and {"nacre", "continual-learning", "TaskAdapters", "peft"} <= {
        *front["tags"]
    }
    assert "base_model" not in front and "datasets" not in front  # a folder is nobody's id
    result = record.results[4]
    shown = [[c.strip() for c in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| task")]
    matrix = [row[1:] for row in shown if len(row) == 1 + len(result.tests) and row[0] in result.moments][
        : len(result.moments)
    ]
    assert matrix == [[percent(v) for v in row] for row in result.matrix]
    figures = dict(re.findall(r"^\| (\w+) \| ([^|]+) \|", text.partition("## Figures")[2].partition("##")[0], re.M))
    assert figures["last"].strip() == percent(*record.figure("last")) and "±" in figures["last"]
    assert f"| task1 | {100 * result.motion['task1']['total']['moved']:.2f} |" in text
    assert "TaskAdapters (inspired)" in text and "is not the published method as a whole" in text and "rank = 2" in text
    for name in nacre.load(tmp_path / "out").classes:
        assert f"`{name}`" in text


def test_what_is_no_finished_model_is_refused(data: Path, encoder: Path, tmp_path: Path):
    run = finished(data, encoder, tmp_path, [{"methods": ["simplecil"]}])
    exported(run, tmp_path / "out")
    told = CliRunner().invoke(cli, ["export", str(run), str(tmp_path / "out")])
    assert told.exit_code == 2 and "is there and not empty" in told.stderr
    path = tmp_path / "out" / "model.safetensors"
    held = path.read_bytes()
    path.write_bytes(held[:-1] + bytes([held[-1] ^ 1]))
    with pytest.raises(BadCheckpoint, match="is not the file that this model was exported with"):
        nacre.load(tmp_path / "out")


def test_a_backbone_without_auto_model_has_a_card_too(tmp_path: Path):
    Experiment(digits("stream.tasks=2", stage=[{"methods": ["simplecil"]}])).run(tmp_path / "run")
    exported(tmp_path / "run", tmp_path / "out")
    x = np.random.default_rng(0).random((5, 1, 8, 8), np.float32)
    assert torch.equal(nacre.load(tmp_path / "run").scores(x), nacre.load(tmp_path / "out").scores(x))
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert text.startswith('---\nlibrary_name: "nacre"') and "AutoModel" not in text
