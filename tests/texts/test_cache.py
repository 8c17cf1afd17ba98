"""Features of a frozen backbone are taken once, kept on disk, and never those of another backbone, tokenizer or preparation."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from nacre.backbones import HuggingFaceText, backbone
from nacre.cli.main import cli
from nacre.core.errors import BadUse
from nacre.core.rows import TensorRows
from nacre.data import Source
from nacre.experiment import Config, Experiment, cache, features
from nacre.experiment.trial import Trial, trial
from tests.end_to_end.small import pictures, same
from tests.texts import small
from tests.texts.test_runs import config

HEADS: list[Any] = [[{"methods": [name]}] for name in ("SimpleCIL", "RanPAC")]
HEAD_TRAINS: list[Any] = [{"methods": [{"name": "ER", "rows": 4}], "epochs": 3, "batch_size": 8}]


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts each forward pass of an encoder has read; and all features are worth keeping."""
    seen: list[int] = []
    whole = HuggingFaceText.forward

    def forward(self: HuggingFaceText, input_ids: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        seen.append(len(input_ids))
        return whole(self, input_ids, *args, **kwargs)

    monkeypatch.setattr(HuggingFaceText, "forward", forward)
    monkeypatch.setattr(features, "WORTH", 0.0)
    return seen


def taken(config: Config, **given: Any) -> tuple[Tensor, Trial]:
    """The features of all rows that a run would have, and what would run."""
    made = trial(config, 0, **given)
    assert made.features is not None
    made.features.take()
    return torch.cat([rows.x["features"] for rows in made.features.taken.values()]), made


def test_a_second_head_needs_no_pass_of_the_backbone(data: Path, encoder: Path, read: list[int], kept: Path):
    Experiment(config(data, encoder, stage=HEADS[0])).run()
    assert sum(read) == 48 + 24 + 1 and len(list(kept.iterdir())) == 2  # one text says how wide features are
    read.clear()
    warm = Experiment(config(data, encoder, stage=HEADS[1])).run()
    assert sum(read) == 1
    for path in kept.iterdir():
        path.unlink()
    assert same(warm.repeatable(), Experiment(config(data, encoder, stage=HEADS[1])).run().repeatable())


@pytest.mark.parametrize("stage", [*HEADS, HEAD_TRAINS], ids=["SimpleCIL", "RanPAC", "head"])
def test_features_change_nothing_but_the_time(stage: list[Any], data: Path, encoder: Path, read: list[int]):
    said = ["backbone.frozen=true"] if stage is HEAD_TRAINS else []
    one = Experiment(config(data, encoder, *said, stage=stage)).run()
    passes = sum(read)
    other = Experiment(config(data, encoder, *said, "backbone.cache=off", stage=stage)).run()
    assert passes == 73 and sum(read) > 2 * passes
    assert one.results[0].matrix == other.results[0].matrix
    for (_, mine), (_, theirs) in zip(curves(one), curves(other), strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=0)


def curves(run: Any) -> list[tuple[int, Tensor]]:
    return [(k, torch.tensor(curve["loss"])) for k, curve in enumerate(run.results[0].curves["loss"])]


def test_whatever_can_change_features_takes_none(data: Path, encoder: Path):
    moving: list[Any] = [
        [{"methods": []}],
        [{"methods": ["SimpleCIL"]}, {"methods": [], "when": "first"}],
        [{"methods": [{"name": "MIST", "width": 8, "batch": 16}], "when": "first"}, *HEADS[0]],
    ]
    assert all(trial(config(data, encoder, stage=stage), 0).features is None for stage in moving)
    assert trial(config(data, encoder, "backbone.frozen=true", stage=moving[0]), 0).features is not None
    shifted = Config.of({"backbone": {"source": "mlp:64-8", "augment": "shift"}, "stage": HEADS[0]})
    assert trial(shifted, 0).features is None


def vocabulary_swapped(folder: Path) -> None:
    told = json.loads((folder / "tokenizer.json").read_text())
    words = told["model"]["vocab"]
    words["red0"], words["word1"] = words["word1"], words["red0"]
    (folder / "tokenizer.json").write_text(json.dumps(told))


def weight_nudged(folder: Path) -> None:
    with safe_open(folder / "model.safetensors", "pt") as file:
        held = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no dict
    held["embeddings.word_embeddings.weight"][7, 3] += 0.5
    save_file(held, folder / "model.safetensors", {"format": "pt"})


def config_changed(folder: Path) -> None:
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**told, "hidden_act": "relu"}))


def text_changed(folder: Path) -> None:
    path = folder.parent / "data" / "train.csv"
    path.write_text(path.read_text().replace("red0", "word2", 1))


CHANGES: dict[str, Callable[[Path], None] | str] = {
    "weights": weight_nudged,
    "tokenizer": vocabulary_swapped,
    "structure": config_changed,
    "rows": text_changed,
    "maximum length": "backbone.max_length=6",
    "pooling": 'backbone.pool="cls"',
    "normalisation": "backbone.normalize=true",
    "layers": "backbone.layers=1",
    "random weights": "backbone.pretrained=false",
    "precision": 'run.precision="bf16"',
}


@pytest.fixture
def place(tmp_path: Path, data: Path) -> Path:
    """A folder with an encoder and data of its own, which may be changed."""
    small.tables(tmp_path / "data")
    return small.model(tmp_path / "encoder")


def served(place: Path, change: str) -> tuple[Tensor, Tensor, Tensor, bool]:
    """Features before a change, after it with those kept on disk at hand, and after it without; whether any were found."""
    before, _ = taken(config(place.parent / "data", place))
    made, said = CHANGES[change], []
    if callable(made):
        made(place)
    else:
        said = [made]
    held = set(cache.folder().iterdir())
    warm, _ = taken(config(place.parent / "data", place, *said))
    found = len(set(cache.folder().iterdir()) - held) < 2
    cache.clear()
    cold, _ = taken(config(place.parent / "data", place, *said))
    return before, warm, cold, found


@pytest.mark.parametrize("change", CHANGES)
def test_stale_features_are_never_served(change: str, place: Path, read: list[int]):
    before, warm, cold, found = served(place, change)
    assert torch.equal(warm, cold) and not torch.equal(before, cold)
    assert found == (change == "rows"), "only the part of the data that has not changed is found again"


@pytest.mark.parametrize(
    ("change", "forgotten"),
    [("weights", "weights"), ("pooling", "structure"), ("structure", "structure"), ("precision", "precision")],
)
def test_a_key_that_forgets_something_is_caught(
    change: str, forgotten: str, place: Path, read: list[int], monkeypatch: pytest.MonkeyPatch
):
    whole = features.Features._made_of.func  # type: ignore[attr-defined]
    less = property(lambda self: {key: value for key, value in whole(self).items() if key != forgotten})
    monkeypatch.setattr(features.Features, "_made_of", less)
    _, warm, cold, _ = served(place, change)
    assert not torch.equal(warm, cold)


@pytest.mark.parametrize("change", ["tokenizer", "maximum length", "rows"])
def test_a_key_without_the_rows_is_caught(change: str, place: Path, read: list[int], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(features, "_written", lambda rows: [len(rows)])
    _, warm, cold, _ = served(place, change)
    assert not torch.equal(warm, cold)


@pytest.mark.parametrize("said", ["mean", "size"])
def test_features_of_pictures_know_how_they_were_prepared(said: str, read: list[int], tmp_path: Path):
    from transformers import ViTConfig, ViTModel

    held = {name: torch.from_numpy(array) for name, array in pictures().items()}
    train, test = (TensorRows(held[f"x_{part}"], held[f"y_{part}"]) for part in ("train", "test"))
    source = Source("dots", train, test, tuple("abcdef"))
    tiny = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=8, patch_size=4,
        num_channels=1,
    )  # fmt: skip
    with torch.random.fork_rng():
        ViTModel(tiny, add_pooling_layer=False).save_pretrained(tmp_path / "vit")
    told = Config.of(
        {"backbone": {"source": str(tmp_path / "vit")}, "stage": HEADS[0], "data": {"source": "given in Python"}}
    )
    before, _ = taken(told, data=source)
    prepared = {"mean": {"image_mean": [0.3]}, "size": {"size": {"height": 16, "width": 16}}}[said]
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(prepared))
    warm, _ = taken(told, data=source)
    cache.clear()
    cold, _ = taken(told, data=source)
    assert torch.equal(warm, cold) and not torch.equal(before, cold)


def test_features_of_a_backbone_given_in_python_are_not_kept(data: Path, encoder: Path, read: list[int], kept: Path):
    body: Any = backbone(encoder)
    body.module.pool = "cls"  # its description still says the mean
    told = config(data, encoder, "backbone.source=given in Python")
    z, _ = taken(told, body=body)
    assert not kept.exists()
    mean, _ = taken(config(data, encoder))
    assert not torch.equal(z, mean) and torch.equal(taken(told, body=body)[0], z)


def test_a_backbone_that_moves_after_all_is_refused(data: Path, encoder: Path):
    _, made = taken(config(data, encoder))
    assert made.features is not None
    made.features.refuse_motion({"head.weight": {"moved": 0.5}, "body.net.a": {"moved": 0.0}})
    with pytest.raises(BadUse, match=r"1 tensors of the backbone moved, such as body\.net\.a"):
        made.features.refuse_motion({"body.net.a": {"moved": 0.1}})


def test_what_is_altered_or_cut_short_is_made_again(
    data: Path, encoder: Path, read: list[int], kept: Path, caplog: Any
):
    told = config(data, encoder)
    z, _ = taken(told)
    path, other = sorted(kept.iterdir())
    with safe_open(path, "pt") as file:
        held, about = file.get_tensor("features"), file.metadata()
    held[0, 0] += 1
    save_file({"features": held}, path, about)
    other.write_bytes(other.read_bytes()[:-5])
    assert torch.equal(taken(told)[0], z) and caplog.text.count("they are made again") == 2
    read.clear()
    assert torch.equal(taken(told)[0], z) and sum(read) == 1


def test_the_longest_unused_goes_first_where_there_is_too_much(kept: Path, monkeypatch: pytest.MonkeyPatch):
    keys = [cache.key_of({"n": n}) for n in range(4)]
    for n, key in enumerate(keys[:3]):
        cache.keep(key, torch.full((100, 10), float(n)), {"n": n})
        os.utime(kept / f"{key}.safetensors", (n, n))
    assert cache.find(keys[0]) is not None  # read last
    size = next(cache.entries()).bytes
    monkeypatch.setattr(cache, "MOST", 3 * size + 100)
    cache.keep(keys[3], torch.full((100, 10), 3.0), {"n": 3})
    assert [cache.find(key) is not None for key in keys] == [True, False, True, True]
    monkeypatch.setattr(cache, "MOST", 1000)
    cache.keep(keys[1], torch.zeros(100, 10), {})
    assert cache.find(keys[1]) is None, "what alone is too much is not written"


def test_files_of_others_and_unwritable_folders_do_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any
):
    monkeypatch.setenv("NACRE_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("")
    cache.keep(cache.key_of({}), torch.zeros(2, 2), {})
    assert "features are not kept" in caplog.text and cache.find(cache.key_of({})) is None and not list(cache.entries())
    monkeypatch.setenv("NACRE_CACHE", str(tmp_path))
    (tmp_path / "features").mkdir()
    (tmp_path / "features" / "notes.safetensors").write_text("mine")
    (tmp_path / "features" / "old.1.new").write_text("")
    os.utime(tmp_path / "features" / "old.1.new", (0, 0))
    assert cache.clear() == 0 and [p.name for p in (tmp_path / "features").iterdir()] == ["notes.safetensors"]


def test_the_command_shows_and_clears_what_is_kept(data: Path, encoder: Path, read: list[int], kept: Path):
    taken(config(data, encoder))
    shown = CliRunner().invoke(cli, ["cache"]).stdout
    assert data.name in shown and str(kept.name) in shown and "train" in shown and " 48 " in shown
    assert "deleted 2 files" in CliRunner().invoke(cli, ["cache", "--clear"]).stdout and not list(kept.iterdir())
