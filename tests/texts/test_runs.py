"""From a table of texts to predictions: configs, runs that go on bit for bit, exports that need no folder of the encoder."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import nacre
from nacre.cli.main import cli
from nacre.core.errors import BadData
from nacre.core.run import Run
from nacre.experiment import Config, Experiment, load
from nacre.experiment.trial import trial
from tests.end_to_end.small import newest, same
from tests.texts import small

RIDGE: list[Any] = [{"methods": [{"name": "RanPAC", "width": 60}]}]
TRAINED: list[Any] = [
    {
        "methods": [{"name": "EWC", "rows": 10}, {"name": "ER", "rows": 4}],
        "optimizer": {"name": "adamw", "lr": 3e-3},
        "epochs": 2,
        "batch_size": 6,
        "accumulate": 2,
        "clip": 1.0,
    }
]


def config(data: Path, encoder: Path, *changes: str, stage: list[Any] = RIDGE) -> Config:
    tables = {
        "data": {"source": str(data)},
        "stream": {"tasks": 2},
        "backbone": {"source": str(encoder)},
        "stage": stage,
    }
    return Config.of(tables, changes)


def test_texts_are_learned_from_a_config(data: Path, encoder: Path, tmp_path: Path):
    run = Experiment(config(data, encoder)).run(tmp_path / "run")
    assert run.figure("last")[0] > 0.45 and run.results[0].data["features"]
    stage = [{"methods": ["joint"], "epochs": 25, "batch_size": 8, "optimizer": {"name": "adamw", "lr": 3e-3}}]
    trained = Experiment(config(data, encoder, stage=stage)).run()
    assert trained.figure("last")[0] > 0.8 and "features" not in trained.results[0].data
    moved = trained.results[0].motion["task0"]["tensors"]
    assert moved["body.net.embeddings.word_embeddings.weight"]["moved"] > 0


def written(folder: Path, form: str) -> Path:
    """The sentences of `tables`, in another form."""
    parts = {part: small.sentences(rows, part) for part, rows in (("train", 12), ("test", 6))}
    if form == "one object":
        (folder / "all.json").write_text(json.dumps(parts))
        return folder / "all.json"
    for part, rows in parts.items():
        told = [{"utterance": text, "intent": name, "id": k} for k, (text, name) in enumerate(rows)]
        if form == "jsonl":
            (folder / f"{part}.jsonl").write_text("\n".join(map(json.dumps, told)))
        elif form == "parquet":
            table = pytest.importorskip("pyarrow")
            pytest.importorskip("pyarrow.parquet").write_table(
                table.Table.from_pylist(told), folder / f"{part}.parquet"
            )
        else:
            with (folder / f"{part}.tsv").open("w", newline="") as file:
                csv.writer(file, delimiter="\t").writerows([("y", "words"), *((name, text) for text, name in rows)])
    return folder


@pytest.mark.parametrize("form", ["one object", "jsonl", "parquet", "tsv"])
def test_however_texts_are_written_the_run_is_the_same(form: str, data: Path, encoder: Path, tmp_path: Path):
    source = written(tmp_path, form)
    said = ["data.text=words"] if form == "tsv" else []
    made = trial(config(source, encoder, *said), 0)
    known = trial(config(data, encoder), 0)
    assert made.source.sha256 == known.source.sha256 and made.read_as == known.read_as
    assert made.source.classes == known.source.classes == tuple(sorted(small.CLASSES))


def test_what_is_said_of_the_encoder_reaches_it(data: Path, encoder: Path):
    said = ['backbone.pool="last"', "backbone.max_length=7", "backbone.layers=1", "backbone.normalize=true"]
    made = trial(config(data, encoder, *said), 0)
    body: Any = made.body
    assert (body.module.pool, body.tokenizer.max_length, body.module.normalize) == ("last", 7, True)
    assert len(body.module.net.encoder.layer) == 1 and int(made.source.train.lengths.max()) == 7


def test_rows_are_cut_into_tokens_once(data: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch):
    called: list[int] = []
    whole = nacre.backbones.Tokenizer.__call__
    monkeypatch.setattr(
        nacre.backbones.Tokenizer, "__call__", lambda self, texts: called.append(len(texts)) or whole(self, texts)
    )
    Experiment(config(data, encoder, stage=TRAINED)).run()
    assert called == [48, 24]


class Padded(nacre.Method):
    """Counts the places that are read in training, and those that hold tokens."""

    read = held = 0

    def shape_batch(self, batch: Any) -> Any:
        mask = batch.x["attention_mask"]
        Padded.read, Padded.held = Padded.read + mask.numel(), Padded.held + int(mask.sum())
        return batch


def test_training_reads_little_padding(data: Path, encoder: Path):
    stage = [{"methods": [f"{__name__}:Padded"], "batch_size": 4, "optimizer": "sgd", "epochs": 4}]
    Padded.read = Padded.held = 0
    Experiment(config(data, encoder, "stream.tasks=1", stage=stage)).run()
    assert Padded.held < Padded.read < 1.15 * Padded.held


@pytest.fixture(scope="module")
def whole(data: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that trained on texts and never stopped, every checkpoint kept."""
    place = tmp_path_factory.mktemp("texts")
    shutil.copytree(encoder, place / "encoder")
    told = ["run.save_every=1", "run.keep=1000", "watch.every=4", "watch.rows=6"]
    Experiment(config(data, place / "encoder", *told, stage=TRAINED)).run(place / "run")
    return place / "run"


def copied(whole: Path, to: Path, upto: Path) -> Path:
    """The folder as it was when a checkpoint had just been written."""
    shutil.copytree(whole, to, ignore=shutil.ignore_patterns("checkpoints", "export", "run.json"))
    shutil.copytree(upto, to / "checkpoints" / "seed-0" / upto.name)
    return to


def test_resumed_anywhere_it_ends_bit_for_bit_the_same(whole: Path, tmp_path: Path):
    saved = sorted((whole / "checkpoints" / "seed-0").iterdir())
    texts = [text for text, _ in small.sentences(2, "new")]
    assert len(saved) > 16
    for checkpoint in saved[1::3]:
        torch.manual_seed(999)
        folder = copied(whole, tmp_path / checkpoint.name, checkpoint)
        Experiment(Config.load(folder)).resume(folder)
        assert same(Run.load(folder).repeatable(), Run.load(whole).repeatable()), checkpoint.name
        assert same(newest(folder), newest(whole)), checkpoint.name
        assert torch.equal(load(folder).scores(texts), load(whole).scores(texts)), checkpoint.name


def test_another_tokenizer_is_noticed_on_resuming(whole: Path, tmp_path: Path):
    folder = copied(whole, tmp_path / "run", sorted((whole / "checkpoints" / "seed-0").iterdir())[4])
    encoder = shutil.copytree(whole.parent / "encoder", tmp_path / "encoder")
    at = folder / "config.toml"
    at.write_text(at.read_text().replace(str(whole.parent / "encoder"), str(encoder)))
    told = json.loads((encoder / "tokenizer.json").read_text())
    words = told["model"]["vocab"]
    words["red0"], words["blue0"] = words["blue0"], words["red0"]
    (encoder / "tokenizer.json").write_text(json.dumps(told))
    with pytest.raises(BadData, match="prepares rows otherwise than when this run began"):
        Experiment(Config.load(folder)).resume(folder)
    shutil.copy(whole.parent / "encoder" / "tokenizer.json", encoder / "tokenizer.json")
    Experiment(Config.load(folder)).resume(folder)


@pytest.fixture(scope="module")
def learned(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose encoder's folder is gone."""
    place = tmp_path_factory.mktemp("learned")
    encoder = small.model(place / "encoder")
    Experiment(config(data, encoder)).run(place / "run")
    shutil.rmtree(encoder)
    return place / "run"


def test_an_export_answers_as_the_run_did_without_the_encoder(learned: Path, data: Path):
    model = load(learned)
    rows = small.sentences(6, "test")
    found = model.predict([text for text, _ in rows])
    right = sum(name == label for name, (_, label) in zip(found, rows, strict=True)) / len(rows)
    assert right == pytest.approx(Run.load(learned).results[0].summary["union"])
    assert model.reads_texts and model.predict(rows[0][0]) == [found[0]] and model.predict([]) == []
    alone = torch.cat([model.scores(text) for text, _ in rows])
    torch.testing.assert_close(alone, model.scores([text for text, _ in rows]), atol=1e-4, rtol=0)
    for wrong in (5, [5], torch.zeros(2, 3), [["red0"]]):
        with pytest.raises(BadData, match="this model reads texts: give a text or a list of texts"):
            model.predict(wrong)


def call(*words: object) -> str:
    done = CliRunner().invoke(cli, ["predict", *(str(w) for w in words)], catch_exceptions=False)
    assert done.exit_code == 0, done.stderr
    return done.stdout


def test_texts_in_files_are_predicted(learned: Path, data: Path, tmp_path: Path):
    texts = [text for text, _ in small.sentences(1, "new")]
    expected = load(learned).predict(texts)
    (tmp_path / "a.txt").write_text("\n".join([texts[0], "", *texts[1:]]) + "\n")
    assert [line.split(": ")[1] for line in call(learned, tmp_path / "a.txt").splitlines()] == expected
    odd = "\r\n".join(["", texts[0], "", f"{texts[1]}\u2028{texts[2]}\f{texts[3]}", "\x85"])
    (tmp_path / "b.txt").write_bytes(odd.encode())
    assert [json.loads(line)["row"] for line in call(learned, tmp_path / "b.txt", "--json").splitlines()] == [1, 3]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"id": k, "words": text}) for k, text in enumerate(texts)))
    found = [json.loads(line) for line in call(learned, tmp_path / "a.jsonl", "--json", "--top", 2).splitlines()]
    assert len(found) == 4 and expected[0] in str(found[0])
    assert call(learned, tmp_path / "a.jsonl", "--text", "words").count("\n") == 4
    assert call(learned, data / "test.csv").count("\n") == 24
