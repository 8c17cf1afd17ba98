"""What rows given in Python, and what streams of them, are refused; over 300 lines because it is a table."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from nacre.core.errors import BadData, BadSetting, UnknownName
from nacre.core.rows import Batch, TensorRows
from nacre.core.stream import Experience, Task
from nacre.data import Flip, Jitter, Source, TextRows, augmentation, glyphs, load, stream_glyphs
from nacre.streams import Split, split, stream, stream_of
from tests.errors.row import Place, Row

X, Y = np.zeros((6, 4, 4), np.uint8), np.arange(6) % 2
PICTURES, LABELS = torch.zeros(6, 1, 4, 4, dtype=torch.uint8), torch.arange(6) % 3


def source(x: Any = PICTURES, y: Any = LABELS, classes: tuple[str, ...] = ("a", "b", "c"), **more: Any) -> Source:
    rows = TensorRows(x, y)
    return Source("toy", rows, more.pop("test", rows), classes, **more)


def texts(*words: Any, y: torch.Tensor = LABELS) -> Source:
    rows = TextRows(list(words), y)
    return Source("toy", rows, rows, ("a", "b", "c"))


def no_fonts(at: Place) -> Any:
    at.patch.setattr(glyphs, "find_spec", lambda name: None)
    glyphs.font.cache_clear()
    return glyphs.font(0)


def toy(classes: int = 7, test_classes: int | None = None) -> Any:
    """Rows of so many classes, for cutting."""
    y = torch.arange(classes * 4) % classes
    rows, some = TensorRows(y.float()[:, None], y), y < (classes if test_classes is None else test_classes)
    names = tuple(f"class {k}" for k in range(classes))
    return SimpleNamespace(train=rows, test=TensorRows(rows.x[some], y[some]), classes=names, groups=())


def named(*classes: str) -> Any:
    data = toy(len(classes))
    data.classes = classes
    return data


def shifted(by: int) -> Any:
    data = toy()
    data.train = TensorRows(data.train.x, data.train.y + by)
    return data


ROWS = TensorRows(torch.zeros(2, 3), torch.tensor([0, 1]))
EMPTY = TensorRows(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))

ARRAYS = [
    Row(
        "three arrays",
        BadData,
        "3 arrays were given: give (x_train, y_train, x_test, y_test), or (x, y) to have them split",
        lambda at: load((X, Y, X)),
    ),
    Row(
        "something else",
        BadData,
        "data are given as a name, a path, arrays or a Source, not as int: give (x, y)",
        lambda at: load(7),
    ),
    Row(
        "arrays under other names",
        BadData,
        "arrays has the arrays images: name them x_train, y_train, x_test, y_test, or x, y to have them split",
        lambda at: load({"images": X}),
    ),
    Row(
        "rows of different length",
        BadData,
        "arrays, x is no array of numbers (…): give rows of equal shape",
        lambda at: load(([[1, 2], [3]], [0, 1])),
    ),
    Row(
        "a number in place of rows",
        BadData,
        "arrays, x is one number, not an array of rows: give pictures or vectors, a row each",
        lambda at: load((3.5, Y)),
    ),
    Row(
        "labels of different length",
        BadData,
        "arrays: labels are no array (…): give one whole number or name a row",
        lambda at: load((X, [[0], [1, 2]])),
    ),
    Row(
        "more rows than labels",
        BadData,
        "arrays: x has 6 rows, its labels 5: give one label for each row",
        lambda at: load((X, Y[:5])),
    ),
    Row("negative labels", BadData, "arrays: label -1 is negative: labels count from 0", lambda at: load((X, Y - 1))),
    Row(
        "labels with a fraction, or missing ones",
        BadData,
        "arrays: labels are whole numbers or names, not float64: convert them, as y.astype(int) does",
        lambda at: load((X, np.array([0, 1, 0, 1, 0, np.nan]))),
    ),
    Row(
        "one-hot labels",
        BadData,
        "arrays: labels have the shape (rows,), not (6, 6): give one class a row, not one-hot rows",
        lambda at: load((X, np.eye(6, dtype=int))),
    ),
    Row(
        "no rows",
        BadData,
        "arrays: there are no rows: give at least two of each class",
        lambda at: load((X[:0], Y[:0])),
    ),
    Row(
        "a class of one row, and no test rows",
        BadData,
        "arrays: class 0 has one row, so it cannot be trained and tested: give a second one, or test rows of their own",
        lambda at: load((X, np.arange(6))),
    ),
    Row(
        "a test label that no training row has",
        BadData,
        "arrays: test rows have the label 2, which no training row has: leave them out",
        lambda at: load((X, Y, X, Y + 1)),
    ),
    Row(
        "names of classes that are no list",
        BadData,
        "arrays: classes is a list of names, one for each label, not an array of shape ()",
        lambda at: load({"x": X, "y": Y, "classes": np.array("ab")}),
    ),
    Row(
        "a label that is none of the named classes",
        BadData,
        "arrays: the label 'a' is none of the classes b, c, ...: name it there",
        lambda at: load({"x": X, "y": np.array(["a", "b"] * 3), "classes": ["b", "c"]}),
    ),
    Row(
        "an impossible share of test rows",
        BadSetting,
        "test_share is the part of the rows kept back, between 0 and 1, not 1",
        lambda at: load((X, Y), test_share=1),
    ),
]

SOURCE = [
    Row(
        "no rows",
        BadData,
        "toy, training rows: there are none: give at least one row of each class",
        lambda at: source(PICTURES[:0], LABELS[:0]),
    ),
    Row(
        "one class",
        BadData,
        "toy, training rows: there is only one class (a), and nothing to tell apart: give data with at least "
        "two classes",
        lambda at: source(y=LABELS * 0, classes=("a",)),
    ),
    Row(
        "negative labels",
        BadData,
        "toy, training rows: label -1 is negative: labels count from 0",
        lambda at: source(y=LABELS - 1),
    ),
    Row(
        "labels beyond the classes",
        BadData,
        "toy, training rows: label 3 is beyond the 3 classes 0..2: give `classes` one name for each label, "
        "or number the labels from 0",
        lambda at: source(y=LABELS + 1),
    ),
    Row(
        "labels of another type",
        BadData,
        "toy, training rows: labels are a tensor of whole numbers (int64), not torch.float32: convert them "
        "with y.long()",
        lambda at: source(y=LABELS.float()),
    ),
    Row(
        "one-hot labels",
        BadData,
        "toy, training rows: labels have the shape (rows,), not (6, 6): give one class a row, not one-hot rows",
        lambda at: source(y=torch.eye(6).long()),
    ),
    Row(
        "a class without a training row",
        BadData,
        "toy: 1 of 4 classes have no training row ('d'): leave them out of `classes` and number the labels "
        "without gaps",
        lambda at: source(classes=("a", "b", "c", "d")),
    ),
    Row(
        "two classes of one name",
        BadData,
        "toy: two classes are called 'b': give each its own name",
        lambda at: source(classes=("a", "b", "b")),
    ),
    Row(
        "control characters in the name of a class",
        BadData,
        "toy: the class '\\x1b[31m' has control characters in its name: give it one that can be printed",
        lambda at: source(classes=("a", "b", "\x1b[31m")),
    ),
    Row(
        "arrays that are no tensors",
        BadData,
        "toy, training rows: inputs are tensors, not ndarray: use torch.as_tensor, or nacre.data.load",
        lambda at: source(PICTURES.numpy()),
    ),
    Row(
        "pictures without channels",
        BadData,
        "toy, training rows: inputs of shape (6, 4, 4) have no channels: grey pictures are (rows, 1, height, "
        "width), as x[:, None] makes them",
        lambda at: source(PICTURES[:, 0]),
    ),
    Row(
        "pictures with channels last",
        BadData,
        "toy, training rows: pictures of shape (6, 16, 16, 3) seem to have their channels last: use "
        "x.permute(0, 3, 1, 2)",
        lambda at: source(torch.zeros(6, 16, 16, 3, dtype=torch.uint8)),
    ),
    Row(
        "rows of another shape",
        BadData,
        "toy, training rows: inputs are pictures (rows, channels, height, width) or vectors (rows, width), not (6,)",
        lambda at: source(torch.zeros(6)),
    ),
    Row(
        "rows of another type",
        BadData,
        "toy, training rows: inputs are uint8 or float, not torch.int64: convert pixels in 0..255 with "
        "x.to(torch.uint8)",
        lambda at: source(PICTURES.long()),
    ),
    Row(
        "NaN or infinite pixels",
        BadData,
        "toy, training rows: 6 of 6 rows hold NaN or infinite numbers: repair or leave them out",
        lambda at: source(torch.full((6, 5), torch.inf)),
    ),
    Row(
        "float pictures beyond 0..1",
        BadData,
        "toy, training rows: float pictures lie in 0..1, these in 255..255: divide 0..255 by 255 or give "
        "uint8, and leave mean and standard deviation to the backbone's Pixels",
        lambda at: source(PICTURES + 255.0),
    ),
    Row(
        "test rows of another shape or type",
        BadData,
        "toy: a training row is (1, 4, 4) torch.uint8, a test row (1, 3, 4) torch.uint8: bring both to one "
        "shape and type",
        lambda at: source(test=TensorRows(PICTURES[:, :, :3], LABELS)),
    ),
    Row(
        "test rows with other fields",
        BadData,
        "toy: training and test rows must have the same fields: name them alike",
        lambda at: source({"ids": PICTURES}, test=TensorRows({"mask": PICTURES}, LABELS)),
    ),
    Row(
        "groups that are no partition",
        BadData,
        "toy: 1 groups hold 2 labels, but must hold each of 0..2 exactly once, and none may be empty: give "
        "no groups, or a partition of the classes",
        lambda at: source(groups=((0, 1),)),
    ),
    Row(
        "more rows than labels",
        BadData,
        "x has 6 rows and y has 5: give one label for each row",
        lambda at: TensorRows(PICTURES, LABELS[:5]),
    ),
    Row(
        "more texts than labels",
        BadData,
        "there are 1 texts and 6 labels: give one label for each text",
        lambda at: TextRows(["a"], LABELS),
    ),
    Row(
        "a text that is none",
        BadData,
        "toy, training rows: row 2 is no text but 5 (int): give texts",
        lambda at: texts("a", 5, "c", "d", "e", "f"),
    ),
    Row(
        "an empty text",
        BadData,
        "toy, training rows: row 2 has no text: leave it out",
        lambda at: texts("a", " ", "c", "d", "e", "f"),
    ),
    Row(
        "half a letter",
        BadData,
        "toy, training rows: row 2 holds half a letter (a surrogate without its other half): repair its text",
        lambda at: texts("a", "\ud800", "c", "d", "e", "f"),
    ),
    Row(
        "texts for training, pictures for testing",
        BadData,
        "toy: of training and test rows only one are texts: give both in one form",
        lambda at: source(test=TextRows(list("abcdef"), LABELS)),
    ),
    Row(
        "texts where a model needs tokens",
        BadData,
        "text rows need a text backbone, which makes tokens of them: give "
        "source.tokenized(body.tokenizer) of the source that holds them",
        lambda at: texts(*"abcdef").train.take(torch.tensor([0])),
    ),
    Row(
        "a class of glyphs without pictures",
        BadSetting,
        "each class needs at least one training and one test picture, got train_per_class=0 and "
        "test_per_class=20: raise the smaller one to 1 or more",
        lambda at: stream_glyphs(0, train_per_class=0),
    ),
    Row(
        "glyphs without matplotlib's fonts",
        BadData,
        "glyphs are drawn by Pillow from the fonts that come with matplotlib, and DejaVuSans.ttf is missing: "
        "pip install matplotlib (it brings Pillow), or reinstall it",
        no_fonts,
    ),
    Row(
        "masks of another shape",
        BadData,
        "distort takes masks of shape (rows, 64, 64) and type uint8, with a row at least, got (0, 3) "
        "torch.float32: take them from base_glyphs().masks",
        lambda at: glyphs.distort(torch.zeros(0, 3), torch.Generator(), 8),
    ),
]

AUGMENT = [
    Row(
        "an augmentation that there is not",
        UnknownName,
        "unknown augmentation 'jiter': did you mean 'jitter'? known are …",
        lambda at: augmentation("jiter"),
    ),
    Row(
        "an augmentation of rows that are no pictures",
        BadData,
        "Flip changes pictures (rows, channels, height, width) of uint8 or float, not (3, 5) torch.float32: "
        "use augmentation 'none'",
        lambda at: Flip()(Batch(torch.rand(3, 5), Y), torch.Generator()),
    ),
    Row(
        "a setting out of its range", BadSetting, "Jitter.turn must be in [0, 180], not -1", lambda at: Jitter(turn=-1)
    ),
]

STREAMS = [
    Row(
        "a scenario that there is not",
        UnknownName,
        "unknown stream 'class-incrementl': did you mean 'class-incremental'? known are …",
        lambda at: stream("class-incrementl", toy()),
    ),
    Row(
        "a setting that it has not",
        UnknownName,
        "unknown setting of the class-incremental stream 'task': did you mean 'tasks'? known are …",
        lambda at: stream("class-incremental", toy(), task=3),
    ),
    Row(
        "more tasks than classes",
        BadSetting,
        "7 classes cannot make 8 tasks: ask for 1 to 7",
        lambda at: split(toy(), 8),
    ),
    Row(
        "no number of tasks",
        BadSetting,
        "tasks is a number, or a list of the classes of each task, not '5'",
        lambda at: split(toy(), "5"),
    ),  # pyright: ignore[reportArgumentType]
    Row(
        "sizes of tasks that do not sum up",
        BadSetting,
        "tasks of [3, 3] classes make 6, but the data have 7: give sizes of at least 1 that sum to 7, or a "
        "number of tasks",
        lambda at: split(toy(), [3, 3]),
    ),
    Row(
        "an order that is none",
        BadSetting,
        "order is 'seed', 'given' or a list of classes, not 'sed'",
        lambda at: split(toy(), 2, order="sed"),
    ),
    Row(
        "an order with a class that there is not",
        UnknownName,
        "unknown class 'class 9': did you mean 'class 6'? known are …",
        lambda at: split(toy(), 2, order=["class 9"]),
    ),
    Row(
        "an order that leaves a class out",
        BadSetting,
        "order lists 6 classes, but must list each of the 7 exactly once: class 6 is missing",
        lambda at: split(toy(), 2, order=[0, 1, 2, 3, 4, 5]),
    ),
    Row(
        "a task without test rows",
        BadData,
        "task 3 (class 3) has 4 training and 0 test rows: make fewer tasks, leave these classes out of the "
        "data, or add rows of them to both",
        lambda at: split(toy(4, test_classes=3), 4, order="given"),
    ),
    Row(
        "labels beyond the classes",
        BadData,
        "training rows have labels 1..7, the data name 0..6: number them so",
        lambda at: split(shifted(1), 2),
    ),
    Row(
        "two classes of one name",
        BadData,
        "two classes are called 'a': give each its own name",
        lambda at: split(named("a", "b", "a"), 2),
    ),
    Row(
        "tasks that leave a class out",
        BadSetting,
        "2 tasks bring 4 classes, but must bring each of the 4 exactly once, and at least one each: list them anew",
        lambda at: Split(toy(4), ((0, 1), (1, 2))),
    ),
    Row(
        "a place beyond the stream",
        IndexError,
        "this stream has experiences 0..1, not 2",
        lambda at: split(toy(), 2)[2],
    ),
    Row(
        "text that is no stream",
        BadData,
        "this is no stream that to_json wrote (…): give its text",
        lambda at: Split.from_json("[]", toy()),
    ),
    Row(
        "a stream of data with other classes",
        BadData,
        "these data are not those of the stream: the data lack class 4: load the data that the stream was made of",
        lambda at: Split.from_json(split(toy(5), 2).to_json(), toy(4)),
    ),
    Row(
        "a stream of data with other rows",
        BadData,
        "these data are not those of the stream: task 0 has (12, 8) training and test rows, and had (12, "
        "12): load the data that the stream was made of",
        lambda at: Split.from_json(split(toy(5), 2).to_json(), toy(5, 4)),
    ),
    Row(
        "no experience",
        BadData,
        "a stream needs at least one experience, this list is empty: give one",
        lambda at: stream_of([]),
    ),
    Row(
        "what is no experience",
        BadData,
        "place 0 holds a Task: wrap it, Experience(Task(0, rows, classes), tests)",
        lambda at: stream_of([Task(0)]),
    ),  # pyright: ignore[reportArgumentType]
    Row(
        "a task at another place",
        BadData,
        "the experience at place 0 has task.index 1: number tasks 0, 1, ... in the order in which they arrive",
        lambda at: stream_of([Experience(Task(1))]),
    ),
    Row(
        "an empty test set",
        BadData,
        "test set 't' of experience 0 is empty: leave it out, or give it rows",
        lambda at: stream_of([Experience(Task(0), {"t": EMPTY})]),
    ),
    Row(
        "two test sets of one name",
        BadData,
        "experiences 0 and 1 have different test sets called 't': give each its own name",
        lambda at: stream_of(
            [Experience(Task(0), {"t": ROWS}), Experience(Task(1), {"t": TensorRows(torch.ones(2, 3), ROWS.y)})]
        ),
    ),
    Row(
        "a place beyond a given stream",
        IndexError,
        "this stream has experiences 0..0, not 1",
        lambda at: stream_of([Experience(Task(0))])[1],
    ),
]
