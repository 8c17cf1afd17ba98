"""Streams that somebody made by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nacre.core.errors import BadData
from nacre.core.rows import TensorRows
from nacre.core.stream import Experience, Task, experiences
from nacre.streams import stream_of

ROWS = TensorRows(torch.zeros(2, 3), torch.tensor([0, 1]))
OTHER = TensorRows(torch.ones(2, 3), torch.tensor([0, 1]))


def test_experiences_come_back_in_their_order() -> None:
    made = [
        Experience(Task(0, ROWS, (0, 1)), {"one": ROWS}),
        Experience(Task(1), {"one": ROWS}),
        Experience(Task(2, ROWS)),
    ]
    stream = stream_of(iter(made))
    assert list(experiences(stream)) == made and len(stream) == 3
    for index in (3, -1):
        with pytest.raises(IndexError, match=r"experiences 0..2"):
            stream[index]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ([], "at least one experience"),
        ([Task(0)], "place 0 holds a Task: wrap it"),
        ([Experience(Task(0)), Experience(Task(2))], "place 1 has task.index 2: number tasks"),
        (
            [Experience(Task(0), {"t": TensorRows(torch.zeros(0, 3), torch.zeros(0).long())})],
            "'t' of experience 0 is empty",
        ),
        (
            [Experience(Task(0), {"t": ROWS}), Experience(Task(1), {"t": OTHER})],
            "0 and 1 have different test sets called 't'",
        ),
    ],
)
def test_what_is_no_stream_is_refused(made: list[Any], message: str) -> None:
    with pytest.raises(BadData, match=message):
        stream_of(made)
