"""Text encoders give the features that transformers itself gives, whatever stands beside a text in its batch."""

from __future__ import annotations

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nacre.backbones import Body, Classifier, backbone, from_spec
from nacre.core.errors import BadData
from nacre.core.model import forward
from nacre.core.rows import Batch
from nacre.heads import GrowingLinear
from tests.texts import small

TEXTS = [text for text, _ in small.sentences(4, "encoder")] + ["red0", " ".join(["green1"] * 60)]


def features(body: Body, texts: list[str] = TEXTS) -> Tensor:
    with torch.no_grad():
        return body.module(**body.tokenizer(texts).padded(torch.arange(len(texts))))


def twin(folder: Path, pool: str, layers: int | None = None) -> Tensor:
    """The same by hand, one text at a time, so without padding."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    net = transformers.AutoModel.from_pretrained(folder).eval()
    rows = []
    for text in TEXTS:
        tokens = tokenizer([text], truncation=True, max_length=30, return_tensors="pt", padding=False)
        asked = {k: v for k, v in tokens.items() if k in ("input_ids", "attention_mask")}
        with torch.no_grad():
            out = net(**asked, output_hidden_states=True)
        hidden = out.last_hidden_state[0] if layers is None else out.hidden_states[layers][0]
        rows.append({"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[pool])
    return torch.stack(rows)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "gpt2"])
@pytest.mark.parametrize("pool", ["mean", "cls", "last"])
def test_features_are_those_of_a_plain_twin(kind, pool, tmp_path_factory):
    folder = tmp_path_factory.getbasetemp() / f"kind-{kind}"
    if not folder.exists():
        small.model(folder, kind)
    body = backbone(folder, pool=pool)
    assert body.width == 16 and body.pixels is None and not body.module.training
    torch.testing.assert_close(features(body), twin(folder, pool), atol=2e-6, rtol=0)
    scaled = backbone(folder, pool=pool, normalize=True)
    torch.testing.assert_close(features(scaled), F.normalize(twin(folder, pool), dim=1), atol=2e-6, rtol=0)


def test_tokens_are_those_of_the_tokenizer_itself(encoder: Path):
    import transformers

    own = transformers.AutoTokenizer.from_pretrained(encoder)
    for length in (None, 5, 12):
        made = backbone(encoder, max_length=length).tokenizer
        rows = made(TEXTS)
        begins = [0, *rows.ends.tolist()]
        mine = [rows.fields["input_ids"][a:b].tolist() for a, b in pairwise(begins)]
        assert mine == own(TEXTS, truncation=True, max_length=length or 30, padding=False)["input_ids"]
        assert made.max_length == (length or 30) and list(rows.fields) == ["input_ids"]


def test_what_stands_behind_a_text_is_never_read(encoder: Path):
    body = backbone(encoder)
    x = body.tokenizer(TEXTS[:3]).padded(torch.arange(3))
    wide = {k: F.pad(v, (0, 7)) for k, v in x.items()}
    wide["input_ids"][~wide["attention_mask"]] = 9
    with torch.no_grad():
        assert torch.equal(body.module(**wide), body.module(**x)), "what no text reaches is left out"
        longs = {k: v.long() for k, v in x.items()}
        assert torch.equal(body.module(**longs), body.module(**x))


def test_the_first_layers_of_a_model(encoder: Path):
    whole, body = backbone(encoder), backbone(encoder, layers=1)
    torch.testing.assert_close(features(body), twin(encoder, "mean", layers=1), atol=2e-6, rtol=0)
    assert sum(p.numel() for p in body.module.parameters()) < sum(p.numel() for p in whole.module.parameters())
    assert len(from_spec(body.spec).module.net.encoder.layer) == 1


def test_the_first_layers_of_a_vision_model():
    body = backbone("glyph-vit", layers=2)
    whole = backbone("glyph-vit").module.net
    x = torch.rand(2, 1, 32, 32)
    with torch.no_grad():
        seen = whole(pixel_values=x, output_hidden_states=True).hidden_states[2]
        torch.testing.assert_close(body.module(x), whole.layernorm(seen)[:, 0], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("pooling", "normalize", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, True, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, False, "mean"),
        ({"pooling_mode_mean_tokens": False, "pooling_mode_lasttoken": True}, True, "last"),
        ({"pooling_mode": "cls"}, False, "cls"),
        ({}, True, "mean"),
    ],
)
def test_files_of_sentence_transformers_decide_what_nobody_says(pooling, normalize, expected, tmp_path: Path):
    folder = small.model(tmp_path, sentence={"pooling": pooling, "normalize": normalize, "max_seq_length": 9})
    body = backbone(folder)
    assert (body.module.pool, body.module.normalize, body.tokenizer.max_length) == (expected, normalize, 9)
    said = backbone(folder, pool="mean", normalize=not normalize, max_length=12)
    assert (said.module.pool, said.module.normalize, said.tokenizer.max_length) == ("mean", not normalize, 12)


def test_parts_that_are_not_made_here_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    folder = small.model(tmp_path, sentence={"pooling": {}, "normalize": False, "max_seq_length": None})
    parts = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(
        json.dumps([*parts, {"type": "sentence_transformers.models.Dense", "path": "2"}])
    )
    assert backbone(folder).tokenizer.max_length == 30
    assert "also has Dense, which is left out" in caplog.text


def test_a_spec_makes_structure_and_tokenizer_again_without_the_folder(tmp_path: Path):
    folder = small.model(tmp_path / "model")
    body = backbone(folder, pool="cls", normalize=True, max_length=11, layers=1)
    expected = features(body)
    shutil.rmtree(folder)
    back = from_spec(json.loads(json.dumps(body.spec)))
    back.module.load_state_dict(body.module.state_dict())
    assert torch.equal(features(back), expected) and back.spec == body.spec and back.width == body.width
    with pytest.raises(BadData, match=r"describes a model of .* weights, and there are 10"):
        from_spec(body.spec, most=10)


def test_a_drawn_model_is_a_function_of_the_seed(encoder: Path):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, same, other = (features(backbone(encoder, pretrained=False, seed=s)) for s in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other) and torch.equal(torch.get_rng_state(), before)


def test_a_classifier_reads_tokens_or_features_taken_before(encoder: Path):
    body = backbone(encoder)
    model = Classifier(body, GrowingLinear(16, 4)).eval()
    rows = body.tokenizer(TEXTS[:5])
    batch = Batch(rows.padded(torch.arange(5)), torch.zeros(5, dtype=torch.long))
    with torch.no_grad():
        out = forward(model, batch)
        taken = forward(model, Batch({"features": out.features}, batch.y))
    assert out.features.shape == (5, 16) and torch.equal(out.logits, taken.logits)


def test_kinds_of_tokens_are_kept_only_where_they_say_something(tmp_path: Path):
    from tokenizers import processors

    folder = small.model(tmp_path)
    told: dict[str, Any] = json.loads((folder / "tokenizer.json").read_text())
    assert list(backbone(folder).tokenizer(["red0"]).fields) == ["input_ids"]
    made = small.tokenizer().backend_tokenizer
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    told["post_processor"] = json.loads(made.to_str())["post_processor"]
    (folder / "tokenizer.json").write_text(json.dumps(told))
    body = backbone(folder)
    x = body.tokenizer(["red0 word1", "blue2"]).padded(torch.arange(2))
    assert x["token_type_ids"].tolist() == [[0, 1, 1, 1], [0, 1, 1, 0]]
    plain = {k: v for k, v in x.items() if k != "token_type_ids"}
    with torch.no_grad():
        assert not torch.allclose(body.module(**x), body.module(**plain))
