"""Tables in files: every format means the same rows, and what was guessed is said."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import nacre
from nacre.core.errors import BadData
from nacre.data import Source, TextRows, load, read_tables
from nacre.streams import split, stream

ROWS = [(f'say, "{word}"\n{k}', label) for k, word in enumerate(("hello", "größe", "née")) for label in ("b", "a")] * 2
TEXTS = [text for text, _ in ROWS]


def comma(rows: list[tuple[Any, ...]], header: tuple[str, ...] = ("text", "label"), delimiter: str = ",") -> bytes:
    file = io.StringIO()
    csv.writer(file, delimiter=delimiter).writerows([header, *rows])
    return file.getvalue().encode()


def parquet(rows: list[tuple[Any, ...]], *names: str) -> bytes:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    file = io.BytesIO()
    columns = list(zip(*rows, strict=True))
    parquet.write_table(pyarrow.table(dict(zip(names, columns, strict=True))), file)
    return file.getvalue()


OBJECTS = [{"text": text, "label": label} for text, label in ROWS]
FORMS = {
    "a.csv": lambda: comma(ROWS),
    "b.csv": lambda: b"\xef\xbb\xbf" + comma(ROWS),
    "c.csv": lambda: comma(ROWS, delimiter=";"),
    "d.csv.gz": lambda: gzip.compress(comma(ROWS)),
    "e.tsv": lambda: comma(ROWS, delimiter="\t"),
    "f.jsonl": lambda: "\n".join(map(json.dumps, OBJECTS)).encode() + b"\n\n",
    "g.json": lambda: json.dumps(OBJECTS).encode(),
    "h.json": lambda: json.dumps(ROWS).encode(),
    "i.json": lambda: json.dumps({"text": TEXTS, "label": [label for _, label in ROWS]}).encode(),
    "j.parquet": lambda: parquet(ROWS, "text", "label"),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_format_means_the_same_rows(name: str, tmp_path: Path):
    (tmp_path / name).write_bytes(FORMS[name]())
    table = read_tables(tmp_path / name)["train"]
    assert [list(table.columns[c]) for c in ("text", "label")] == [TEXTS, [label for _, label in ROWS]]
    data = load(tmp_path / name, seed=3)
    assert isinstance(data.train, TextRows) and isinstance(data.test, TextRows)
    assert data.classes == ("a", "b") and data.name == name[0]
    assert sorted([*data.train.texts, *data.test.texts]) == sorted(TEXTS)
    assert data.test.y.bincount().tolist() == [1, 1] and data.train.y.bincount().tolist() == [5, 5]
    assert all(dict(ROWS)[text] in "ab" for text in data.train.texts)
    assert "labels are in 'label'; texts are in 'text'" in data.note and "split by seed 3" in data.note
    assert data.sha256 == load(tmp_path / name, seed=3).sha256 != load(tmp_path / name, seed=4).sha256


def test_the_digest_of_texts_is_of_their_bytes_and_where_they_end(tmp_path: Path):
    y = torch.tensor([0, 1])

    def of(*texts: str) -> str:
        return Source("toy", TextRows(list(texts), y), TextRows(list(texts), y), ("a", "b")).sha256

    assert of("ab", "c") != of("a", "bc") and of("ab", "c") == of("ab", "c")


def test_folders_bring_their_parts(tmp_path: Path):
    for part, rows in (("train", ROWS), ("Test", ROWS[:4]), ("dev", ROWS[:2])):
        (tmp_path / f"{part}.csv").write_bytes(comma(rows, ("utterance", "intent")))
    (tmp_path / "categories.json").write_text("[]")
    (tmp_path / "README.md").write_text("about")
    data = load(tmp_path)
    assert (len(data.train), len(data.test), len(data.validation or ())) == (12, 4, 2)
    assert "split" not in data.note and "labels are in 'intent'; texts are in 'utterance'" in data.note
    (tmp_path / "Test.csv").unlink()
    data = load(tmp_path)
    assert len(data.test) == 2 and data.validation is None and "the validation rows are for testing" in data.note
    (tmp_path / "dev.csv").unlink()
    data = load(tmp_path)
    assert len(data.test) == 2 and "split by seed 0" in data.note


def test_parts_may_lie_in_one_file_or_in_several(tmp_path: Path):
    held = {"train": ROWS, "val": ROWS[:2], "test": ROWS[:4], "oos_train": [["what", "oos"]]}
    (tmp_path / "all.json").write_text(json.dumps(held))
    data = load(tmp_path)
    assert (len(data.train), len(data.test), len(data.validation or ()), data.classes) == (12, 4, 2, ("a", "b"))
    assert "left out: oos_train" in data.note
    several = tmp_path / "several"
    several.mkdir()
    for k in range(2):
        (several / f"train-{k:05d}-of-00002.csv").write_bytes(comma(ROWS[k * 6 : k * 6 + 6]))
    (several / "test.csv").write_bytes(comma(ROWS[:4]))
    assert load(several).train.texts == TEXTS and load(several).train.y.tolist() == data.train.y.tolist()


def test_numbers_are_rows_that_train_at_once(tmp_path: Path):
    y = torch.arange(120) % 4
    x = torch.eye(4)[y] + 0.1 * torch.arange(480).view(120, 4).remainder(7) / 7
    rows = [
        (*row, f"kind {label}", k % 3 == 0) for k, (row, label) in enumerate(zip(x.tolist(), y.tolist(), strict=True))
    ]
    (tmp_path / "a.jsonl").write_text(
        "\n".join(json.dumps(dict(zip(("a", "b", "c", "d", "class", "odd"), row, strict=True))) for row in rows)
    )
    data = load(tmp_path / "a.jsonl")
    assert data.train.x.dtype == torch.float32 and data.train.x.shape == (96, 5)
    assert "rows are the numbers in a, b, c, d, odd" in data.note
    assert nacre.fit(str(tmp_path / "a.jsonl"), "SimpleCIL", tasks=2).figure("last")[0] > 0.9
    whole = torch.cat([data.train.x, data.test.x])[:, :4].sum(1).sort().values
    torch.testing.assert_close(whole, x.sum(1).sort().values)


def test_whole_numbers_are_classes_in_their_order(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes(comma([(f"text {k}", k % 12) for k in range(36)]))
    assert load(tmp_path / "a.csv").classes == tuple(map(str, range(12)))
    (tmp_path / "b.parquet").write_bytes(parquet([(f"text {k}", k % 12) for k in range(36)], "text", "label"))
    assert load(tmp_path / "b.parquet").classes == tuple(map(str, range(12)))


def test_the_kind_of_labels_is_one_for_all_parts(tmp_path: Path):
    (tmp_path / "train.csv").write_bytes(comma([(f"text {k}", ("1", "2", "other")[k % 3]) for k in range(9)]))
    (tmp_path / "test.csv").write_bytes(comma([("a", "1"), ("b", "2")]))
    data = load(tmp_path)
    assert data.classes == ("1", "2", "other") and data.test.y.tolist() == [0, 1]


def test_whole_numbers_that_are_written_otherwise_are_names(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes(comma([(f"text {k}", ("01", "1", "2")[k % 3]) for k in range(9)]))
    assert load(tmp_path / "a.csv").classes == ("01", "1", "2")


def test_columns_are_found_by_name_or_as_said(tmp_path: Path):
    rows = [(k, f"text {k}", f"more {k}", "ab"[k % 2], "xy"[k % 2]) for k in range(8)]
    (tmp_path / "a.csv").write_bytes(comma(rows, ("id", "Sentence", "other", "Label", "kind")))
    data = load(tmp_path / "a.csv")
    assert data.classes == ("a", "b") and data.train.texts[0].startswith("text")
    assert "other columns were left out: id, other, kind" in data.note
    told = load(tmp_path / "a.csv", text="other", label="kind")
    assert told.classes == ("x", "y") and told.train.texts[0].startswith("more") and "labels are" not in told.note
    config = nacre.Config.of({"stage": [{}], "data": {"source": str(tmp_path / "a.csv"), "text": "other"}})
    assert config.data.reading() == {"text": "other", "test_share": 0.2} | dict.fromkeys(("label", "image", "size"))


def test_domains_and_times_come_from_tables(tmp_path: Path):
    rows = [(f"text {k}", "ab"[k % 2], ("sea", "air")[k // 20], k, 1_600_000_000 + k, "x") for k in range(24)]
    (tmp_path / "a.csv").write_bytes(comma(rows, ("text", "label", "Domain", "id", "time", "more")))
    data = load(tmp_path / "a.csv")
    assert "streams may be cut by Domain, time" in data.note and "other columns were left out: id, more" in data.note
    domain, time = data.columns["domain"], data.columns["time"]
    assert domain.names == ("air", "sea") and domain.test.bincount().tolist() == [2, 4], "of each class in each domain"
    for part, held, when in ((data.train, domain.train, time.train), (data.test, domain.test, time.test)):
        places = [int(text.split()[1]) for text in part.texts]
        assert held.tolist() == [int(k < 20) for k in places] and when.tolist() == [1_600_000_000 + k for k in places]
    assert [*stream("domain-incremental", data, order="given")[1].tests] == ["sea"]


def test_names_of_domains_stand_beside_rows_of_numbers(tmp_path: Path):
    rows = [(k / 7, "ab"[k % 2], ("sea", "air")[k // 20], k) for k in range(24)]
    (tmp_path / "a.csv").write_bytes(comma(rows, ("x", "label", "domain", "time")))
    data = load(tmp_path / "a.csv")
    assert data.train.x.shape[1] == 2 and [*data.columns] == ["domain"], "numbers are learned from"
    (tmp_path / "b.csv").write_bytes(comma([(f"{k}.org", "ab"[k % 2]) for k in range(8)], ("domain", "label")))
    assert isinstance(load(tmp_path / "b.csv").train, TextRows) and not load(tmp_path / "b.csv").columns


def test_groups_become_tasks(tmp_path: Path):
    rows = [(f"text {k}", "abcd"[k % 4]) for k in range(16)]
    (tmp_path / "train.csv").write_bytes(comma(rows))
    (tmp_path / "groups.json").write_text(json.dumps({"first": ["d", "a"], "second": ["b", "c"]}))
    data = load(tmp_path)
    assert data.groups == ((3, 0), (1, 2)) and split(data, 2, order="given").tasks == data.groups


def test_texts_are_cut_into_tasks_and_read_by_who_makes_tokens_of_them(tmp_path: Path):
    (tmp_path / "a.csv").write_bytes(comma(ROWS))
    data = load(tmp_path / "a.csv")
    met = split(data, 2)[0]
    with pytest.raises(BadData, match="text rows need a text backbone"):
        met.task.train.take(torch.tensor([0]))
    with pytest.raises(BadData, match="a has text rows, which need a text backbone, and 'convnet' reads pictures"):
        nacre.fit(str(tmp_path / "a.csv"))


@pytest.mark.parametrize(
    ("name", "rows", "classes", "groups"),
    [("banking77", (10003, 3080, 0), 77, 0), ("clinc150", (15000, 4500, 3000), 150, 10)],
)
def test_published_data_load_as_they_are(shared: Path, name: str, rows: tuple[int, ...], classes: int, groups: int):
    data = load(shared / name)
    assert (len(data.train), len(data.test), len(data.validation or ())) == rows
    assert (len(data.classes), len(data.groups)) == (classes, groups)
    assert data.train.y.unique().tolist() == list(range(classes))


def test_numbers_of_the_electricity_market_load_as_they_are(shared: Path):
    data = load(shared / "elec2" / "elec.csv.gz")
    assert len(data.train) + len(data.test) == 45312 and data.train.x.shape[1] == 6 and data.classes == ("0", "1")
