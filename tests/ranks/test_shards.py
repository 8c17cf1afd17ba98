"""Weights of which each of two processes holds a part: what one process learns, or a refusal by name."""

from __future__ import annotations

import pytest

from tests.ranks import sharded_jobs

pytestmark = [pytest.mark.ranks, pytest.mark.slow]
ROUNDING = 1e-5


CASES = [*(f"{name}, whole" for name in sharded_jobs.METHODS), "EWC, body", "MIST-EWC-ER, body"]


@pytest.mark.parametrize("name", CASES)
def test_methods_agree_with_one_process(name, pair):
    assert pair["parts: agree"][name] < ROUNDING, f"{name}: ends {pair['parts: agree'][name]:.1e} from one process"


def test_a_rank_without_rows_keeps_step_and_its_penalties_count_once(pair):
    found = dict(pair["parts: uneven"])
    assert found.pop("the mutant") > 10 * ROUNDING
    assert len(found) == 2 and max(found.values()) < ROUNDING, found


def test_what_rests_keeps_its_bits_on_every_part(pair):
    assert pair["parts: rests"] == {"kept": True, "moved": True, "part": [16, 8]}


def test_a_checkpoint_is_whole(pair):
    found = pair["parts: saved"]
    assert found["same"] and found["digest"] and found["in one process"] < ROUNDING and found["moved"] > 0.05, found


def test_a_weight_that_is_nan_on_one_rank_is_seen_by_all(pair):
    assert pair["parts: nan"] == [True, False]


@pytest.mark.parametrize(
    "name, said",
    {
        "growth": "the head 'head' must grow to 4 classes, but fully_shard cut it",
        "tensor parallel": "body.4.weight lies on",
        "mixes": "Mixes mixes whole tensors with weights of which each rank holds a part",
        "mixes, attached": "Mixes mixes whole tensors with weights of which each rank holds a part",
        "flat": "FullyShardedDataParallel keeps flat pieces",
    }.items(),
)
def test_what_cannot_be_done_is_refused_by_name(name, said, pair):
    assert said in pair["parts: refusals"][name]
