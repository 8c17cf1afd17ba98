"""A run over a small model of timm itself, where timm and torchvision are installed; elsewhere skipped and counted."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nacre
from nacre.backbones import backbone, from_spec
from nacre.core.errors import BadData, BadSetting
from nacre.experiment import Experiment
from tests.end_to_end.small import config, pictures

OPERATORS = ("nms", "qnms")
"""What a torchvision that was built for GPUs expects of its own library, which a CPU torch cannot open."""


@pytest.fixture(scope="module", autouse=True)
def timm() -> Iterator[Any]:
    """timm, and under it torchvision even if that was built for another torch: two operators are declared, none is called."""
    for package in ("timm", "torchvision"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install 'nacre[vision]'")
    declared = torch.library.Library("torchvision", "FRAGMENT")
    for name in OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    yield pytest.importorskip("timm")
    del declared


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_a_model_of_timm_learns_and_answers_like_any_other(name: str, tmp_path: Path):
    arrays = pictures(count=36, classes=4, size=32)
    np.savez(tmp_path / "data.npz", **arrays)
    told = {"source": f"timm:{name}", "pretrained": False}
    run = config("stream.tasks=2", data={"source": str(tmp_path / "data.npz")}, backbone=told)
    record = Experiment(run).run(tmp_path / "out")
    result = record.results[0]
    assert record.status == "finished"
    tensors = [told for task in result.motion.values() for told in task["tensors"].items()]
    moved = {name for name, row in tensors if row["moved"]}
    assert any(name.startswith("body.net.") for name in moved), "the backbone learns too"
    named = nacre.load(tmp_path / "out").predict(arrays["x_test"])
    right = [int(name) == label for name, label in zip(named, arrays["y_test"].tolist(), strict=True)]
    assert sum(right) / len(right) == pytest.approx(sum(float(score) for score in result.matrix[-1]) / 2)


def test_features_are_pooled_and_weights_go_by_the_seed():
    body = backbone("timm:test_resnet", pretrained=False, seed=3, channels=1, size=48)
    again = from_spec(body.spec, seed=3)
    x = torch.rand(2, 1, 20, 24)
    found = [b.module.eval()(b.pixels(x)) for b in (body, again, from_spec(body.spec, seed=4))]
    assert found[0].shape == (2, body.width) and torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])


def test_what_timm_does_not_have_or_read_is_refused():
    with pytest.raises(BadData, match="timm cannot make 'test_resent'"):
        backbone("timm:test_resent", pretrained=False)
    with pytest.raises(BadSetting, match="does not read pictures of 31x31"):
        backbone("timm:vit_tiny_patch16_224", pretrained=False, size=31)
