"""Examples in docstrings draw the same numbers in every run, as far as they name no seed of their own."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _examples_draw_the_same(request: pytest.FixtureRequest) -> None:
    if isinstance(request.node, pytest.DoctestItem):
        torch.manual_seed(0)
