"""The record counts what was asked to rest, and would tell if any of it moved."""

from __future__ import annotations

import pytest

from nacre.core.errors import BadStep
from nacre.core.kept import Kept
from nacre.experiment import Experiment
from tests.end_to_end.small import config

MIST = [{"methods": [{"name": "MIST", "drop": 0.5, "width": 8}], "when": "0,2"}, {"methods": ["SimpleCIL"]}]


def test_what_rested_is_counted_and_nothing_of_it_moved():
    record = Experiment(config("stream.tasks=3", stage=MIST)).run().results[0]
    assert [(row["task"], row["stage"]) for row in record.rest] == [(0, 0), (2, 0)]
    for row in record.rest:
        chosen = row["entries"] - row["asked"]
        assert 0 < chosen < 0.6 * row["entries"] and row["moved"] == 0
    assert record.motion["task1"]["total"]["moved"] == 0.0


def test_rest_that_is_broken_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Kept, "put_back", lambda self: None)
    with pytest.raises(
        BadStep, match=r"entries of body\.[^ ]+ moved that were asked to rest at every step of task 0, stage 0"
    ):
        Experiment(config("stream.tasks=2", stage=MIST)).run()
    record = Experiment(config("stream.tasks=2", "run.verify_rest=false", stage=MIST)).run().results[0]
    assert record.rest[0]["moved"] > 0.5 * record.rest[0]["asked"]


def test_who_asks_nothing_to_rest_has_zeros():
    record = Experiment(config("stream.tasks=2")).run().results[0]
    assert [(row["task"], row["asked"], row["moved"]) for row in record.rest] == [(0, 0, 0), (1, 0, 0)]
