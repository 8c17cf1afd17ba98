"""Each kind of stream by numbers worked by hand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from nacre.core.errors import BadData, BadSetting, UnknownName
from nacre.core.rows import Rows, TensorRows
from nacre.core.stream import experiences
from nacre.data import Column, Source
from nacre.streams import STREAMS, Changed, Placed, Returning, stream


def toy(classes: int = 4, each: int = 6, **columns: Any) -> Any:
    """Rows whose only number is their place; a third as many test rows, with negative numbers."""
    y = torch.arange(classes * each) % classes
    x = torch.arange(len(y)).float()[:, None]
    few = len(y) // 3
    names = tuple("abcdefghijklmnop"[:classes])
    return SimpleNamespace(
        train=TensorRows(x, y), test=TensorRows(-1 - x[:few], y[:few]), classes=names, groups=(), columns=columns
    )


def pictures(height: int = 2, width: int = 3, channels: int = 1, rows: int = 4, classes: int = 2) -> Any:
    x = torch.arange(rows * channels * height * width, dtype=torch.uint8).view(rows, channels, height, width)
    y = torch.arange(rows) % classes
    names = tuple("abcdef"[:classes])
    return SimpleNamespace(train=TensorRows(x, y), test=TensorRows(x.flip(0), y.flip(0)), classes=names, groups=())


def whole(rows: Rows | None) -> Any:
    assert rows is not None
    return rows.take(torch.arange(len(rows)))


def numbers(rows: Rows | None) -> list[int]:
    return [] if rows is None or not len(rows) else whole(rows).x.flatten().long().tolist()


# ------------------------------------------------------------------------------------------------------------------ domains


def test_classes_grouped_onto_two_labels_as_in_split_mnist():
    made = stream("domain-incremental", toy(), tasks=2, order=["d", "a", "b", "c"])
    assert isinstance(made, Placed) and made.class_names == ("d / b", "a / c") and not made.told
    assert [m.task.classes for m in experiences(made)] == [(0, 1), (0, 1)]
    first, second = (whole(made[i].task.train) for i in (0, 1))
    assert first.x.flatten().tolist() == [0, 3, 4, 7, 8, 11, 12, 15, 16, 19, 20, 23]  # classes a and d
    assert first.y.tolist() == [1, 0] * 6 and second.y.tolist() == [0, 1] * 6
    assert first.task is None and made[1].task.task_id is None
    assert list(made[1].tests) == ["task1"] and numbers(made[1].tests["task1"]) == [-2, -3, -6, -7]


def test_tasks_of_unequal_groups_share_the_first_labels():
    made = stream("domain-incremental", toy(5), tasks=[2, 3], order="given")
    assert made.class_names == ("a / c", "b / d", "e") and made[1].task.classes == (0, 1, 2)
    with pytest.raises(BadData, match="4 tasks of one class each have one label between them: make at most 2"):
        stream("domain-incremental", toy(), tasks=4)
    with pytest.raises(BadSetting, match="4 classes cannot make 5 tasks"):
        stream("domain-incremental", toy(), tasks=5)


def sites(train: list[str], test: list[str]) -> dict[str, Column]:
    return {"domain": Column.of(train, test), "time": Column.of(list(range(len(train))), list(range(len(test))))}


def test_a_column_of_domains_keeps_the_labels():
    data = toy(2, 4, **sites(["sea", "air", "sea", "air", "sea", "sea", "air", "air"], ["air", "sea"]))
    made = stream("domain-incremental", data, order="given")
    assert [list(m.tests) for m in experiences(made)] == [["air"], ["sea"]]  # in the order of their names
    assert [numbers(m.task.train) for m in experiences(made)] == [[1, 3, 6, 7], [0, 2, 4, 5]]
    assert [m.task.classes for m in experiences(made)] == [(0, 1), (0, 1)] and made.class_names == ("a", "b")
    assert made.describe()["by"] == "domain"
    listed = stream("domain-incremental", data, order=["sea", "air"], tasks=[1, 1])
    assert [list(m.tests) for m in experiences(listed)] == [["sea"], ["air"]]
    assert list(stream("domain-incremental", data, tasks=1, order="given")[0].tests) == ["air + sea"]
    assert stream("domain-incremental", data, by="classes", tasks=1)[0].task.rows == 8
    with pytest.raises(UnknownName, match="column of the data 'domian': did you mean 'domain'"):
        stream("domain-incremental", data, by="domian")
    with pytest.raises(BadData, match="'time' holds numbers where names such as domains are needed: say"):
        stream("domain-incremental", data, by="time")
    with pytest.raises(UnknownName, match="unknown value 'see': did you mean 'sea'"):
        stream("domain-incremental", data, order=["see", "air"])
    lacking = toy(2, 4, **sites(["sea", "air"] * 4, ["air", "air"]))
    with pytest.raises(BadData, match=r"task 1 .sea. has no test rows"):
        stream("domain-incremental", lacking, order="given")


def test_a_domain_lists_the_classes_that_are_in_it():
    data = toy(2, 2, **sites(["one", "two", "two", "two"], ["one"] * 1))
    data.test = TensorRows(torch.zeros(2, 1), torch.tensor([0, 1]))
    data.columns = sites(["one", "two", "two", "two"], ["one", "two"])
    assert [m.task.classes for m in experiences(stream("domain-incremental", data, order="given"))] == [(0,), (0, 1)]


# ------------------------------------------------------------------------------------------------------ permuted and rotated


def test_permuted_pictures_hold_the_same_pixels_in_one_order_for_all_rows_and_channels():
    data = pictures(channels=2)
    made = stream("permuted", data, tasks=3, seed=5)
    assert isinstance(made, Changed) and len(made) == 3
    orders = []
    for met in experiences(made):
        seen, tested = whole(met.task.train), whole(met.tests[f"task{met.task.index}"])
        assert seen.x.dtype == torch.uint8 and seen.x.shape == data.train.x.shape
        order = seen.x[0, 0].flatten().long()  # the first channel of the first row holds 0..5
        assert sorted(order.tolist()) == list(range(6))
        assert torch.equal(seen.x.flatten(2), data.train.x.flatten(2)[:, :, order])
        assert torch.equal(tested.x.flatten(2), data.test.x.flatten(2)[:, :, order])
        assert torch.equal(seen.y, data.train.y) and met.task.classes == (0, 1)
        orders.append(tuple(order.tolist()))
    assert len(set(orders)) == 3
    again = whole(
        stream("permuted", data, tasks=7, seed=5)[2].task.train
    ).x  # a task does not depend on how many there are
    assert torch.equal(again, whole(made[2].task.train).x)


def test_pictures_are_padded_before_they_are_permuted():
    data = pictures(height=28, width=28, rows=2)
    made = stream("permuted", data, tasks=2, pad=2, keep_first=True)
    plain, other = (whole(made[i].task.train).x for i in (0, 1))
    assert plain.shape == other.shape == (2, 1, 32, 32)
    assert torch.equal(plain[:, :, 2:-2, 2:-2], data.train.x) and int(plain[:, :, :2].sum()) == 0
    assert torch.equal(other.flatten(1).sort(1).values, plain.flatten(1).sort(1).values) and not torch.equal(
        plain, other
    )


def test_vectors_are_permuted_and_neither_padded_nor_turned():
    data = toy(2, 3)
    data.train = TensorRows(torch.arange(30).float().view(6, 5), data.train.y)
    data.test = TensorRows(torch.arange(10).float().view(2, 5), data.test.y)
    seen = whole(stream("permuted", data, tasks=1)[0].task.train).x
    assert sorted(seen[0].tolist()) == [0, 1, 2, 3, 4] and torch.equal(
        seen - seen[:1], 5.0 * torch.arange(6)[:, None].expand(6, 5)
    )
    with pytest.raises(BadData, match="pictures, to be padded, not of rows of shape"):
        stream("permuted", data, pad=1)
    with pytest.raises(BadData, match="rotated streams are made of pictures"):
        stream("rotated", data)


@pytest.mark.parametrize("smooth", [False, True])
def test_right_angles_turn_square_pictures_exactly(smooth: bool):
    data = pictures(5, 5, channels=2)
    made = stream("rotated", data, angles=[0, 90, 180, -90, 360], smooth=smooth)
    for met, turns in zip(experiences(made), (0, 1, 2, 3, 0), strict=True):
        assert torch.equal(whole(met.task.train).x, torch.rot90(data.train.x, turns, (2, 3)))
        assert torch.equal(whole(met.tests[f"task{met.task.index}"]).x, torch.rot90(data.test.x, turns, (2, 3)))


@pytest.mark.parametrize(("smooth", "mode"), [(True, "bilinear"), (False, "nearest")])
def test_other_angles_agree_with_a_grid_of_torch(smooth: bool, mode: str):
    x = torch.rand(3, 2, 9, 9)
    data = SimpleNamespace(
        train=TensorRows(x, torch.tensor([0, 1, 0])),
        test=TensorRows(x, torch.tensor([0, 1, 0])),
        classes=("a", "b"),
        groups=(),
    )
    turn = math.radians(25)
    turned = torch.tensor([[math.cos(turn), -math.sin(turn), 0], [math.sin(turn), math.cos(turn), 0]])
    grid = torch.nn.functional.affine_grid(turned.expand(3, 2, 3), [3, 2, 9, 9], align_corners=False)
    wanted = torch.nn.functional.grid_sample(x, grid, mode, "zeros", align_corners=False)
    seen = whole(stream("rotated", data, angles=[25.0], smooth=smooth)[0].task.train).x
    torch.testing.assert_close(seen, wanted, atol=1e-5, rtol=0)


def test_smooth_pixels_are_rounded_not_cut():
    x = torch.tensor([[[[0, 0, 0], [0, 201, 0], [0, 0, 0]]]], dtype=torch.uint8)
    data = SimpleNamespace(
        train=TensorRows(x, torch.tensor([0])), test=TensorRows(x, torch.tensor([0])), classes=("a",), groups=()
    )
    seen = whole(stream("rotated", data, angles=[45.0], smooth=True)[0].task.train).x
    share = (1 - math.sqrt(0.5)) * 1.0  # of the middle's neighbour: its place lies sqrt(1/2) away on both axes
    assert seen.dtype == torch.uint8 and int(seen[0, 0, 1, 1]) == 201
    assert int(seen[0, 0, 0, 1]) == round(201 * share**2)


def test_angles_are_drawn_within_bounds_one_by_one_or_given():
    made = stream("rotated", pictures(), tasks=40, most=30.0, seed=3)
    angles = made.describe()["angles"]
    assert len(angles) == len(made) == 40 and 0 <= min(angles) < 5 and 25 < max(angles) <= 30
    assert stream("rotated", pictures(), tasks=5, most=30.0, seed=3).describe()["angles"] == angles[:5]
    assert len(stream("rotated", pictures())) == 10 and len(stream("rotated", pictures(), angles=[0, 80, 160])) == 3


@pytest.mark.parametrize(
    ("scenario", "classes", "ids"), [("domain", (0, 1), None), ("class", (2, 3), None), ("task", (2, 3), 1)]
)
@pytest.mark.parametrize("kind", ["permuted", "rotated"])
def test_three_scenarios_of_the_same_rows(kind: str, scenario: str, classes: tuple[int, ...], ids: int | None):
    made = stream(kind, pictures(), tasks=2, scenario=scenario)
    met = made[1]
    assert met.task.classes == classes and met.task.task_id == ids and made.told == (scenario == "task")
    for rows in (met.task.train, met.tests["task1"]):
        seen = whole(rows)
        assert set(seen.y.tolist()) == set(classes)
        assert (seen.task is None) if ids is None else set(seen.task.tolist()) == {1}
    names = ("a", "b") if scenario == "domain" else ("task0: a", "task0: b", "task1: a", "task1: b")
    assert made.class_names == names


# ------------------------------------------------------------------------------------------------------------------- blurry


def counts(made: Any) -> torch.Tensor:
    """(tasks, labels) training rows."""
    width = len(made.class_names)
    return torch.stack(
        [
            torch.bincount(whole(m.task.train).y, minlength=width) if m.task.rows else torch.zeros(width).long()
            for m in experiences(made)
        ]
    )


def test_blurry_without_blur_and_chance_is_a_split():
    made = stream("blurry", toy(8), tasks=4, disjoint=0.5, blur=0.0, stochastic=False)
    assert [m.task.classes for m in experiences(made)] == [(0, 1), (2, 3), (4, 5), (6, 7)]
    assert counts(made).sum(1).tolist() == [12] * 4 and made.describe()["rows_moved"] == 0


def test_equal_blur_moves_the_share_and_keeps_the_sizes():
    made = stream("blurry", toy(10, 30), tasks=5, disjoint=0.5, blur=0.2, stochastic=False, seed=1)
    said, rows = made.describe(), counts(made)
    assert len(said["disjoint_classes"]) == 5 and rows.sum(1).tolist() == [60] * 5 and rows.sum(0).tolist() == [30] * 10
    for label, name in enumerate(made.class_names):
        in_tasks = int((rows[:, label] > 0).sum())
        assert in_tasks == 1 if name in said["disjoint_classes"] else in_tasks > 1
        assert name in said["disjoint_classes"] or int(rows[:, label].max()) >= 24  # a fifth left, and some came back
    assert 15 <= said["rows_moved"] <= 30  # of 30 that were pooled, those that were dealt to another task


def test_si_blurry_draws_sizes_and_moves_a_share_of_the_blurry_rows_at_most():
    sizes = set()
    for seed in range(6):
        made = stream("blurry", toy(10, 20), tasks=5, seed=seed)
        rows, said = counts(made), made.describe()
        assert rows.sum(0).tolist() == [20] * 10 and len(said["disjoint_classes"]) == 5
        assert said["rows_moved"] <= 10  # a tenth of 5 x 20
        assert all(
            int((rows[:, k] > 0).sum()) == 1 for k, n in enumerate(made.class_names) if n in said["disjoint_classes"]
        )
        sizes.add(tuple(rows.sum(1).tolist()))
    assert len(sizes) == 6 and any(len(set(s)) > 2 for s in sizes)


def test_a_blurry_task_is_tested_on_the_classes_that_came_up_in_it():
    made = stream("blurry", toy(10, 20), tasks=5, seed=2)
    known: set[int] = set()
    for met in experiences(made):
        new = set(met.task.classes) - known
        tested = {y for rows in met.tests.values() for y in whole(rows).y.tolist()}
        assert tested == new and list(met.tests) == ([f"task{met.task.index}"] if new else [])
        assert new == set(range(len(known), len(known) + len(new)))  # numbered in the order in which they come
        known |= new
    assert known == set(range(10))


# -------------------------------------------------------------------------------------------------------------------- time


def timed(train: list[float], test: list[float]) -> Any:
    rows = [TensorRows(torch.arange(len(t)).float()[:, None], torch.arange(len(t)) % 2) for t in (train, test)]
    return SimpleNamespace(
        train=rows[0], test=rows[1], classes=("a", "b"), groups=(), columns={"time": Column.of(train, test)}
    )


def test_periods_of_equally_many_rows_in_the_order_of_time():
    data = timed([5.0, 1.0, 9.0, 3.0, 7.0, 2.0], [0.0, 4.9, 5.0, 100.0])
    made = stream("time-incremental", data, tasks=3)
    assert [numbers(m.task.train) for m in experiences(made)] == [[1, 5], [3, 0], [4, 2]]
    assert made.describe()["begins"] == [3.0, 7.0]
    assert [numbers(rows) for m in experiences(made) for rows in m.tests.values()] == [[0], [1, 2], [3]]
    assert made.in_order and not made[0].task.ordered


def test_periods_of_equal_time_may_lack_rows():
    data = timed([0.0, 1.0, 2.0, 8.0], [1.5, 8.0])
    made = stream("time-incremental", data, tasks=4, cut="span")
    assert [numbers(m.task.train) for m in experiences(made)] == [[0, 1], [2], [], [3]]
    assert [list(m.tests) for m in experiences(made)] == [["task0"], [], [], ["task3"]]
    assert made[2].task.rows == 0 and made[2].task.classes == ()


def test_rows_of_one_time_stay_together():
    data = timed([1.0, 1.0, 1.0, 2.0], [1.0])
    with pytest.raises(BadData, match="4 rows of 2 different times cannot make 3 periods"):
        stream("time-incremental", data, tasks=3)
    with pytest.raises(BadSetting, match="4 training rows cannot make 5 periods"):
        stream("time-incremental", data, tasks=5)
    assert [numbers(m.task.train) for m in experiences(stream("time-incremental", data, tasks=2, cut="span"))] == [
        [0, 1, 2],
        [3],
    ]


def test_without_a_column_the_order_of_the_rows_is_the_time():
    made = stream("time-incremental", toy(2, 6), tasks=3)
    assert [numbers(m.task.train) for m in experiences(made)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert [numbers(rows) for m in experiences(made) for rows in m.tests.values()] == [[-1, -2], [-3], [-4]]
    with pytest.raises(UnknownName, match="column of the data 'when'"):
        stream("time-incremental", toy(), by="when")


# ------------------------------------------------------------------------------------------------------------- re-occurring


def test_pairs_come_back_with_all_their_rows_and_one_test_set():
    data = toy(5, 4)
    made = stream("re-occurring", data, tasks=60, seed=1)
    assert isinstance(made, Returning) and len(made) == 60
    pairs = [m.task.classes for m in experiences(made)]
    assert all(len(p) == 2 for p in pairs) and len(set(pairs)) == 10  # each of the ten pairs came at least once
    for met in experiences(made):
        assert set(numbers(met.task.train)) == {k for k in range(20) if k % 5 in met.task.classes}
        assert list(met.tests) == ["all"] and numbers(met.tests["all"]) == [-1, -2, -3, -4, -5, -6]
    assert stream("re-occurring", data, tasks=5, seed=1)[4].task.classes == pairs[4]


def test_classes_come_equally_often_or_as_unequally_as_is_said():
    data = toy(10, 2)
    drawn = torch.tensor([Returning(data, 2000, seed=s).drawn(i) for s in range(2) for i in range(2000)])
    share = torch.bincount(drawn.flatten(), minlength=10) / len(drawn)
    assert float((share - 0.2).abs().max()) < 4 * math.sqrt(0.2 * 0.8 / len(drawn))  # m / N = 2 / 10
    made = Returning(data, 10, imbalance=2.0)
    chances = made.shares.sort(descending=True).values
    by_hand = torch.tensor([(0.1 - 0.005 * c) ** 2 for c in range(10)], dtype=torch.float64)
    torch.testing.assert_close(chances, by_hand / by_hand.sum())
    many = Returning(toy(16, 2), 10, imbalance=1.0).shares
    assert float(many.min()) > 0


def test_some_rows_of_a_class_are_drawn_anew_each_time():
    made = stream("re-occurring", toy(2, 30), tasks=8, rows=5)
    drawn = [numbers(m.task.train) for m in experiences(made)]
    assert all(len(rows) == len(set(rows)) == 10 for rows in drawn) and len({tuple(sorted(r)) for r in drawn}) == 8
    assert [sum(k % 2 for k in rows) for rows in drawn] == [5] * 8
    assert stream("re-occurring", toy(2, 3), tasks=1, rows=9)[0].task.rows == 6  # all there are
    with pytest.raises(BadSetting, match="a task of 3 classes cannot be drawn from 2: ask for fewer"):
        stream("re-occurring", toy(2, 3), classes=3)


# ---------------------------------------------------------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("kind", "told", "error", "message"),
    [
        ("permutd", {}, UnknownName, "unknown stream 'permutd': did you mean 'permuted'"),
        ("permuted", {"tasks": 0}, BadSetting, "Permuted.tasks must be at least 1, not 0"),
        ("permuted", {"pad": -1}, BadSetting, "Permuted.pad must be at least 0"),
        ("permuted", {"pda": 1}, UnknownName, "setting of the permuted stream 'pda': did you mean 'pad'"),
        ("permuted", {"scenario": "tasks"}, UnknownName, "value of Permuted.scenario 'tasks': did you mean 'task'"),
        ("permuted", {"arrival": "onlin"}, UnknownName, "unknown arrival 'onlin': did you mean 'online'"),
        ("rotated", {"angles": []}, BadSetting, "Rotated.angles is empty"),
        ("rotated", {"angles": ["90"]}, BadSetting, "Rotated.angles are numbers of degrees, not '90'"),
        ("rotated", {"angles": [0, 90], "tasks": 3}, BadSetting, "has 2 of them, for 3 tasks"),
        ("rotated", {"most": 400.0}, BadSetting, r"Rotated.most must be in \[0, 360\]"),
        ("blurry", {"disjoint": 1.5}, BadSetting, r"Blurry.disjoint must be in \[0, 1\]"),
        ("blurry", {"tasks": 5}, BadSetting, "2 classes cannot make 5 blurry tasks"),
        ("time-incremental", {"cut": "row"}, UnknownName, "did you mean 'rows'"),
        ("re-occurring", {"rows": 0}, BadSetting, "Reoccurring.rows must be at least 1"),
        ("re-occurring", {"imbalance": -1.0}, BadSetting, "Reoccurring.imbalance must be in"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(kind: str, told: dict[str, Any], error: type[Exception], message: str):
    with pytest.raises(error, match=message):
        stream(kind, pictures(), **told)


@pytest.mark.parametrize("kind", STREAMS)
def test_every_kind_describes_itself_in_plain_values_and_counts_its_tasks(kind: str):
    import json

    made = stream(kind, pictures(4, 4, rows=12, classes=4), tasks=2)
    said = json.loads(json.dumps(made.describe()))
    assert said["kind"] == kind == made.kind and said["length"] == 2 == len(made)
    assert (STREAMS[kind].__doc__ or "").strip()
    for index in (2, -1):
        with pytest.raises(IndexError, match=r"experiences 0..1"):
            made[index]


def test_columns_of_a_source_are_checked():
    x, y = torch.zeros(4, 3), torch.tensor([0, 1, 0, 1])

    def source(column: Column) -> Source:
        return Source("toy", TensorRows(x, y), TensorRows(x[:2], y[:2]), ("a", "b"), columns={"site": column})

    good = Column.of(["u", "v", "u", "v"], ["v", "u"])
    assert (good.names, good.train.tolist(), good.test.tolist()) == (("u", "v"), [0, 1, 0, 1], [1, 0])
    assert source(good).sha256 != source(Column.of(["v", "v", "u", "v"], ["v", "u"])).sha256
    for column, message in (
        (Column.of([0.0, 1.0, 2.0], [1.0, 2.0]), "there are 4 rows"),
        (Column.of([0.0, 1.0, 2.0, math.nan], [1.0, 2.0]), "NaN or infinite"),
        (Column(torch.tensor([0, 1, 2, 0]), torch.tensor([0, 0]), ("u", "v")), r"in 0..1: renumber"),
        (Column(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0]), ("u", "u")), "two values of one name"),
    ):
        with pytest.raises(BadData, match=message):
            source(column)
    with pytest.raises(BadData, match="test rows have the value 'w', which no training row has"):
        Column.of(["u", "v"], ["w"])


def test_arrays_bring_columns_along():
    import numpy as np

    from nacre.data import load

    n = 40
    arrays = {"x": np.random.default_rng(0).random((n, 3), dtype=np.float32), "y": np.arange(n) % 2}
    data = load(
        {**arrays, "site": np.array(["u", "v"])[np.arange(n) // 20], "time": np.arange(n) / n, "other": np.zeros(3)}
    )
    assert set(data.columns) == {"site", "time"} and data.columns["site"].names == ("u", "v")
    for part, rows in ((data.columns["time"].train, data.train), (data.columns["time"].test, data.test)):
        places = (part * n).round().long()
        assert torch.equal(torch.from_numpy(arrays["x"])[places], rows.x)  # the split took values and rows alike
