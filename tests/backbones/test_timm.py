"""Models of timm: the path without the package, and what is asked of the package where it is there."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from nacre.backbones import backbone, from_spec
from nacre.core.errors import BadData, MissingExtra

TOLD = {"input_size": (3, 8, 8), "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.5, 0.5)}


class Net(nn.Module):
    def __init__(self, channels: int):
        super().__init__()
        self.line = nn.Linear(channels * 64, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.line(x.flatten(1))


@pytest.fixture
def asked(monkeypatch) -> list[dict[str, Any]]:
    """A tiny timm; what it was asked for."""
    calls: list[dict[str, Any]] = []

    def create_model(name: str, **asked: Any) -> nn.Module:
        calls.append({"name": name, **asked})
        if name != "tiny":
            raise RuntimeError(f"Unknown model ({name})")
        return Net(asked.get("in_chans", 3))

    timm: Any = ModuleType("timm")
    timm.create_model, timm.data = create_model, SimpleNamespace(resolve_model_data_config=lambda net: TOLD)
    monkeypatch.setitem(sys.modules, "timm", timm)
    return calls


def test_a_timm_model_is_asked_for_features_and_told_its_pictures(asked: list[dict[str, Any]]):
    body = backbone("timm:tiny", pretrained=False, seed=3)
    assert asked == [{"name": "tiny", "pretrained": False, "num_classes": 0}]
    assert (body.width, body.pixels.size, body.pixels.settings["mean"]) == (5, (8, 8), [0.1, 0.2, 0.3])
    grey = torch.zeros(2, 1, 20, 20, dtype=torch.uint8)
    assert body.module(body.pixels(grey)).shape == (2, 5)
    again = from_spec(body.spec, seed=3)
    assert again.spec == body.spec and torch.equal(again.module.net.line.weight, body.module.net.line.weight)
    backbone("timm:tiny")
    assert asked[-1]["pretrained"] is True


def test_an_unknown_timm_model_is_one_line(asked: list[dict[str, Any]]):
    with pytest.raises(BadData, match=r"timm cannot make 'tniy': Unknown model"):
        backbone("timm:tniy")


def test_without_timm_the_extra_is_named(monkeypatch):
    if importlib.util.find_spec("timm") is not None:
        monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MissingExtra, match=r"'timm:tiny' needs the package 'timm'.*pip install 'nacre\[vision\]'"):
        backbone("timm:tiny")
