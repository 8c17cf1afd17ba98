"""The habits of scikit-learn: an estimator that goes on learning, a task with each call of `partial_fit`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import assert_all_finite, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, column_or_1d, validate_data
from torch import Tensor, nn

from . import backbones
from .core.errors import BadData, BadSetting
from .core.method import Method, compose, leaves, trains
from .core.optim import MadeOptimizer
from .core.rows import Batch, TensorRows
from .core.stream import Experience, Task
from .experiment.trial import device_called
from .experiment.trial import method as method_of
from .heads import GrowingLinear
from .learner import Learner, Stage
from .schedules import schedule

SIZE = 500  # rows predicted at once
PLAIN = ("fine-tuning", "finetuning", "none")


class Classifier(ClassifierMixin, BaseEstimator):
    """A classifier of scikit-learn's kind that learns one task with each `partial_fit`, by any method of this library.

    Classes may come with any call and need not be announced. `fit` begins anew and is one task. Rows are vectors (rows,
    width), or pictures (rows, height, width, channels), uint8 in 0..255 or float in 0..1.

    Args:
        method: A method's name, a method with settings, or several that are composed; `"fine-tuning"` is none.
        backbone: What reads the rows: a name such as `"glyph-vit"` or `"mlp:64-100"`, a folder, or a module. None: methods
            that train nothing read the numbers themselves; others train a perceptron with two layers of 100, or on pictures
            a small conv net.
        epochs: How often each row is met, where anything is trained.
        lr: The peak learning rate of AdamW, on a cosine.
        batch_size: Rows per optimizer step.
        device: `"auto"`, `"cpu"` or `"cuda"`.
        random_state: Seeds all that is drawn: a number, or a `RandomState` to draw one from; None is 0.

    Attributes:
        classes_: Labels met or announced so far, sorted; columns of `predict_proba`.
        n_features_in_: Width of a row of vectors.
        learner_: The `nacre.Learner`, with the model and the method.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> x, y = load_digits(return_X_y=True)
        >>> one, two = y < 5, y >= 5
        >>> classifier = Classifier("SLDA").partial_fit(x[one], y[one]).partial_fit(x[two], y[two])
        >>> classifier.score(x, y) > 0.9
        True
    """

    def __init__(
        self,
        method: str | Method | Sequence[str | Method] = "SLDA",
        *,
        backbone: Any = None,
        epochs: int = 5,
        lr: float = 1e-3,
        batch_size: int = 32,
        device: str = "cpu",
        random_state: Any = 0,
    ):
        self.method, self.backbone = method, backbone
        self.epochs, self.lr, self.batch_size = epochs, lr, batch_size
        self.device, self.random_state = device, random_state

    def fit(self, X: Any, y: Any) -> Classifier:
        """Forget what was learned, and learn these rows as one task.

        Args:
            X: Rows, (rows, width) or (rows, height, width, channels).
            y: Their labels, of any kind that can be sorted.

        Raises:
            BadSetting: a setting does not fit.
            ValueError: the rows or labels are none, as scikit-learn says it.
        """
        return self._learn(X, y, None, anew=True)

    def partial_fit(self, X: Any, y: Any, classes: Any = None) -> Classifier:
        """Learn these rows as the next task.

        Args:
            X: Rows, as in `fit` and as wide as before.
            y: Their labels; new ones may come at any call.
            classes: All labels that will come, where they are known; they need not be.

        Raises:
            BadSetting: a setting does not fit.
            ValueError: the rows or labels are none, as scikit-learn says it.
        """
        return self._learn(X, y, classes, anew=not hasattr(self, "learner_"))

    def predict(self, X: Any) -> Any:
        """The likeliest label of each row, (rows,)."""
        check_is_fitted(self)
        return self.classes_[self.predict_proba(X).argmax(1)]

    def predict_proba(self, X: Any) -> Any:
        """A share for each label of `classes_`, (rows, classes), which sum to 1: the softmax of the method's scores.

        They are probabilities as far as the method's scores are logits; those of nearest means and of ridge regression rank
        the classes and are not calibrated. A label that was announced and not met has 0.
        """
        check_is_fitted(self)
        rows = self._rows(X, reset=False)
        found = []
        for low in range(0, len(rows), SIZE):
            piece = rows[low : low + SIZE]
            scores = self.learner_.predict(Batch(piece, torch.zeros(len(piece), dtype=torch.long)))
            found.append(scores.double().softmax(1).cpu().numpy())
        shares = np.concatenate(found)
        ordered = np.zeros((len(shares), len(self.classes_)))
        ordered[:, np.searchsorted(self.classes_, self._met)] = shares[:, : len(self._met)]
        return ordered

    def _learn(self, X: Any, y: Any, classes: Any, anew: bool) -> Classifier:
        rows = self._rows(X, reset=anew)
        labels = column_or_1d(y, warn=True)
        assert_all_finite(labels, input_name="y")
        check_consistent_length(rows, labels)
        check_classification_targets(labels)
        if anew:
            self._met: Any = labels[:0]  # in the order in which the head knows them
            self.classes_: Any = np.unique(labels[:0])
            self.learner_ = self._learner(rows)
        fresh = np.setdiff1d(labels, self._met)
        met = np.concatenate([self._met, fresh])
        announced = [] if classes is None else [np.asarray(classes)]
        order = np.argsort(met, kind="stable")
        y_of_head = torch.from_numpy(order[np.searchsorted(met[order], labels)].astype(np.int64))
        index = self.learner_.experience
        task = Task(index, TensorRows(rows, y_of_head), tuple(y_of_head.unique().tolist()))
        for _ in self.learner_.learn(_Upto(task)):
            pass
        self._met, self.classes_ = (
            met,
            np.unique(np.concatenate([self.classes_, fresh, *announced])),
        )  # once it is learned
        return self

    def _rows(self, X: Any, reset: bool) -> Tensor:
        """The rows as a model of this library reads them: vectors in fp32, pictures with their channels first."""
        if getattr(X, "ndim", 2) != 4:
            checked: Any = validate_data(self, X, reset=reset, dtype=[np.float32, np.float64], ensure_all_finite=True)
            if reset:
                self._shape = (checked.shape[1],)
            if self._shape != (checked.shape[1],):
                raise BadData(f"this classifier learned from pictures of shape {self._shape}: give pictures")
            return torch.from_numpy(np.array(checked, dtype=np.float32))
        kept: Any = None  # the type of numbers
        pictures = check_array(X, allow_nd=True, dtype=kept, ensure_all_finite=True)
        if pictures.dtype != np.uint8 and (pictures.dtype.kind != "f" or pictures.min() < 0 or pictures.max() > 1):
            raise BadData(
                f"pictures are uint8 in 0..255 or float in 0..1, not {pictures.dtype} in {pictures.min():g}.."
                f"{pictures.max():g}: divide them"
            )
        if reset:
            self._shape = pictures.shape[1:]
        if pictures.shape[1:] != self._shape:
            raise BadData(
                f"rows have the shape {pictures.shape[1:]}, those of before {self._shape}: give rows of one shape"
            )
        first = np.array(pictures.transpose(0, 3, 1, 2), dtype=np.uint8 if pictures.dtype == np.uint8 else np.float32)
        return torch.from_numpy(first)

    def _learner(self, rows: Tensor) -> Learner:
        seed = self._seed()
        method = self._method(seed)
        if bounds := [type(m).__name__ for m in leaves(method) if isinstance(m, Method) and (m.joins or m.accumulates)]:
            raise BadSetting(
                f"{bounds[0]} learns from the rows of all tasks at once, and each call brings those of one: give fit all rows "
                'with method = "fine-tuning", or take another method'
            )
        moves = trains(method)
        made = backbones.backbone(self._name(rows, moves), seed=seed) if self._reads(moves) else None
        body: Any = nn.Flatten() if made is None else made
        width = rows[0].numel() if made is None else made.width
        pixels = backbones.Pixels() if made is None and rows.ndim == 4 else None
        model = backbones.Classifier(body, GrowingLinear(width, seed=seed), pixels, width=width)
        optimizer = MadeOptimizer("adamw", self.lr) if moves else None
        stage = Stage(method, optimizer, epochs=self.epochs, batch_size=self.batch_size, schedule=schedule("cosine"))
        return Learner(model.to(device_called(self.device)), (stage,), seed=seed)

    def _reads(self, moves: bool) -> bool:
        """Whether a backbone reads the rows, and not the head itself."""
        return moves or self.backbone is not None

    def _name(self, rows: Tensor, moves: bool) -> Any:
        """The backbone asked for, or one that suits the rows."""
        if self.backbone is not None:
            return copy.deepcopy(self.backbone)
        return f"mlp:{rows.shape[1]}-100-100" if rows.ndim == 2 else "convnet:32-64"

    def _method(self, seed: int) -> Method:
        asked = self.method if isinstance(self.method, (list, tuple)) else [self.method]
        made: list[Method] = []
        for one in asked:
            if isinstance(one, Method):
                made.append(copy.deepcopy(one))
            elif isinstance(one, str):
                made.append(Method() if one.lower() in PLAIN else method_of({"name": one}, seed))
            else:
                raise BadSetting(
                    f"method is a method or its name, not {type(one).__name__}; a model of backbone and head is "
                    "nacre.backbones.Classifier(body, head)"
                )
        return made[0] if len(made) == 1 else compose(*made)

    def _seed(self) -> int:
        if self.random_state is None:
            return 0
        if isinstance(self.random_state, (int, np.integer)):
            return int(self.random_state)
        return int(check_random_state(self.random_state).randint(2**31 - 1))


class _Upto:
    """A stream that ends with a task; what came before is not there any more, and is not asked for."""

    def __init__(self, task: Task):
        self.task = task

    def __getitem__(self, index: int, /) -> Experience:
        if index > self.task.index:
            raise IndexError(index)
        return Experience(self.task if index == self.task.index else Task(index))
