"""Every example runs, and does what it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

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
    assert scores.last() > 0.7
    assert model.head.weight.shape[0] == 10


def test_examples_are_short():
    long = {f.name: n for f in EXAMPLES.glob("*.py") if (n := len(f.read_text().splitlines())) > 60}
    assert not long
