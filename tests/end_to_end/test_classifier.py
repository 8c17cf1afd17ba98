"""The estimator keeps scikit-learn's contract, and goes on learning where its own estimators would begin anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.utils.estimator_checks import parametrize_with_checks

import nacre
from nacre.core.errors import BadSetting
from nacre.methods import ER, EWC, RanPAC

TRAINED = nacre.Classifier("ER", epochs=20, lr=0.01)
ROUNDS = {
    "check_methods_subset_invariance": "it asks for 1e-7, and products in float32 round otherwise where rows come in other "
    "batches"
}


@parametrize_with_checks(
    [nacre.Classifier(), nacre.Classifier("SimpleCIL"), TRAINED],
    expected_failed_checks=lambda estimator: ROUNDS if estimator.method == "ER" else {},
)
def test_it_is_an_estimator(estimator: Any, check: Any):
    check(estimator)


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = load_digits(return_X_y=True)
    return x[:900], np.array(list("zyxwvutsrq"))[y[:900]]  # labels whose order is not that of their coming


@pytest.mark.parametrize("method", ["SLDA", RanPAC(width=200)])
def test_classes_that_come_one_task_after_the_other_are_learned_like_all_at_once(method: Any, digits: Any):
    x, y = digits
    whole = nacre.Classifier(method).fit(x, y)
    parts = nacre.Classifier(method)
    for labels in ("zy", "xwq", "vu", "tsr"):
        mine = np.isin(y, list(labels))
        parts.partial_fit(x[mine], y[mine])
        assert list(parts.classes_) == sorted({*parts.classes_})
        assert set(parts.predict(x[mine])) <= {*parts.classes_}
    assert list(parts.classes_) == sorted("zyxwvutsrq")
    assert parts.score(x, y) > 0.93 and abs(parts.score(x, y) - whole.score(x, y)) < 0.03
    shares = parts.predict_proba(x)
    assert shares.shape == (900, 10) and np.allclose(shares.sum(1), 1)
    assert (parts.classes_[shares.argmax(1)] == parts.predict(x)).all()
    if method == "SLDA":  # sums of rows, however they were cut
        assert np.allclose(shares, whole.predict_proba(x), atol=1e-6)


def test_columns_stay_with_their_labels_when_a_smaller_one_comes_later():
    x = np.array([[0.0], [0.2], [9.0], [9.3], [-9.0], [-9.4]] * 5)
    y = np.array([5, 5, 7, 7, 1, 1] * 5)
    late = nacre.Classifier().partial_fit(x[y > 1], y[y > 1]).partial_fit(x[y == 1], y[y == 1])
    assert list(late.classes_) == [1, 5, 7] and list(late.predict([[-9.0], [0.0], [9.0]])) == [1, 5, 7]


def test_announced_classes_have_a_column_and_no_share_until_they_are_met(digits: Any):
    x, y = digits
    one = y == "z"
    some = nacre.Classifier().partial_fit(x[one | (y == "y")], y[one | (y == "y")], classes=["a", "y", "z"])
    assert list(some.classes_) == ["a", "y", "z"] and (some.predict_proba(x[one])[:, 0] == 0).all()
    assert some.partial_fit(x[:4], ["b", "b", "z", "y"]).predict_proba(x[:2]).shape == (2, 4)


def test_it_is_decided_by_random_state_and_by_nothing_else(digits: Any):
    x, y = digits[0][:200], digits[1][:200]
    made = nacre.Classifier("ER", epochs=1, random_state=3)
    first = clone(made).fit(x, y).predict_proba(x)
    np.random.seed(1)
    assert (clone(made).fit(x, y).predict_proba(x) == first).all()
    assert (clone(made).set_params(random_state=4).fit(x, y).predict_proba(x) != first).any()
    drawn = nacre.Classifier("ER", epochs=1, random_state=np.random.RandomState(0)).fit(x, y)
    assert drawn.score(x, y) > 0.2
    assert made.get_params()["method"] == "ER" and not hasattr(made, "learner_")


def test_pictures_with_their_channels_last(digits: Any):
    x, y = digits
    pictures = (x[:300].reshape(-1, 8, 8, 1) * 15).astype(np.uint8)
    flat = nacre.Classifier().fit(pictures, y[:300])
    assert flat.score(pictures, y[:300]) > 0.95
    floats = (pictures / 255).astype(np.float32)
    assert (nacre.Classifier().fit(floats, y[:300]).predict(floats) == flat.predict(pictures)).all()
    vit = nacre.Classifier("SimpleCIL", backbone="glyph-vit").fit(pictures[:80], y[:80])
    assert vit.score(pictures[:80], y[:80]) > 0.5
    convnet = nacre.Classifier(["EWC", ER(rows=8)], epochs=4, lr=0.01).fit(pictures, y[:300])
    assert convnet.score(pictures, y[:300]) > 0.6


def test_each_call_is_a_task_of_the_stream(digits: Any):
    x, y = digits
    kinds = [np.isin(y, list(labels)) for labels in ("zy", "xw")]
    weights = []
    for strength in (0.0, 1e6):
        made = nacre.Classifier(EWC(strength=strength, rows=50), epochs=2)
        for mine in kinds:
            made.partial_fit(x[mine], y[mine])
            weights.append(made.learner_.model.body.layers[0].weight.detach().clone())
    assert (weights[0] == weights[2]).all() and made.learner_.experience == 2
    assert (weights[3] - weights[2]).norm() < 0.5 * (weights[1] - weights[0]).norm()


def test_a_call_that_fails_leaves_the_classes_that_were_learned(digits: Any, monkeypatch: pytest.MonkeyPatch):
    x, y = digits
    first, second = np.isin(y, ["z", "y"]), np.isin(y, ["x", "w"])
    made = nacre.Classifier("ER", epochs=1).partial_fit(x[first], y[first])
    before = made.predict_proba(x)
    with monkeypatch.context() as patch:
        patch.setattr(type(made.learner_), "learn", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            made.partial_fit(x[second], y[second])
    assert (made.predict_proba(x) == before).all() and len(made.classes_) == 2


def test_what_it_holds_does_not_grow_with_the_rows(digits: Any):
    x, y = digits
    made, sizes = nacre.Classifier(), []
    for _ in range(2):
        for _ in range(3):
            made.partial_fit(x, y)
        sizes.append(_bytes(made.learner_.state_dict()))
    assert sizes[0] == sizes[1]


def _bytes(tree: Any) -> int:
    if isinstance(tree, dict):
        return sum(map(_bytes, tree.values()))
    if isinstance(tree, list):
        return sum(map(_bytes, tree))
    return getattr(tree, "nbytes", 0)


def test_a_model_is_not_taken_for_a_method(digits: Any):
    with pytest.raises(BadSetting, match=r"nacre\.backbones\.Classifier\(body, head\)"):
        nacre.Classifier(nacre.backbone("mlp:64-8")).fit(*digits)  # pyright: ignore[reportArgumentType]
    with pytest.raises(BadSetting, match="Joint learns from the rows of all tasks"):
        nacre.Classifier("Joint").fit(*digits)
