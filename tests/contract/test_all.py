"""Every part of the package keeps the contract."""

from __future__ import annotations

import pytest
from contract.parts import cases

from nacre.checks import Case, Check, checks_for
from nacre.checks.together import in_pair
from nacre.core.method import Method
from nacre.core.rule import Rule

CASES = cases()
HOOKS = (*Method.TASK_HOOKS, "shape_grads", "shape_weights", "resting", "predict")


def pairs(*needs: str) -> list[tuple[Case, Check]]:
    return [(case, check) for case in CASES for check in checks_for(case.part) if check.needs in needs]


def one_of_each_set_of_hooks() -> list[tuple[Case, Check]]:
    """Compiling takes seconds, and what a compiled model sees of a part are its hooks."""
    met, chosen = set(), []
    for case, check in pairs("compile"):
        spoken = frozenset(h for h in HOOKS if isinstance(case.part, Rule) and case.part.overrides(h))
        if spoken not in met:
            met.add(spoken)
            chosen.append((case, check))
    return chosen


def named(some: list[tuple[Case, Check]]) -> dict[str, object]:
    return {"argvalues": some, "ids": [f"{case.name}-{check.name}" for case, check in some]}


@pytest.mark.parametrize(("case", "check"), **named(pairs("cpu")))
def test_every_part_keeps_the_contract(case, check):
    check(case)


@pytest.mark.cuda
@pytest.mark.parametrize(("case", "check"), **named(pairs("cuda")))
def test_every_part_keeps_the_contract_on_a_gpu(case, check):
    check(case)


@pytest.mark.slow
@pytest.mark.compile
@pytest.mark.parametrize(("case", "check"), **named(one_of_each_set_of_hooks()))
def test_one_part_of_each_set_of_hooks_compiles(case, check):
    check(case)


@pytest.fixture(scope="module")
def pair():
    """Every part that learns, in one pair of processes."""
    held = pairs("ranks")
    for (case, _), ends in zip(held, in_pair([case.origin for case, _ in held]), strict=True):
        case.known["ranks"] = ends


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.parametrize(("case", "check"), **named(pairs("ranks")))
def test_two_processes_agree(case, check, pair):
    check(case)


def test_every_check_has_a_part_that_it_looks_at():
    looked = {check.name for _, check in pairs("cpu", "cuda", "compile", "ranks")}
    assert {"resumes_exactly", "rests", "bounded", "pure", "covers_once", "hand_numbers"} <= looked
    assert len(pairs("cpu")) > 300, "parts are lost from discovery"
