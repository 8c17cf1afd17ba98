"""Whatever is drawn: a stream holds each row once, and a config parses or says why it does not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from hypothesis import event, given, settings
from hypothesis import strategies as st

from nacre.core.errors import BadData, BadSetting, NacreError, UnknownName
from nacre.core.rows import TensorRows
from nacre.core.stream import Joined, experiences
from nacre.data import Source, load, read_tables
from nacre.experiment import Config, differences
from nacre.experiment.config import tomllib
from nacre.streams import Split, stream

drawn = settings(max_examples=120, deadline=None, derandomize=True, database=None)

# ---------------------------------------------------------------------------------------------------------------- streams


class Counted(TensorRows):
    """Rows that know which of them were taken."""

    taken: set[int]

    def take(self, index: torch.Tensor) -> Any:
        self.taken.update(index.tolist())
        return super().take(index)


@st.composite
def labelled(draw: st.DrawFn) -> Any:
    """Rows of 2 to 9 classes with up to 6 rows each, training and test; each row's input is its own number."""
    classes, least = draw(st.integers(2, 9)), draw(st.sampled_from([1, 1, 1, 0]))
    parts = []
    for first in (0, 1000):
        counts = draw(st.lists(st.integers(least, 6), min_size=classes, max_size=classes))
        y = torch.tensor([c for c, n in enumerate(counts) for _ in range(n)], dtype=torch.long)
        y = y[torch.tensor(draw(st.permutations(range(len(y)))), dtype=torch.long)] if len(y) else y
        parts.append((first + torch.arange(len(y)).float()[:, None], y))
    train, test = (Counted(x, y) for x, y in parts)
    for rows in (train, test):
        object.__setattr__(rows, "taken", set())
    return SimpleNamespace(train=train, test=test, classes=tuple(f"c{k}" for k in range(classes)), groups=())


@st.composite
def cuts(draw: st.DrawFn, classes: int) -> Any:
    """A number of tasks, or how many classes each has; some of them cannot be."""
    ends = draw(st.sets(st.integers(1, classes - 1))) | {classes}
    sizes = [end - begin for begin, end in zip([0, *sorted(ends)], sorted(ends), strict=False)]
    wrong = st.lists(st.integers(0, classes), min_size=1, max_size=classes)
    return draw(st.one_of(st.just(sizes), st.integers(1, classes), st.integers(-1, classes + 1), wrong))


def orders(classes: int) -> st.SearchStrategy[Any]:
    """Orders, some of which leave a class out."""
    names = st.permutations([f"c{k}" for k in range(classes)])
    wrong = st.lists(st.integers(0, classes), max_size=classes)
    return st.one_of(st.sampled_from(["seed", "given"]), names, st.permutations(range(classes)), wrong)


@drawn
@given(labelled(), st.data(), st.integers(0, 2**40), st.sampled_from(["class-incremental", "task-incremental"]))
def test_a_stream_holds_each_row_once_or_is_refused(data: Any, draw: Any, seed: int, kind: str) -> None:
    tasks, order = draw.draw(cuts(len(data.classes))), draw.draw(orders(len(data.classes)))
    try:
        made = stream(kind, data, tasks=tasks, order=order, seed=seed)
    except (BadSetting, BadData, UnknownName):
        event("refused")
        return
    event("made")
    again = stream(kind, data, tasks=tasks, order=order, seed=seed)
    assert not data.train.taken and not data.test.taken, "a stream reads rows only where they are asked for"
    met = list(experiences(made))
    assert not data.train.taken and len(met) == len(made)
    assert [c for e in met for c in e.task.classes] == list(range(len(data.classes)))
    seen: dict[str, list[float]] = {"train": [], "test": []}
    for index, e in enumerate(met):
        (test,) = e.tests.values()
        for part, rows, other in (
            ("train", e.task.train, again[index].task.train),
            ("test", test, again[index].tests[f"task{index}"]),
        ):
            assert rows is not None and other is not None
            batch, same = (r.take(torch.arange(len(r))) for r in (rows, other))
            assert torch.equal(batch.x, same.x) and torch.equal(batch.y, same.y), "made again, a stream is the same"
            assert len(batch) and set(batch.y.tolist()) <= set(e.task.classes)
            whole = getattr(data, part)
            for number, label in zip(batch.x.flatten().long().tolist(), batch.y.tolist(), strict=True):
                assert made.class_names[label] == data.classes[int(whole.y[number % 1000])]
            assert (batch.task is None) == (kind == "class-incremental")
            seen[part] += batch.x.flatten().tolist()
    for part in ("train", "test"):
        assert sorted(seen[part]) == getattr(data, part).x.flatten().tolist(), "each row lies in exactly one task"
    assert not set(seen["train"]) & set(seen["test"])
    assert Split.from_json(made.to_json(), data).describe() == made.describe()
    joined = Joined(made)[0]
    assert joined.task.rows == len(data.train) and set(joined.tests) == {f"task{i}" for i in range(len(made))}


@drawn
@given(st.lists(st.integers(2, 9), min_size=2, max_size=6), st.integers(0, 2**40), st.floats(0.01, 0.99))
def test_a_split_keeps_of_each_class_some_for_testing(counts: list[int], seed: int, share: float) -> None:
    y = torch.tensor([c for c, n in enumerate(counts) for _ in range(n)])
    x = torch.arange(len(y)).float()[:, None]
    made, same = (load((x, y), seed=seed, test_share=share) for _ in range(2))
    assert isinstance(made, Source) and made.sha256 == same.sha256
    held = [rows.x.flatten().tolist() for rows in (made.train, made.test)]  # pyright: ignore[reportAttributeAccessIssue]
    assert sorted(held[0] + held[1]) == x.flatten().tolist()
    for c, n in enumerate(counts):
        test = int((made.test.y == c).sum())
        assert 1 <= test <= n - 1 and abs(test - n * share) <= 1


# ---------------------------------------------------------------------------------------------------------------- configs

WORDS = st.one_of(
    st.sampled_from(
        [
            *(
                "run",
                "data",
                "stream",
                "backbone",
                "stage",
                "watch",
                "name",
                "seeds",
                "methods",
                "optimizer",
                "schedule",
                "lr",
            ),
            *(
                "ER",
                "EWC",
                "MIST",
                "memory",
                "capacity",
                "rows",
                "Reservoir",
                "os:system",
                "nacre.methods.er:ER",
                "../ER",
                "none",
            ),
            *(
                "epochs",
                "clip",
                "when",
                "every",
                "adamw",
                "sgd",
                "groups",
                "match",
                "betas",
                "cosine",
                "warmup",
                "source",
                "kind",
            ),
            *(
                "tasks",
                "order",
                "augment",
                "flip",
                "pretrained",
                "plugins",
                "device",
                "cpu",
                "~nobody/x",
                "a\0b",
                "mlp:64-32",
            ),
        ]
    ),
    st.text(max_size=12),
)
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(),
    WORDS,
    st.dates(),
    st.integers(0, 5),
    st.binary(max_size=3),
)
TREES = st.recursive(
    VALUES,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(WORDS, inner, max_size=4)),
    max_leaves=12,
)
PARTS = st.fixed_dictionaries(
    {"name": WORDS}, optional={"memory": TREES, "rows": TREES, "strength": TREES, "how": TREES}
)
STAGES = st.fixed_dictionaries(
    {"methods": st.lists(st.one_of(PARTS, WORDS, TREES), max_size=2)},
    optional={
        "optimizer": st.one_of(PARTS, TREES),
        "schedule": TREES,
        "epochs": TREES,
        "when": TREES,
        "clip": TREES,
        "steps": TREES,
    },
)
CONFIGS = st.fixed_dictionaries(
    {"stage": st.lists(st.one_of(STAGES, TREES), min_size=1, max_size=2)},
    optional={"run": TREES, "data": TREES, "stream": TREES, "backbone": TREES, "watch": TREES, "other": TREES},
)


def holds(tables: Any, changes: list[str]) -> bool:
    """Whether a tree is a config; if it is, it survives its own tables and TOML."""
    try:
        config = Config.of(tables, changes)
    except NacreError as error:
        assert str(error) and len(str(error)) < 4000
        event("refused")
        return False
    event("made")
    again = Config.of(config.to_dict())
    assert again == config and not differences(again.to_dict(), config.to_dict())
    assert Config.of(tomllib.loads(config.to_toml())) == config
    return True


@settings(drawn, max_examples=120)
@given(st.one_of(CONFIGS, st.dictionaries(WORDS, TREES, max_size=3)), st.lists(st.text(max_size=20), max_size=1))
def test_any_tree_is_a_config_or_is_refused(tables: Any, changes: list[str]) -> None:
    holds(tables, changes)


SEEDS = st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=3, unique=True)
SOUND = st.fixed_dictionaries(
    {
        "stage": st.lists(
            st.fixed_dictionaries(
                {"methods": st.lists(st.sampled_from(["ER", "ewc", {"name": "MIST", "width": 8}]), max_size=2, unique_by=str)},
                optional={
                    "optimizer": st.sampled_from(["adamw", {"name": "sgd", "momentum": 0.5}, {"lr": 1}]),
                    "schedule": st.sampled_from(["cosine", {"name": "wsd", "decay": 0.5}, {"warmup": 2}]),
                    "epochs": st.integers(1, 2**40),
                    "clip": st.one_of(st.just("none"), st.floats(1e-6, 1e30)),
                    "when": st.sampled_from(["first", "later", "0,3-5"]),
                },
            ),
            min_size=1,
            max_size=3,
        )
    },
    optional={
        "run": st.fixed_dictionaries({}, optional={"seeds": SEEDS}),
        "stream": st.fixed_dictionaries({}, optional={"tasks": st.one_of(st.integers(), st.lists(st.integers(), max_size=3))}),
    },
)  # fmt: skip


@settings(drawn, max_examples=50)
@given(SOUND)
def test_sound_configs_survive_their_own_tables(tables: Any) -> None:
    numbers = tables.get("stream", {}).get("tasks", 0)
    small = all(abs(n) < 2**63 for n in (numbers if isinstance(numbers, list) else [numbers]))
    assert holds(tables, []) == small


# ----------------------------------------------------------------------------------------------------------------- tables

CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), min_size=1, max_size=8).filter(str.strip)


@settings(drawn, max_examples=60)
@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
def test_tables_come_back_as_they_were_written(tmp_path_factory: Any, rows: list[tuple[str, str]]) -> None:
    import csv
    import json

    folder = tmp_path_factory.getbasetemp()
    with (folder / "a.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *rows])
    (folder / "a.jsonl").write_text("\n".join(json.dumps({"text": a, "label": b}) for a, b in rows), encoding="utf-8")
    (folder / "a.json").write_text(json.dumps(rows), encoding="utf-8")
    for name in ("a.csv", "a.jsonl", "a.json"):
        table = read_tables(folder / name)["train"]
        assert list(zip(table.columns["text"], table.columns["label"], strict=True)) == rows, name
