"""Every example runs, and does what it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

import nacre

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_the_own_loop_learns_and_nothing_that_rests_moves(optimizer):
    scores, model, leaks = example("own_loop").run(optimizer=optimizer)
    assert leaks == []
    before = dict(nacre.backbones.Classifier(nacre.backbone("glyph-vit"), nacre.GrowingLinear(128)).named_parameters())
    chosen = [n for n, p in before.items() if p.ndim == 2 and n.startswith("body.net.layers")]
    moved = [(dict(model.named_parameters())[n] != before[n]).float().mean().item() for n in chosen]
    assert len(chosen) >= 36 and min(moved) > 0.02 and max(moved) <= 0.5, (
        "a tenth on each of five tasks, and not nothing"
    )
    assert scores.last() > 0.7
    assert model.head.weight.shape[0] == 10


def test_examples_are_short():
    long = {f.name: n for f in EXAMPLES.glob("*.py") if (n := len(f.read_text().splitlines())) >= 60}
    assert not long
