"""Makes the tiny worlds importable as `worlds`; one thread, which is the fastest for tiny tensors."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _features_are_kept_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or writes the user's own cache."""
    before = os.environ.get("NACRE_CACHE")
    os.environ["NACRE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    os.environ.pop("NACRE_CACHE")
    if before is not None:
        os.environ["NACRE_CACHE"] = before
