"""Hugging Face vision models: from folders, without the hub, in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nacre.backbones import Classifier, HuggingFace, backbone, from_spec
from nacre.backbones.choice import SHIPPED
from nacre.core.errors import BadData, BadSetting

Folder = Callable[[str], Path]
KINDS = ["vit", "deit", "dinov2", "resnet", "convnext", "swin"]
X = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_those_of_the_model(kind: str, folder: Folder, capfd: pytest.CaptureFixture[str]) -> None:
    import transformers

    where, state = folder(kind), torch.get_rng_state()
    capfd.readouterr()
    body = backbone(str(where))
    said = capfd.readouterr()
    assert not said.out and not said.err and torch.equal(state, torch.get_rng_state())
    assert body.width == 16 and body.pixels.size == (32, 32) and not body.module.training
    assert body.pixels.settings["mean"] == [0.4, 0.5, 0.6]
    seen = body.pixels(X)
    features = body.module(seen)
    transformers.utils.logging.disable_progress_bar()
    net = transformers.AutoModel.from_pretrained(where).eval()
    hidden = net(pixel_values=seen).last_hidden_state
    want = {"resnet": lambda: net(pixel_values=seen).pooler_output.flatten(1), "swin": lambda: hidden.mean(1)}
    want["convnext"] = want["resnet"]
    torch.testing.assert_close(features, want.get(kind, lambda: hidden[:, 0])())


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_is_read_and_trained(kind: str, folder: Folder) -> None:
    body = backbone(folder(kind))
    model = Classifier(body, nn.Linear(body.width, 4))
    model(X).logits.square().sum().backward()
    idle = [n for n, p in model.named_parameters() if p.grad is None]
    assert idle == (["body.net.embeddings.mask_token"] if kind == "dinov2" else [])
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_a_spec_rebuilds_the_structure_without_the_folder(kind: str, folder: Folder, tmp_path: Path) -> None:
    gone = tmp_path / "model"
    shutil.copytree(folder(kind), gone)
    body = backbone(gone)
    shutil.rmtree(gone)
    back = from_spec(json.loads(json.dumps(body.spec)))
    assert [*back.module.state_dict()] == [*body.module.state_dict()]
    back.module.load_state_dict(body.module.state_dict())
    assert torch.equal(back.module(back.pixels(X)), body.module(body.pixels(X)))
    assert back.spec == body.spec


@pytest.mark.parametrize("kind", KINDS)
def test_another_size_is_read(kind: str, folder: Folder) -> None:
    body = backbone(folder(kind), size=48)
    assert body.pixels(X).shape[-2:] == (48, 48)
    assert torch.isfinite(body.module(body.pixels(X))).all()
    back = from_spec(body.spec)
    back.module.load_state_dict(body.module.state_dict())
    assert torch.equal(back.module(back.pixels(X)), body.module(body.pixels(X)))


def test_random_weights_come_from_the_seed_alone(folder: Folder) -> None:
    state = torch.get_rng_state()
    one, same, other = (backbone(folder("vit"), pretrained=False, seed=s) for s in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    weights = [nn.utils.parameters_to_vector(b.module.parameters()) for b in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    grey = backbone(folder("vit"), pretrained=False, channels=1, size=16)
    assert grey.pixels(X).shape == (3, 1, 16, 16) and grey.module(grey.pixels(X)).shape == (3, 16)


def told(where: Path, target: Path, **changes: Any) -> Path:
    """A copy of a model folder with another preprocessor_config.json."""
    shutil.copytree(where, target)
    (target / "preprocessor_config.json").write_text(json.dumps(changes), encoding="utf-8")
    return target


def test_preprocessing_is_read_in_its_many_forms(folder: Folder, tmp_path: Path) -> None:
    forms = [
        ({"size": 40, "do_normalize": False}, (40, 40), None),
        (
            {"size": {"shortest_edge": 48}, "crop_size": {"height": 40, "width": 24}, "do_center_crop": True},
            (40, 24),
            0.5,
        ),
        ({"size": {"shortest_edge": 48}, "crop_size": 40, "do_center_crop": False}, (48, 48), 0.5),
        ({"image_mean": 0.25, "image_std": [0.5]}, (32, 32), 0.25),
        ({}, (32, 32), 0.5),
    ]
    for k, (changes, size, mean) in enumerate(forms):
        pixels = backbone(told(folder("vit"), tmp_path / str(k), **changes)).pixels
        assert pixels.size == size and pixels.settings["mean"] == (None if mean is None else [mean] * 3)
    for k, (scale, want) in enumerate([(1 / 127.5, X / 127.5), (1 / 255, X / 255)]):
        made = told(folder("vit"), tmp_path / f"r{k}", rescale_factor=scale, image_mean=[1.0] * 3, image_std=[0.5] * 3)
        pixels = backbone(made, size=28).pixels
        torch.testing.assert_close(pixels(X), ((want - 1) / 0.5).repeat(1, 3, 1, 1))


def test_half_weights_become_fp32(folder: Folder, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    where = tmp_path / "half"
    shutil.copytree(folder("vit"), where)
    weights = load_file(where / "model.safetensors")
    save_file({k: v.half() for k, v in weights.items()}, where / "model.safetensors", metadata={"format": "pt"})
    body = backbone(where)
    assert {p.dtype for p in body.module.parameters()} == {torch.float32}
    torch.testing.assert_close(
        body.module.state_dict()["net.embeddings.cls_token"], weights["embeddings.cls_token"].half().float()
    )


def test_folders_that_are_no_model_are_refused(folder: Folder, tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"a folder, but no Hugging Face model: it has no config.json"):
        backbone(tmp_path)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(BadData, match="is a file: give the folder"):
        backbone(file)
    pickled = tmp_path / "pickled"
    shutil.copytree(folder("vit"), pickled)
    (pickled / "model.safetensors").rename(pickled / "pytorch_model.bin")
    with pytest.raises(BadData, match=r"no model.safetensors .only pytorch_model.bin.: pickled weights are not read"):
        backbone(pickled)
    assert backbone(pickled, pretrained=False).width == 16
    cut = tmp_path / "cut"
    shutil.copytree(folder("vit"), cut)
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:500])
    with pytest.raises(BadData, match=r"describes a model of 7,856 weights, and its files have 500 bytes"):
        backbone(cut)


def test_weights_of_another_model_are_refused(folder: Folder, tmp_path: Path) -> None:
    where = tmp_path / "mixed"
    shutil.copytree(folder("vit"), where)
    config = json.loads((where / "config.json").read_text())
    (where / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3}))
    with pytest.raises(BadData, match=r"lack 16 of the model's tensors or have .*, such as .*pretrained=False takes"):
        backbone(where)
    (where / "config.json").write_text(json.dumps({**config, "hidden_size": 24, "num_attention_heads": 2}))
    with pytest.raises(BadData, match="weights"):
        backbone(where)


def test_models_of_both_and_unknown_kinds_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(BadSetting, match=r"is a CLIP model, which reads input_ids, pixel_values.*give a vision model"):
        backbone(tmp_path)
    path.write_text(json.dumps({"model_type": "newest", "auto_map": {"AutoConfig": "code.Own"}}))
    with pytest.raises(BadData, match="code of others is not run"):
        backbone(tmp_path)
    path.write_text("{")
    with pytest.raises(BadData):
        backbone(tmp_path)


def test_settings_that_do_not_fit_are_refused(folder: Folder) -> None:
    with pytest.raises(BadSetting, match="trained with 3 channels, not 1: leave channels out"):
        backbone(folder("vit"), channels=1)
    with pytest.raises(BadSetting, match="does not answer to pictures of 4x4"):
        backbone(folder("vit"), size=4)


def test_a_hub_name_that_cannot_be_fetched_says_what_to_do() -> None:
    with pytest.raises(BadData, match=r"'nobody/nothing' is no folder here, and could not be fetched.*hf download"):
        backbone("nobody/nothing")


def test_pooling_may_be_chosen(folder: Folder) -> None:
    net = backbone(folder("vit")).module.get_submodule("net")
    seen = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(HuggingFace(net, "mean")(seen), net(pixel_values=seen).last_hidden_state.mean(1))


@pytest.mark.skipif(not (SHIPPED["glyph-vit"] / "model.safetensors").is_file(), reason="glyph-vit is not trained yet")
def test_the_shipped_backbone() -> None:
    body = backbone("glyph-vit")
    assert body.width == 128 and body.pixels.size == (32, 32) and body.spec["source"] == "glyph-vit"
    assert {p.dtype for p in body.module.parameters()} == {torch.float32}
    torch.testing.assert_close(backbone("glyph-vit", size=28).pixels(X), (X / 255 - 0.5) / 0.3125)
    fresh = backbone("glyph-vit", pretrained=False, seed=3)
    assert [*fresh.module.state_dict()] == [*body.module.state_dict()]
    assert not torch.equal(*(nn.utils.parameters_to_vector(b.module.parameters()) for b in (body, fresh)))


@pytest.mark.parametrize(
    "text",
    ["{", "[]", '{"image_mean": "x"}', '{"size": "big"}', '{"rescale_factor": null}', '{"size": {"width": "a"}}'],
)
def test_broken_preprocessing_is_named(folder: Folder, tmp_path: Path, text: str) -> None:
    place = shutil.copytree(folder("vit"), tmp_path / "vit")
    (place / "preprocessor_config.json").write_text(text)
    with pytest.raises(BadData, match=r"preprocessor_config\.json does not say how pictures are prepared"):
        backbone(place)
