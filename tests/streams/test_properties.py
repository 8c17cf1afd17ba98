"""What holds for every kind of stream over any data: rows, labels and ids, whatever the counts, cuts and seeds."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nacre.core.rows import Rows, TensorRows
from nacre.core.stream import Experience, experiences
from nacre.data import Column
from nacre.streams import STREAMS, FromData, online, stream, task_free

LIGHT = settings(max_examples=60, deadline=None, derandomize=True)


@st.composite
def made(draw: Any) -> FromData:
    """A stream of any kind over small pictures, each of which can be told from the others."""
    classes, sites = draw(st.integers(2, 7)), draw(st.integers(1, 4))
    rows, tests = draw(st.integers(classes, 40)), draw(st.integers(1, 12))
    rows, tests = max(rows, classes + sites), max(tests, sites, classes)
    x = torch.zeros(rows + tests, 1, 3, 3, dtype=torch.uint8)
    x[:, 0, 1, 1] = torch.arange(1, rows + tests + 1)  # the middle stays where it is, however pictures are turned
    y = torch.arange(rows + tests) % classes
    y[:rows] = y[:rows][torch.randperm(rows, generator=torch.Generator().manual_seed(draw(st.integers(0, 9))))]
    y[rows:] = torch.arange(tests) % classes
    at = (torch.arange(rows + tests) % sites).tolist()
    places = (
        [["north", "east", "south", "west"][k] for k in at[:rows]],
        ["north", "east", "south", "west"][:sites] * tests,
    )
    times = draw(st.lists(st.integers(0, 9), min_size=rows, max_size=rows)), [0] * tests
    data: Any = SimpleNamespace(
        train=TensorRows(x[:rows], y[:rows]), test=TensorRows(x[rows:], y[rows:]), groups=(),
        classes=tuple("abcdefg"[:classes]),
        columns={"domain": Column.of(places[0], places[1][:tests]), "time": Column.of(*times)},
    )  # fmt: skip
    kind, seed = draw(st.sampled_from(sorted(STREAMS))), draw(st.integers(0, 50))
    told: dict[str, Any] = {
        "class-incremental": lambda: {"tasks": draw(st.integers(1, classes))},
        "task-incremental": lambda: {"tasks": draw(st.integers(1, classes))},
        "domain-incremental": lambda: draw(
            st.sampled_from([{}, {"by": "domain", "tasks": 1}, {"by": "classes", "tasks": max(classes // 2, 1)}])
        ),
        "permuted": lambda: {"tasks": draw(st.integers(1, 6)), "scenario": draw(st.sampled_from(["domain", "class", "task"]))},
        "rotated": lambda: {"tasks": draw(st.integers(1, 6)), "smooth": draw(st.booleans())},
        "blurry": lambda: {
            "tasks": draw(st.integers(1, classes)), "disjoint": draw(st.sampled_from([0.0, 0.3, 0.5, 1.0])),
            "blur": draw(st.sampled_from([0.0, 0.1, 0.7, 1.0])), "stochastic": draw(st.booleans()),
        },
        "time-incremental": lambda: {"tasks": draw(st.integers(1, 4)), "cut": "span"},
        "re-occurring": lambda: {
            "tasks": draw(st.integers(1, 6)), "classes": draw(st.integers(1, classes)),
            "rows": draw(st.sampled_from([None, 1, 3])), "imbalance": draw(st.sampled_from([0.0, 3.0])),
        },
    }[kind]()  # fmt: skip
    return stream(kind, data, seed=seed, **told)


def whole(rows: Rows | None) -> Any:
    return None if rows is None or not len(rows) else rows.take(torch.arange(len(rows)))


def pixels(rows: Rows | None) -> list[int]:
    """The one pixel of each row that is not 0."""
    found = whole(rows)
    return [] if found is None else found.x.flatten(1).amax(1).tolist()


def same(one: Experience, other: Experience) -> bool:
    pairs = [(whole(one.task.train), whole(other.task.train))]
    pairs += [(whole(one.tests[name]), whole(other.tests[name])) for name in one.tests]
    alike = one.tests.keys() == other.tests.keys() and one.task.classes == other.task.classes
    return alike and all(
        (a is None) == (b is None) and (a is None or (torch.equal(a.x, b.x) and torch.equal(a.y, b.y)))
        for a, b in pairs
    )


@LIGHT
@given(made())
def test_rows_are_brought_as_declared_and_training_is_no_test(stream: FromData) -> None:
    met, held = list(experiences(stream)), pixels(stream.data.train)
    assert len(met) == len(stream)
    brought = [pixels(m.task.train) for m in met]
    if stream.brings == "each once":
        assert Counter(p for rows in brought for p in rows) == Counter(held)
    elif stream.brings == "all":
        assert all(rows == held for rows in brought)
    else:
        assert all(len(rows) == len(set(rows)) and set(rows) <= set(held) for rows in brought)
    tested = {p for m in met for rows in m.tests.values() for p in pixels(rows)}
    assert tested <= set(pixels(stream.data.test)) and not tested & set(held)


@LIGHT
@given(made())
def test_labels_are_those_listed_and_hidden_ids_are_hidden(stream: FromData) -> None:
    for index, met in enumerate(experiences(stream)):
        seen = whole(met.task.train)
        assert set(met.task.classes) == (set() if seen is None else set(seen.y.tolist()))
        assert all(0 <= c < len(stream.class_names) for c in met.task.classes) and met.task.border and not met.task.once
        assert met.task.task_id == (index if stream.told else None)
        assert seen is None or seen.ids.tolist() == list(range(len(seen)))
        for rows in (met.task.train, *met.tests.values()):
            found = whole(rows)
            assert found is None or (found.task is None) != stream.told
            assert found is None or not stream.told or set(found.task.tolist()) == {index}


@LIGHT
@given(made(), st.data())
def test_an_item_is_the_same_whenever_it_is_asked_for(stream: FromData, data: Any) -> None:
    index = data.draw(st.integers(0, len(stream) - 1))
    late = list(experiences(stream))[index]
    assert same(stream[index], late) and same(stream[index], stream[index])


@LIGHT
@given(made())
def test_what_arrives_once_is_the_same_rows_and_says_no_more_than_it_may(stream: FromData) -> None:
    for index, met in enumerate(experiences(stream)):
        once = online(stream)[index]
        assert once.task.once and once.task.border and once.task.classes == met.task.classes
        assert Counter(pixels(once.task.train)) == Counter(pixels(met.task.train))
        if not stream.told:
            free = task_free(stream, seed=3)[index]
            assert not free.task.border and not free.task.classes and not free.task.growth and free.task.ordered
            assert Counter(pixels(free.task.train)) == Counter(pixels(met.task.train))
            assert free.tests.keys() == met.tests.keys()
