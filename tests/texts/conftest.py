"""A tiny encoder and tables of sentences, made once; features are kept nowhere but in the folder of a test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.texts import small


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with its tokenizer."""
    return small.model(tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with train.csv and test.csv of four classes."""
    return small.tables(tmp_path_factory.mktemp("data"))


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where features are kept, each test having its own folder."""
    monkeypatch.setenv("NACRE_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept" / "features"
