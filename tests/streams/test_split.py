"""Cutting data by classes: each row once, labels in order of arrival, the same stream every time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nacre.core.errors import BadData, BadSetting, UnknownName
from nacre.core.rows import Rows, TensorRows
from nacre.core.stream import experiences
from nacre.streams import STREAMS, Split, split, stream


def toy(classes: int = 7, each: int = 4, groups: Sequence[Sequence[int]] = ()) -> Any:
    """Rows whose input is their own number, so that each can be told from the others."""
    y = torch.arange(classes * each) % classes
    x = torch.arange(len(y)).float()[:, None]
    names = tuple(f"class {chr(97 + k)}" for k in range(classes))
    half = y[: classes * 2]
    return SimpleNamespace(
        train=TensorRows(x, y), test=TensorRows(-1 - x[: len(half)], half), classes=names, groups=groups
    )


def whole(rows: Rows | None) -> Any:
    assert rows is not None
    return rows.take(torch.arange(len(rows)))


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 12), st.data(), st.integers(0, 99), st.booleans(), st.sampled_from(["seed", "given"]))
def test_each_row_once_and_each_label_in_order(classes: int, data: Any, seed: int, told: bool, order: str) -> None:
    toys, tasks = toy(classes), data.draw(st.integers(1, classes))
    made = split(toys, tasks, order=order, seed=seed, told=told)
    met = list(experiences(made))
    assert len(met) == len(made) == tasks
    sizes = [len(e.task.classes) for e in met]
    assert max(sizes) - min(sizes) <= 1 and sorted(sizes, reverse=True) == sizes
    assert [c for e in met for c in e.task.classes] == list(range(classes))
    rows = [whole(e.task.train) for e in met]
    assert sorted(torch.cat([b.x for b in rows]).flatten().tolist()) == toys.train.x.flatten().tolist()
    for e, b in zip(met, rows, strict=True):
        assert set(b.y.tolist()) == set(e.task.classes)
        assert b.ids.tolist() == list(range(len(b)))
        for number, label in zip(b.x.flatten().long().tolist(), b.y.tolist(), strict=True):
            assert made.class_names[label] == toys.classes[number % classes]
        ((name, test),) = e.tests.items()
        tested = whole(test)
        assert name == f"task{e.task.index}" and set(tested.y.tolist()) == set(e.task.classes)
        assert not set(tested.x.flatten().tolist()) & set(toys.train.x.flatten().tolist())
        for seen in (b, tested):
            assert (seen.task is None) != told and (not told or set(seen.task.tolist()) == {e.task.index})
        assert e.task.task_id == (e.task.index if told else None)


def test_the_seed_decides_and_the_stream_is_the_same_every_time() -> None:
    data = toy(10)
    one, same, other = split(data, seed=1), split(data, seed=1), split(data, seed=2)
    assert one.tasks == same.tasks != other.tasks
    first, again = whole(one[2].task.train), whole(one[2].task.train)
    assert torch.equal(first.x, again.x) and torch.equal(first.y, again.y)
    assert split(data, order="given").class_names == data.classes


def test_sizes_may_differ_as_said() -> None:
    assert [len(t) for t in split(toy(10), [2, 3, 5]).tasks] == [2, 3, 5]
    assert [len(t) for t in split(toy(7), 3).tasks] == [3, 2, 2]


def test_an_order_may_be_listed_by_name_or_label() -> None:
    data = toy(4)
    named = split(data, 2, order=["class d", "class a", "class c", "class b"])
    assert named.tasks == split(data, 2, order=[3, 0, 2, 1]).tasks == ((3, 0), (2, 1))
    assert named.order == "listed" and named.class_names[0] == "class d"


def test_groups_become_tasks() -> None:
    groups = ((0, 3), (1, 2, 4), (5,))
    data = toy(6, groups=groups)
    assert split(data, 3, order="given").tasks == groups
    drawn = [split(data, 3, seed=s).tasks for s in range(8)]
    assert all(set(tasks) == set(groups) for tasks in drawn) and len(set(drawn)) > 1
    assert [len(t) for t in split(data, 2).tasks] == [3, 3]  # another number of tasks: groups are not looked at
    assert [len(t) for t in split(data, [1, 2, 3], order="given").tasks] == [1, 2, 3]


def test_out_of_range_is_an_index_error() -> None:
    made = split(toy(), 2)
    for index in (2, -1):
        with pytest.raises(IndexError, match=r"experiences 0..1"):
            made[index]


def test_description_and_way_through_json() -> None:
    data = toy(5)
    made = split(data, 2, seed=3, told=True)
    said = made.describe()
    assert said == json.loads(made.to_json())
    assert (said["kind"], said["order"], said["seed"], said["told"]) == ("task-incremental", "seed", 3, True)
    assert [(t["index"], len(t["classes"]), t["train_rows"], t["test_rows"]) for t in said["tasks"]] == [
        (0, 3, 12, 6),
        (1, 2, 8, 4),
    ]
    back = Split.from_json(made.to_json(), data)
    assert back.tasks == made.tasks and back.describe() == said and back.class_names == made.class_names


def test_json_of_other_data_is_refused() -> None:
    text = split(toy(5), 2).to_json()
    with pytest.raises(BadData, match="the data lack class e"):
        Split.from_json(text, toy(4))
    with pytest.raises(BadData, match="the stream lacks class f"):
        Split.from_json(text, toy(6))
    with pytest.raises(BadData, match=r"task 0 has .15, 6. .* and had .12, 6."):
        Split.from_json(text, toy(5, each=5))
    for noise in ("", "[]", '{"tasks": [{}]}'):
        with pytest.raises(BadData, match="no stream that to_json wrote"):
            Split.from_json(noise, toy(5))


@pytest.mark.parametrize(
    ("tasks", "order", "kind", "message"),
    [
        (8, "seed", BadSetting, "7 classes cannot make 8 tasks: ask for 1 to 7"),
        (0, "seed", BadSetting, "cannot make 0 tasks"),
        (True, "seed", BadSetting, "tasks is a number"),
        ("5", "seed", BadSetting, "tasks is a number"),
        ([3, 3], "seed", BadSetting, "make 6, but the data have 7.*sum to 7"),
        ([7, 0], "seed", BadSetting, "sizes of at least 1"),
        ([], "seed", BadSetting, "make 0"),
        (2, "sed", BadSetting, "order is 'seed', 'given' or a list"),
        (2, ["class q"], UnknownName, "unknown class 'class q': did you mean 'class"),
        (2, [0, 1, 2, 3, 4, 5], BadSetting, "class g is missing"),
        (2, [0, 1, 2, 3, 4, 5, 5], BadSetting, "class g is missing"),
    ],
)
def test_impossible_cuts_are_refused(tasks: Any, order: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        split(toy(7), tasks, order=order)


def test_data_that_leave_a_task_empty_are_refused() -> None:
    data = toy(4)
    some = data.test.y < 3
    data.test = TensorRows(data.test.x[some], data.test.y[some])
    with pytest.raises(BadData, match=r"task 3 .class d. has 4 training and 0 test rows: make fewer tasks"):
        split(data, 4, order="given")
    assert split(data, 2, order="given").counts == ([8, 8], [4, 2])
    data.train = TensorRows(data.train.x, data.train.y + 1)
    with pytest.raises(BadData, match=r"labels 1..4, the data name 0..3"):
        split(data, 2)
    data = toy(3)
    data.classes = ("a", "b", "a")
    with pytest.raises(BadData, match="two classes are called 'a'"):
        split(data, 2)
    with pytest.raises(BadSetting, match="must bring each of the 4 exactly once"):
        Split(toy(4), ((0, 1), (1, 2)))


def test_streams_are_made_by_name() -> None:
    data = toy(6)
    assert stream("class-incremental", data, tasks=3, seed=1).describe() == split(data, 3, seed=1).describe()
    assert stream("task-incremental", data, tasks=2).told
    assert all((make.__doc__ or "").strip() for make in STREAMS.values())
    with pytest.raises(UnknownName, match="unknown stream 'class-incrementl': did you mean 'class-incremental'"):
        stream("class-incrementl", data)
    with pytest.raises(UnknownName, match="setting of the class-incremental stream 'task': did you mean 'tasks'"):
        stream("class-incremental", data, task=3)
    with pytest.raises(UnknownName, match="setting of the task-incremental stream 'told'"):
        stream("task-incremental", data, **{"told": True})


def test_whole_numbers_that_are_no_labels_are_names() -> None:
    rows = TensorRows(torch.zeros(6, 2), torch.arange(6) % 3)
    data = SimpleNamespace(train=rows, test=rows, classes=("10", "20", "30"), groups=())
    assert split(data, 3, order=[30, 10, 20]).class_names == ("30", "10", "20")
    assert split(data, 3, order=[2, 0, 1]).class_names == ("30", "10", "20")
    with pytest.raises(UnknownName, match="unknown class '40'"):
        split(data, 3, order=[30, 10, 40])


def test_positions_are_found_once_for_all_tasks() -> None:
    data = toy(6)
    made = split(data, 3)
    for i, classes in enumerate(made.tasks):
        expected = torch.isin(data.train.y, torch.tensor(classes)).nonzero().flatten()
        assert torch.equal(made[i].task.train.index, expected)
        assert made[i].task.train.index.data_ptr() == made[i].task.train.index.data_ptr()
