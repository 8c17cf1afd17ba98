"""A source refuses what cannot be learned from, and says what to change."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

from nacre.core.errors import BadData
from nacre.core.rows import TensorRows
from nacre.data import Column, Source, digest, without_test_rows


def pictures(rows: int = 6, side: int = 4, classes: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.arange(rows * side * side).remainder(256).to(torch.uint8).view(rows, 1, side, side)
    return x, torch.arange(rows) % classes


def source(x: Any = None, y: Any = None, classes: tuple[str, ...] = ("a", "b", "c"), **more: Any) -> Source:
    made_x, made_y = pictures()
    x, y = made_x if x is None else x, made_y if y is None else y
    return Source("toy", TensorRows(x, y), more.pop("test", TensorRows(x, y)), classes, **more)


def test_good_data_pass_and_get_a_digest() -> None:
    x, y = pictures()
    made = source()
    assert made.sha256 == digest(x, y, x, y)
    assert source(sha256="known").sha256 == "known"
    assert "tensor(" not in repr(made)


def test_digest_reads_bytes_of_any_dtype_and_mappings_by_key() -> None:
    x = torch.tensor([1.0, 2.0])
    assert digest(x) != digest(x.double())
    assert digest({"b": x, "a": x + 1}) == digest(x + 1, x)
    assert len(digest(x, torch.tensor(3))) == 64


X, Y = pictures()
NAN = torch.rand(6, 1, 4, 4).index_fill(0, torch.tensor([2]), float("nan"))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": X[:0], "y": Y[:0]}, "there are none"),
        ({"y": Y * 0, "classes": ("a",)}, "only one class \\(a\\).*at least two"),
        ({"y": Y - 1}, "label -1 is negative"),
        ({"y": Y + 1}, "label 3 is beyond the 3 classes"),
        ({"y": Y.float()}, "labels .* not torch.float32.*y.long"),
        ({"y": Y.to(torch.uint8)}, "not torch.uint8"),
        ({"y": torch.eye(6).long()}, "one-hot"),
        ({"x": NAN}, "1 of 6 rows hold NaN or infinite"),
        ({"x": torch.full((6, 5), float("inf"))}, "6 of 6 rows hold NaN or infinite"),
        ({"x": X[:, 0]}, "no channels.*x\\[:, None\\]"),
        ({"x": X.float()}, "in 0..1.*divide"),
        ({"x": X.long()}, "uint8 or float, not torch.int64"),
        ({"x": torch.zeros(6, 16, 16, 3, dtype=torch.uint8)}, "channels last.*permute"),
        ({"x": torch.zeros(6)}, "vectors \\(rows, width\\), not \\(6,\\)"),
        ({"x": X.numpy()}, "tensors, not ndarray"),
        ({"test": TensorRows(X[:, :, :3], Y)}, "a test row \\(1, 3, 4\\)"),
        ({"test": TensorRows(X / 255, Y)}, "float32.*one shape and type"),
        ({"test": TensorRows(X[:0], Y[:0])}, "test rows: there are none"),
        ({"classes": ("a", "b", "c", "d")}, "1 of 4 classes have no training row \\('d'\\)"),
        ({"classes": ("a", "b", "b")}, "two classes are called 'b'"),
        ({"groups": ((0, 1),)}, "each of 0..2 exactly once"),
        ({"groups": ((0, 1, 2), ())}, "none may be empty"),
    ],
)
def test_bad_data_are_refused_with_the_cure(given: dict[str, Any], message: str) -> None:
    with pytest.raises(BadData) as error:
        source(**given)
    assert re.search(message, str(error.value)), str(error.value)
    assert str(error.value).startswith("toy")


def test_inputs_and_labels_of_different_length_are_refused() -> None:
    with pytest.raises(BadData, match="6 rows and y has 5"):
        TensorRows(X, Y[:5])


def test_a_small_domain_keeps_validation_rows():
    big, small = torch.arange(400) % 4, torch.arange(8) % 4
    y = torch.cat([big, small, torch.tensor([0])])  # and one row of a third domain
    domains = Column.of(["big"] * 400 + ["small"] * 8 + ["single"], ["big"])
    rows = TensorRows(torch.arange(len(y)).float()[:, None], y)
    source = Source("toy", rows, TensorRows(rows.x[:1], y[:1]), tuple("abcd"), columns={"domain": domains})
    for seed in range(5):
        kept = without_test_rows(source, seed)
        held = kept.columns["domain"]
        assert torch.bincount(held.test, minlength=3).tolist() == [40, 0, 4]  # names in the order of the alphabet
        assert torch.bincount(held.train, minlength=3).tolist() == [360, 1, 4]
        assert kept.test.y[held.test == 2].sort().values.tolist() == [0, 1, 2, 3]


def test_a_class_that_has_one_row_in_each_domain_keeps_validation_rows():
    rows = TensorRows(torch.zeros(8, 1), torch.arange(8) % 4)
    sites = [f"site {k}" for k in range(8)]
    source = Source("toy", rows, rows, tuple("abcd"), columns={"domain": Column.of(sites, sites)})
    assert without_test_rows(source).test.y.sort().values.tolist() == [0, 1, 2, 3]
