"""What stands in the page is what stands in the record, whatever the record is like."""

from __future__ import annotations

import json
import math
import re
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from nacre.core.run import Run, percent
from nacre.metrics import Matrix
from nacre.report import as_csv, as_latex, as_markdown, figures
from nacre.report.colours import SCALES, STEPS, contrast, variables
from nacre.report.comparison_page import comparison_page
from nacre.report.plots import Level, Line
from nacre.report.rendering import LARGEST, html
from nacre.report.run_page import run_page
from tests.report.reading import Reader
from tests.report.records import ODD, odd, result, run

RECORDS = odd()


@cache
def read_odd(kind: str) -> Reader:
    """The page of an odd record."""
    return read(RECORDS[kind])


def read(record: Run) -> Reader:
    """The page of what a record says once it has been written down."""
    return Reader(html(run_page(Run.from_json(json.loads(json.dumps(record.to_json()))))))


@pytest.fixture(scope="module")
def page() -> Reader:
    return read(run(seeds=1))


def test_every_score_stands_in_the_matrix(page: Reader):
    wanted = result()
    for j, test in enumerate(wanted.tests):
        column = page.table("Accuracy in percent").column(test["name"])
        assert column == {m: percent(wanted.matrix[i][j]) for i, m in enumerate(wanted.moments)}


def test_a_record_that_was_tampered_with_gives_another_page(page: Reader):
    other = run(seeds=1)
    other.results[0].matrix[2][1] = 0.1234
    found = read(other)
    assert found.table("Accuracy in percent").column("task1")["task2"] == "12.3"
    assert "12.3" not in page.text and found.text != page.text


def test_several_seeds_are_their_mean_and_spread_and_each_by_itself():
    found = read(run(seeds=3))
    assert found.table("Accuracy in percent, mean ± spread over 3 seeds").column("task0")["task0"] == "96.0 ± 1.0"
    for seed, score in ((0, "97.0"), (1, "96.0"), (2, "95.0")):
        assert found.table(f"Seed {seed}: accuracy").column("task0")["task0"] == score
    assert set(found.table("Figures of each seed").column("last")) == {"seed 0", "seed 1", "seed 2", "mean ± spread"}


def test_forgetting_is_that_of_the_metrics():
    matrix, held = Matrix(), result(6)
    held.matrix[3][1] = 0.999  # better later than when it was learned
    for i, moment in enumerate(held.moments):
        for j in range(i + 1):
            matrix.add(moment, held.tests[j]["name"], held.matrix[i][j], 20, learned=i == j)
    rows = figures.by_task(Run("a", seeds=[0], results={0: held}))
    lost = [row[4].mean for row in rows]
    assert lost[:-1] == pytest.approx([matrix.forgetting_of(t) for t in matrix.tests[:-1]], abs=1e-12)
    assert math.isnan(lost[-1]) and sum(lost[:-1]) / 5 == pytest.approx(matrix.forgetting(), abs=1e-12)
    assert figures.over_tasks(held) == pytest.approx(matrix.curve(), abs=1e-12)


def test_drops_behind_borders_are_the_lowest_of_the_same_tasks(page: Reader):
    drops = page.table("Mean score of earlier tasks")
    assert drops.rows[1] == ["task1", "90.0", "40.0", "80.0", "50.0", "30"]
    assert drops.rows[2][1] == "85.0"  # task0 at 80, task1 at 90 when task1 ended


def test_motion_is_that_of_layers_and_rest_is_told(page: Reader):
    far, share = page.table("How far each layer moved"), page.table("Share of entries that moved")
    assert far.column("task0") == {"layers.0": "10", "layers.1": "20", "layers.2": "30"}
    assert share.column("task1") == {"layers.0": "100.0", "layers.1": "50.0", "layers.2": "33.3"}
    assert "Asked to rest: 4,321 entries. Moved: 0." in page.text
    assert "Moved: 7." in read_odd("rest broken, NaN came up").text


def test_the_rest_of_the_record_is_told(page: Reader):
    for words in (
        "The backbone mlp:64-16 was carried through digits as a class-incremental stream: 4 tasks",
        "On each task EWC learned for 1 epoch each by sgd with a rate of 0.1.",
        "No answer stood on statistics of an older backbone",
        "768 MiB",
        "stage.0",
        "Overcoming catastrophic forgetting in neural networks (2016, arXiv 1612.00796)",
        "faithful: the published formulas, tested",
    ):
        assert words in page.text
    assert page.table("What the numbers depend on").column("version")["python"] == "3.11"
    stale = read_odd("stale")
    assert stale.table("Tasks answered").rows[1] == ["0", "task3", "3", "0, 1, 2"]
    followed = read_odd("statistics that follow")
    assert "Statistics were taken along to the present backbone 4 times: 75.0 % of the drift" in followed.text
    rows = followed.table("Drift of the features").rows
    assert rows[1] == ["0", "1", "440", "0.910", "0.750", "0.500", "ridge 0.3"]
    assert rows[2] == ["0", "2", "1", "0.500", "-", "-", "width 1.3"]


def test_bounds_are_drawn_beside_the_accuracy():
    value = figures.Value(0.877, 0.01)
    made = html(run_page(run(), [Line("fine-tuning", [value] * 4, "c1", True)], [Level("joint", value)]))
    found = Reader(made)
    numbers = found.table("Mean accuracy over the tasks learned")
    assert numbers.column("fine-tuning")["2"] == "87.7 ± 1.0"
    assert "joint: 87.7 ± 1.0 after the last task" in found.text and made.count(">joint</text>") == 1


@pytest.mark.parametrize("kind", RECORDS)
def test_odd_records_give_pages_that_are_whole(kind: str):
    found = read_odd(kind)
    assert not found.wrong and not found.open
    assert "html" in found.tags and found.tags.count("h1") == 1
    assert len(set(found.ids)) == len(found.ids)
    assert not re.search(r"\bnan\b|None|Undefined", found.text)
    assert all(as_text([RECORDS[kind]]) for as_text in (as_csv, as_latex, as_markdown))


@pytest.mark.parametrize("kind", ["odd names", "odd words", "failed"])
def test_names_are_text_and_nothing_else(kind: str):
    found = read_odd(kind)
    assert found.tags.count("script") == 2 and "b" not in found.tags  # ours
    assert "<script>alert('x')</script>" in found.text
    longest = max(len(cell) for table in found.tables for row in table.rows for cell in row)
    assert longest <= 300


def test_nothing_is_asked_of_the_network():
    made = html(run_page(run())) + html(comparison_page([run(), run(status="failed")]))
    outside = [(tag, name, value) for tag, name, value in Reader(made).links if not value.startswith(("#", "data:,"))]
    assert {(tag, name) for tag, name, _ in outside} == {("a", "href")}
    assert {value for _, _, value in outside} == {"https://arxiv.org/abs/1612.00796"}
    assert not re.search(r"url\((?!#)|@import|<image|xlink", made)
    assert set(re.findall(r"https?://[^\s\"'<)]+", made)) == {"https://arxiv.org/abs/1612.00796"}


def test_tables_are_for_screen_readers_too(page: Reader):
    assert all(t.caption.strip() and set(t.scopes) <= {"col", "row"} for t in page.tables)
    assert all(len({len(row) for row in t.rows}) == 1 for t in page.tables)


def test_equal_records_give_equal_pages():
    assert html(run_page(run())) == html(run_page(run()))


def test_long_streams_are_thinned_evenly_and_that_is_said():
    record = run(tasks=220, layers=100, seeds=1)
    made = html(run_page(record))
    found = Reader(made)
    assert len(made.encode()) < LARGEST / 3
    for words in (
        "40 of 220 moments are shown",
        "48 of 100 layers are shown",
        "24 of 220 tasks are shown",
        "200 of 220 test",
    ):
        assert words in found.text
    names = list(found.table("Accuracy in percent").column("task0"))
    gaps = [int(b[4:]) - int(a[4:]) for a, b in pairwise(names)]
    assert names[0] == "task0" and names[-1] == "task219" and set(gaps) <= {5, 6}


def test_a_record_whose_motion_is_nan_can_be_read_again(tmp_path: Path):
    RECORDS["NaN everywhere"].save(tmp_path)
    assert math.isnan(Run.load(tmp_path).figure("moved")[0])


def test_every_step_of_every_scale_can_be_read_in_both_schemes():
    for scheme in ("light", "dark"):
        found = variables(scheme)
        steps = [f"{name}-{k}" for name in SCALES for k in range(STEPS + 1)]
        assert min(contrast(found[s], found[f"{s}-ink"]) for s in steps) >= 4.5
        assert (
            min(contrast(found[back], found[ink]) for back in ("page", "panel") for ink in ("ink", "muted", "accent"))
            >= 4.5
        )
        assert min(contrast(found["page"], found[f"{kind}{k}"]) for kind in "ct" for k in range(8)) >= 3.0


def test_a_comparison_tells_what_differs_first_and_pairs_seeds():
    other = run(seeds=3, name="b")
    other.stages[0]["optimizer"]["lr"] = 0.5
    for held in other.results.values():
        held.summary["last"] += 0.1
    found = Reader(html(comparison_page([run(seeds=2), other])))
    assert not found.wrong and found.ids.index("settings") < found.ids.index("paired") < found.ids.index("curves")
    assert found.table("Settings that differ").rows[1:] == [["stage.0.optimizer.lr", "0.1", "0.5"]]
    pair = found.table("Difference to a run")
    assert pair.rows[1][:4] == ["b", "0, 1", "2 of 2", "+10.0 ± 0.0"]


def test_of_parts_that_are_not_the_same_only_names_are_compared_first():
    other = run(name="b", stages=[{"methods": [{"name": "SI", "strength": 1.0, "damping": 0.1}], "when": "every"}])
    found = Reader(html(comparison_page([run(), other])))
    places = [row[0] for row in found.table("Settings that differ").rows[1:]]
    assert "stage.0.methods.0.name" in places and "stage.0.methods.0.damping" not in places
    assert "stage.0.methods.0.damping" in [row[0] for row in found.table("All settings that differ").rows]


def test_csv_holds_every_number():
    lines = as_csv([run(seeds=1), run(name="=b", seeds=1)]).splitlines()
    wanted = result().matrix
    assert f"a run,0,accuracy,task2,task1,{wanted[2][1]!r}" in lines
    assert "a run,0,relative,task0,body.layers.1.bias,0.2" in lines
    assert sum(line.startswith("'=b,0,accuracy,") for line in lines) == 10  # what is no formula in a spreadsheet


def test_latex_and_markdown_escape_names():
    latex, markdown = as_latex([run(names=ODD)]), as_markdown([run(names=("a|b",))])
    assert r"$x\_1$" not in latex and r"=1+1|\$x\_1\$\textbackslash{}n" in latex and r"$96.5 \pm 0.7$" in latex
    assert "a\\|b" in markdown and "EWC (faithful)" in markdown


@pytest.mark.parametrize("place", range(0, 2000, 37))
def test_a_thinned_curve_keeps_its_lowest_point(place):
    from nacre.report.training_plots import POINTS, _thinned

    y = [0.9] * 2000
    y[place] = 0.1
    x, kept = _thinned(list(range(2000)), y)
    assert len(x) <= POINTS and x == sorted(x) and kept[x.index(place)] == 0.1
