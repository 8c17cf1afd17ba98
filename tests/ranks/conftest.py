"""One pair of processes does all jobs of this folder."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from compositions import COMPOSITIONS

from nacre.core.spawn import in_ranks
from tests.ranks import jobs, sharded_jobs


def everything(folder: str) -> dict[str, Any]:
    """What a rank finds, job by job, and how long each took."""
    work: dict[str, Callable[[], Any]] = {
        "collectives": jobs.collectives,
        "compositions": lambda: jobs.compositions(list(COMPOSITIONS)),
        "uneven": jobs.uneven,
        "odd_streams": jobs.odd_streams,
        "own_loops": jobs.own_loops,
        "foreign_rows": jobs.foreign_rows,
        "overflow": jobs.overflow,
        "resumes": lambda: jobs.resumes(folder),
        "nonfinite": jobs.nonfinite,
        "experiments": lambda: jobs.experiments(folder),
        "mutants": jobs.mutants,
        "parts: agree": sharded_jobs.agree,
        "parts: uneven": sharded_jobs.uneven,
        "parts: rests": sharded_jobs.rests,
        "parts: saved": lambda: sharded_jobs.saved(folder),
        "parts: nan": sharded_jobs.nan_in_a_part,
        "parts: refusals": sharded_jobs.refusals,
    }
    found: dict[str, Any] = {"seconds": {}}
    for name, job in work.items():
        since = time.perf_counter()
        found[name] = job()
        found["seconds"][name] = round(time.perf_counter() - since, 2)
    return found


@pytest.fixture(scope="session")
def pair(tmp_path_factory) -> dict[str, Any]:
    """What two processes found, and agreed on."""
    first, second = in_ranks(everything, str(tmp_path_factory.mktemp("pair")), minutes=8)
    print("seconds", first["seconds"])
    own = ("collectives", "seconds")
    assert {k: v for k, v in first.items() if k not in own} == {k: v for k, v in second.items() if k not in own}
    return first
