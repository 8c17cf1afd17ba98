"""The examples in other people's loops run, keep what was learned, and leave alone what rests."""

from __future__ import annotations

import importlib.util
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
needs = {name: importlib.util.find_spec(name) is None for name in ("accelerate", "lightning")}


@pytest.mark.skipif(needs["accelerate"], reason="pip install 'nacre[trainer]'")
def test_the_trainer_of_transformers_keeps_three_tasks_of_texts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("accelerate.utils.memory.gc.collect", lambda: 0)
    monkeypatch.setattr("os.fsync", lambda handle: None)
    kept, leaks = runpy.run_path(str(EXAMPLES / "hf_trainer.py"))["run"](str(tmp_path))
    assert len(kept) == 3 and min(scores[-1] for scores in kept.values()) > 0.8 and leaks == []
    assert (tmp_path / "task2").is_dir() and "forgotten" in capsys.readouterr().out


@pytest.mark.skipif(needs["lightning"], reason="pip install 'nacre[lightning]'")
def test_lightning_keeps_five_tasks_of_digits():
    matrix, model, leaks = runpy.run_path(str(EXAMPLES / "lightning_loop.py"))["run"]()
    assert matrix.last() > 0.85 and leaks == [] and model.head.out_features == 10
