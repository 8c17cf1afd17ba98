"""Where larger data lie, if they do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The data in `$NACRE_SHARED/data`, else in a folder `shared` beside the repository."""
    place = os.environ.get("NACRE_SHARED") or Path(__file__).resolve().parents[3] / "shared"
    folder = Path(place) / "data"
    if not folder.is_dir():
        pytest.skip("larger data are not at hand: set NACRE_SHARED to the folder above `data`")
    return folder


@pytest.fixture(scope="session")
def mnist(shared: Path) -> Path:
    """The folder of MNIST."""
    return shared / "mnist"
