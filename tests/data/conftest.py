"""Where larger data lie, if they do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def mnist() -> Path:
    """The folder of MNIST in `$NACRE_SHARED/data`, else in a folder `shared` beside the repository."""
    shared = os.environ.get("NACRE_SHARED") or Path(__file__).resolve().parents[3] / "shared"
    folder = Path(shared) / "data" / "mnist"
    if not folder.is_dir():
        pytest.skip("MNIST is not at hand: set NACRE_SHARED to a folder with data/mnist")
    return folder
