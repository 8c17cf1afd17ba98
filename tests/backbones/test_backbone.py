"""Which backbone a name means, and the plain ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nacre.backbones import BACKBONES, MLP, ConvNet, Tapped, backbone, from_spec
from nacre.core.errors import BadData, BadSetting, UnknownName


@pytest.mark.parametrize("name", ["mlp:16-8", "mlp:16-12-8-4", "convnet", "convnet:4-8"])
def test_the_seed_draws_the_weights_and_nothing_else(name: str) -> None:
    state = torch.get_rng_state()
    one, same, other = backbone(name, seed=1), backbone(name, seed=1), backbone(name, seed=2)
    assert torch.equal(state, torch.get_rng_state())
    weights = [nn.utils.parameters_to_vector(b.module.parameters()) for b in (one, same, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    back = from_spec(json.loads(json.dumps(one.spec)), seed=1)
    back.module.load_state_dict(one.module.state_dict())
    x = torch.rand(3, 1, 4, 4)
    back.module.eval(), one.module.eval()
    assert torch.equal(back.module(back.pixels(x)), one.module(one.pixels(x)))
    assert back.width == one.width and back.spec == one.spec


def test_mlp_is_linear_layers_with_relu() -> None:
    body = backbone("mlp:6-5-4").module
    assert isinstance(body, MLP)
    x = torch.rand(2, 1, 2, 3)
    first, second = body.layers[0], body.layers[2]
    torch.testing.assert_close(body(x), second(first(x.flatten(1)).relu()).relu())
    with pytest.raises(BadData, match="reads 6 numbers a row, the rows have 8: write mlp:8-"):
        body(torch.zeros(2, 8))


@pytest.mark.parametrize("side", [1, 3, 8, 28])
def test_convnet_reads_any_size(side: int) -> None:
    body = backbone("convnet", channels=1)
    assert body.module(torch.zeros(2, 1, side, side)).shape == (2, body.width) == (2, 128)
    with pytest.raises(BadData, match=r"reads pictures \(rows, 1, height, width\), not \(2, 3, 4, 4\)"):
        body.module(torch.zeros(2, 3, 4, 4))


def test_channels_and_size_reach_the_pixels() -> None:
    grey = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert backbone("convnet:4").pixels(grey).shape == (2, 3, 8, 8)
    assert backbone("convnet:4", channels=1, size=5).pixels(grey).shape == (2, 1, 5, 5)
    assert backbone("mlp:48-4", channels=3, size=(4, 4)).pixels(grey).shape == (2, 3, 4, 4)


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("glyf-vit", UnknownName, "unknown backbone 'glyf-vit': did you mean 'glyph-vit'"),
        ("convnt", UnknownName, "did you mean 'convnet'"),
        ("mlp", BadSetting, "'mlp' does not say the widths.*mlp:784-400-400"),
        ("mlp:784", BadSetting, "does not say the widths"),
        ("mlp:a-b", BadSetting, "does not say the widths"),
        ("mlp:0-4", BadSetting, "an mlp needs the width of its input"),
        ("convnet:wide", BadSetting, "write convnet:32-64-128"),
        ("./gone", BadData, "no folder './gone' .looked for"),
        (Path("gone"), BadData, "no folder 'gone'"),
    ],
)
def test_unknown_backbones_are_refused(name: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        backbone(name)


def test_modules_are_taken_as_they_are() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))
    body = backbone(net, layer="2", example=torch.zeros(1, 1, 4, 4), channels=1)
    assert isinstance(body.module, Tapped) and body.width == 6
    x = torch.rand(2, 1, 4, 4)
    assert torch.equal(body.module(body.pixels(x)), net[:3](x))
    assert backbone(net, width=3).module(x).shape == (2, 3)
    own = ConvNet(1, (4, 5))
    assert backbone(own).module is own and backbone(own).width == 5
    json.dumps(body.spec)
    with pytest.raises(BadSetting, match="made of a module given in Python"):
        from_spec(body.spec)
    with pytest.raises(BadSetting, match="how wide is"):
        backbone(net)


def test_settings_of_modules_are_refused_elsewhere() -> None:
    with pytest.raises(BadSetting, match="said of a module, not of 'convnet'"):
        backbone("convnet", layer="blocks")
    with pytest.raises(BadSetting, match="kind 'cnn' is none of them"):
        from_spec({"kind": "cnn"})


def test_every_backbone_has_a_line() -> None:
    assert all(text.endswith(".") for text in BACKBONES.values())
