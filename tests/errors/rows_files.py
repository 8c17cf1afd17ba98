"""What files and folders of data are refused; over 300 lines because it is a table."""

from __future__ import annotations

import gzip
import io
import json
import struct
import sys
import zipfile
from typing import Any

import numpy as np
from PIL import Image

from nacre.core import files
from nacre.core.errors import BadData, BadSetting, MissingExtra, UnknownName
from nacre.data import images, load, read_idx, read_npy, read_picture, tables
from tests.errors.row import Place, Row


def idx(*shape: int, kind: int = 8) -> bytes:
    """An idx file of zeros, written by the book."""
    return bytes([0, 0, kind, len(shape)]) + struct.pack(f">{len(shape)}I", *shape) + bytes(int(np.prod(shape)))


def mnist(at: Place, **changed: bytes | None) -> Any:
    """Load a folder in MNIST format of ten training and four test pictures, with some files changed or left out."""
    usual = {"train_images": idx(10, 6, 5), "train_labels": idx(10), "t10k_images": idx(4, 6, 5), "t10k_labels": idx(4)}
    for name, content in {**usual, **changed}.items():
        if content is not None:
            part, what = name.split("_")
            at.write(f"{part}-{what}-idx{3 if what == 'images' else 1}-ubyte", content)
    return load(at.folder)


def npy(array: Any) -> bytes:
    """A .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(**members: bytes) -> bytes:
    """A .npz file of members as they are given."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as held:
        for name, content in members.items():
            held.writestr(f"{name}.npy", content)
    return file.getvalue()


def twice(name: str, content: bytes) -> bytes:
    """A .npz file with two members of one name, which no library writes without a warning."""
    return npz(**{name: content, name[:-1] + "_": content}).replace(
        f"{name[:-1]}_.npy".encode(), f"{name}.npy".encode()
    )


def picture(size: tuple[int, int] = (4, 4), mode: str = "RGB", form: str = "PNG") -> bytes:
    """A black picture."""
    file = io.BytesIO()
    Image.new(mode, size).save(file, form)
    return file.getvalue()


def pictures(at: Place, *names: str, size: tuple[int, int] = (4, 4)) -> Any:
    """Load a folder with black pictures of these names."""
    for name in names:
        at.write(name, picture(size) if name.endswith("png") else b"text")
    return load(at.folder)


PAIRS = ("a/1.png", "a/2.png", "b/1.png", "b/2.png")


def parquet(**columns: Any) -> bytes:
    """A Parquet file."""
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table(columns), file)
    return file.getvalue()


def no_pyarrow(at: Place) -> Any:
    at.patch.setitem(sys.modules, "pyarrow", None)
    return load(at.write("a.parquet", b"PAR1"))


def two_columns_of_parquet(at: Place) -> Any:
    import pyarrow
    import pyarrow.parquet

    table = pyarrow.table([[1], [2]], names=["a", "a"])
    pyarrow.parquet.write_table(table, at / "a.parquet")
    return load(at / "a.parquet")


def csv(at: Place, content: str | bytes, name: str = "a.csv", **said: Any) -> Any:
    return load(at.write(name, content), **said)


def of_json(at: Place, value: Any, name: str = "a.json", **said: Any) -> Any:
    return load(at.write(name, value if isinstance(value, str) else json.dumps(value)), **said)


def folder(at: Place, **held: str) -> Any:
    """Load a folder of text files; two underscores stand for a dot."""
    for name, text in held.items():
        at.write(name.replace("__", "."), text)
    return load(at.folder)


def small_room(at: Place, *, room: int = 100) -> Place:
    """As if files could unpack to so many bytes, or twice their size."""
    at.patch.setattr(files, "ROOM", room)
    at.patch.setattr(files, "TIMES", 2)
    return at


def no_memory(at: Place) -> Any:
    def empty(*_: Any, **__: Any) -> Any:
        raise RuntimeError("can't allocate memory")

    at.patch.setattr(images.torch, "empty", empty)
    return pictures(at, *PAIRS)


def few_pixels(at: Place) -> Any:
    at.patch.setattr(images, "MOST_PIXELS", 15)
    return read_picture(at.write("a.png", picture()))


def few_columns(at: Place) -> Place:
    at.patch.setattr(tables, "MOST_COLUMNS", 2)
    return at


DEEP = "[" * 100_000
TEN = "text,label\n" + "".join(f"word {k},{k % 2}\n" for k in range(10))

PATHS = [
    Row(
        "nothing at a path",
        BadData,
        "there is nothing at 'PATH/gone.npz' (looked for PATH/gone.npz): give one of …",
        lambda at: load(at / "gone.npz"),
    ),
    Row(
        "a name of no data",
        UnknownName,
        "unknown data 'digit': did you mean 'digits'? known are …",
        lambda at: load("digit"),
    ),
    Row(
        "a path that no file can have",
        BadData,
        "'a\\x00b.csv' cannot be looked for (…): give the path of a file or a folder",
        lambda at: load("a\0b.csv"),
    ),
    Row(
        "a path that is too long",
        BadData,
        "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx ... "
        "xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' cannot be looked for (…): give the path "
        "of a file or a folder",
        lambda at: load("x" * 5000),
    ),
    Row(
        "a home that there is not",
        BadData,
        "'~nobody-of-that-name/a.npz' cannot be looked for (…): give the path of a file or a folder",
        lambda at: load("~nobody-of-that-name/a.npz"),
    ),
    Row(
        "a file of another kind",
        BadData,
        "PATH/a.txt is a .txt file: give a folder of MNIST-format files, one with a folder of pictures for "
        "each class, one with the tables train.csv and test.csv (or .tsv, .json, .jsonl, .parquet), such a "
        "table, a folder that nacre.data.make_blocks or save_to_disk of Hugging Face datasets wrote, or a .npz file",
        lambda at: load(at.write("a.txt", "text")),
    ),
    Row(
        "a folder of other things",
        BadData,
        "PATH holds notes.txt, which is none of what is read: give a folder of MNIST-format files, one with "
        "a folder of pictures for each class, one with the tables train.csv and test.csv (or .tsv, .json, "
        ".jsonl, .parquet), such a table, a folder that nacre.data.make_blocks or save_to_disk of Hugging Face datasets wrote, "
        "or a .npz file",
        lambda at: folder(at, notes__txt="text"),
    ),
    Row(
        "a broken gzip file",
        BadData,
        "PATH/a.csv.gz is a broken gzip file (…): fetch it again",
        lambda at: csv(at, gzip.compress(b"a,b\n" * 9)[:-9], "a.csv.gz"),
    ),
    Row(
        "a gzip file that unpacks to more than any honest one",
        BadData,
        "PATH/a.csv.gz has … bytes and unpacks to more than …, as files do that are made to fill a memory: "
        "if you trust it, unpack it first and give the unpacked file",
        lambda at: csv(small_room(at), gzip.compress(bytes(10_000)), "a.csv.gz"),
    ),
    Row(
        "a file that may not be read",
        BadData,
        "PATH cannot be read as an idx file (…): is it the right file?",
        lambda at: read_idx(at.folder),
    ),
    Row(
        "a setting of pictures said of a table",
        BadSetting,
        "size = 32 is said of folders of pictures, and PATH/a.csv are none: leave it out",
        lambda at: csv(at, TEN, size=32),
    ),
    Row(
        "a setting of tables said of embedded data",
        BadSetting,
        "label = 'y' is said of tables, and these data are none: leave it out",
        lambda at: load("digits", label="y"),
    ),
]

IDX = [
    Row(
        "an idx file cut short",
        BadData,
        "PATH/train-images-idx3-ubyte is truncated or damaged: its header says 10 x 6 x 5 = 300 bytes, 293 "
        "follow: fetch it again",
        lambda at: mnist(at, train_images=idx(10, 6, 5)[:-7]),
    ),
    Row(
        "an idx file cut within its header",
        BadData,
        "PATH/train-images-idx3-ubyte is truncated: it ends within its header of 16 bytes: fetch it again",
        lambda at: mnist(at, train_images=idx(10, 6, 5)[:9]),
    ),
    Row(
        "an absurd header",
        BadData,
        "PATH/train-images-idx3-ubyte is truncated or damaged: its header says 4294967295 x 4294967295 x "
        "4294967295 x 4294967295 = 340282366604025813516997721482669850625 bytes, 4 follow: fetch it again",
        lambda at: mnist(at, train_images=b"\0\0\x08\x04" + b"\xff" * 20),
    ),
    Row(
        "wrong magic",
        BadData,
        "PATH/train-images-idx3-ubyte is no idx file: it begins with 89504e47, not 0000: is it the right file?",
        lambda at: mnist(at, train_images=b"\x89PNG"),
    ),
    Row(
        "numbers of another type",
        BadData,
        "PATH/train-images-idx3-ubyte holds idx numbers of type 0x0d in 3 dimensions (magic 00000d03); uint8 "
        "(0x08) in 1 to 4 is read: convert it to .npz and load that",
        lambda at: mnist(at, train_images=idx(10, 6, 5, kind=13)),
    ),
    Row(
        "an idx file without rows",
        BadData,
        "PATH/train-labels-idx1-ubyte holds nothing: its header says 0: is it the right file?",
        lambda at: mnist(at, train_labels=idx(0)),
    ),
    Row(
        "images and labels swapped",
        BadData,
        "PATH/train-images-idx3-ubyte has 1 dimensions and PATH/train-labels-idx1-ubyte 1; images have 3 and "
        "labels 1: are the two files swapped?",
        lambda at: mnist(at, train_images=idx(10)),
    ),
    Row(
        "images and labels of different number",
        BadData,
        "PATH/train-images-idx3-ubyte holds 10 images, PATH/train-labels-idx1-ubyte 9 labels: they do not "
        "belong together, fetch both again",
        lambda at: mnist(at, train_labels=idx(9)),
    ),
    Row(
        "one of the four files missing",
        BadData,
        "PATH has no t10k-labels-idx1-ubyte (with or without .gz; found: t10k-images-idx3-ubyte, "
        "train-images-idx3-ubyte, train-labels-idx1-ubyte): give a folder of the four MNIST-format files, or "
        "a .npz file",
        lambda at: mnist(at, t10k_labels=None),
    ),
]

NPZ = [
    Row(
        "other arrays",
        BadData,
        "PATH/a.npz has the arrays images: name them x_train, y_train, x_test, y_test, or x, y to have them split",
        lambda at: load(at.write("a.npz", npz(images=npy([1])))),
    ),
    Row(
        "one array in place of several",
        BadData,
        "PATH/a.npz holds one array, not several: write it with numpy.savez(path, x_train=..., ...)",
        lambda at: load(at.write("a.npz", npy([1]))),
    ),
    Row(
        "no .npz file, such as a pickle",
        BadData,
        "PATH/a.npz is no .npz file: it begins with 80044e2e, not 504b: is it the right file? Pickles are "
        "not read; write arrays with numpy.savez(path, x_train=..., ...)",
        lambda at: load(at.write("a.npz", b"\x80\x04N.")),
    ),
    Row(
        "a .npz file cut short",
        BadData,
        "PATH/a.npz cannot be read as .npz (…): write it again with numpy.savez(path, x_train=..., ...)",
        lambda at: load(at.write("a.npz", npz(x=npy([1]), y=npy([1]))[:-40])),
    ),
    Row(
        "pickled objects inside",
        BadData,
        "PATH/a.npz, x holds pickled Python objects; pickles are not read: save plain arrays of numbers or "
        "text with numpy.savez",
        lambda at: load(at.write("a.npz", npz(x=npy(np.array([{}], object)), y=npy([0])))),
    ),
    Row(
        "an array cut short",
        BadData,
        "PATH/a.npz, x is truncated or damaged: its header says 2 of int64 = 16 bytes, 12 follow: write it again",
        lambda at: load(at.write("a.npz", npz(x=npy([1, 2])[:-4], y=npy([0])))),
    ),
    Row(
        "an absurd header",
        BadData,
        "PATH/a.npz cannot be read as .npz (…): write it again with numpy.savez(path, x_train=..., ...)",
        lambda at: load(at.write("a.npz", npz(x=npy([1, 2]).replace(b"(2,)", b"(9**9,)"), y=npy([0])))),
    ),
    Row(
        "a header of absurd sizes",
        BadData,
        "PATH/a.npy is truncated or damaged: its header says 9999999 of int64 = 79999992 bytes, 16 follow: "
        "write it again",
        lambda at: read_npy(at.write("a.npy", npy([1, 2]).replace(b"(2,), }      ", b"(9999999,), }"))),
    ),
    Row(
        "a .npy file that is none",
        BadData,
        "PATH/a.npy cannot be read as an array (…): write it again with numpy.save",
        lambda at: read_npy(at.write("a.npy", b"text")),
    ),
    Row(
        "dates, or what else is no number",
        BadData,
        "PATH/a.npy holds datetime64[D]: save arrays of numbers or text",
        lambda at: read_npy(at.write("a.npy", npy(np.array(["2020"], "M8[D]")))),
    ),
    Row(
        "a table with named fields",
        BadData,
        "PATH/a.npy has the .npy version (3, 0), as tables with named fields do: save plain arrays",
        lambda at: read_npy(at.write("a.npy", b"\x93NUMPY\x03\x00" + npy(np.zeros(1))[8:])),
    ),
    Row(
        "two arrays of one name",
        BadData,
        "PATH/a.npz has two arrays of one name: write it again with numpy.savez",
        lambda at: load(at.write("a.npz", twice("xy", npy([1])))),
    ),
    Row(
        "a .npz file that unpacks to more than any honest one",
        BadData,
        "PATH/a.npz has … bytes and unpacks to more than …, as files do that are made to fill a memory: if "
        "you trust it, unpack it first and give the unpacked file",
        lambda at: load(small_room(at).write("a.npz", npz(x=npy(np.zeros(9999)), y=npy([0])))),
    ),
]

TABLES = [
    Row(
        "an empty file",
        BadData,
        "PATH/a.csv is empty: its first line names the columns, the others are rows",
        lambda at: csv(at, ""),
    ),
    Row(
        "a header and no rows",
        BadData,
        "PATH/a.csv has no rows: give at least two of each class",
        lambda at: csv(at, "text,label\n"),
    ),
    Row(
        "a line with too few or too many cells",
        BadData,
        "PATH/a.csv has 3 cells in line 2, but 2 columns (text, label): is the file cut short? Fetch or "
        "write it again, or put cells with commas into quotes",
        lambda at: csv(at, "text,label\na,b,c\n"),
    ),
    Row(
        "quotes that never end",
        BadData,
        "PATH/a.csv is no CSV from line 2 on (…): is the file cut short? Fetch or write it again, or close its quotes",
        lambda at: csv(at, 'text,label\n"a,b\n'),
    ),
    Row(
        "two columns of one name",
        BadData,
        "PATH/a.csv has two columns called 'text': give each its own name; the first line names the columns",
        lambda at: csv(at, "text,text\na,b\n"),
    ),
    Row(
        "a column without a name",
        BadData,
        "PATH/a.csv does not name its column 2: write a name into the first line",
        lambda at: csv(at, "text,\na,b\n"),
    ),
    Row(
        "a table without a header",
        BadData,
        "PATH/a.csv begins with the numbers 1, 2: its first line has to name the columns, such as text,label",
        lambda at: csv(at, "1,2\n3,4\n"),
    ),
    Row(
        "more columns than any table has",
        BadData,
        "PATH/a.csv has 3 columns, at most 2 are read: leave some out",
        lambda at: csv(few_columns(at), "a,b,c\n1,2,3\n"),
    ),
    Row(
        "another encoding",
        BadData,
        "PATH/a.csv is not in UTF-8: line 2 has the byte 0xf6 where none can be: save it in UTF-8, as `iconv "
        "-f latin1 -t utf-8` does",
        lambda at: csv(at, "text,label\nKöln,1\n".encode("latin-1")),
    ),
    Row(
        "UTF-16",
        BadData,
        "PATH/a.csv is in UTF-16: save it in UTF-8",
        lambda at: csv(at, "text,label\n".encode("utf-16")),
    ),
    Row(
        "NUL bytes",
        BadData,
        "PATH/a.csv has a NUL byte in line 2: it is no text, or in UTF-16; save it as text in UTF-8",
        lambda at: csv(at, "text,label\na\0,b\n"),
    ),
    Row(
        "no column of labels",
        BadData,
        "PATH/a.csv has the columns a, b, and none of them is called label, labels, class, category, intent, "
        'target or y: say which one holds the labels, as label = "..."',
        lambda at: csv(at, "a,b\n1,2\n"),
    ),
    Row(
        "a column that is not there",
        UnknownName,
        "unknown column of PATH/a.csv 'lable': did you mean 'label'? known are …",
        lambda at: csv(at, TEN, label="lable"),
    ),
    Row(
        "no column of texts",
        BadData,
        "PATH/a.csv has the columns a, b, label; beside the labels in 'label' a, b are no numbers: say which "
        'one holds texts, as text = "...", or leave those out that are no numbers',
        lambda at: csv(at, "a,b,label\nx,y,1\n"),
    ),
    Row(
        "nothing beside the labels",
        BadData,
        "PATH/a.csv has the columns label; beside the labels in 'label' there is no other column: say which "
        'one holds texts, as text = "...", or leave those out that are no numbers',
        lambda at: csv(at, "label\n1\n"),
    ),
    Row(
        "texts and labels in one column",
        BadData,
        "PATH/a.csv: 'text' cannot be both the texts and the labels: say two columns",
        lambda at: csv(at, TEN, text="text", label="text"),
    ),
    Row(
        "a missing label",
        BadData,
        "PATH/a.csv: 1 of 2 rows have nothing in the column 'label', the first is row 2: fill it or leave "
        "these rows out",
        lambda at: csv(at, "text,label\na,0\nb,\n"),
    ),
    Row(
        "a negative label",
        BadData,
        "PATH/a.csv: row 2 has -1 in the column 'label'; labels count from 0: leave rows without a label out",
        lambda at: csv(at, "text,label\na,0\nb,-1\n"),
    ),
    Row(
        "labels with a fraction",
        BadData,
        "PATH/a.csv: row 1 has 0.5 in the column 'label'; labels are all whole numbers or all names: write one kind",
        lambda at: csv(at, "text,label\na,0.5\nb,1\n"),
    ),
    Row(
        "labels of two kinds",
        BadData,
        "PATH/a.json: row 1 has 1 in the column 'label'; labels are all whole numbers or all names, others "
        "are names: write one kind",
        lambda at: of_json(at, [["a", 1], ["b", "two"]]),
    ),
    Row(
        "a whole text as label",
        BadData,
        "PATH/a.csv: row 1 has 'so on so on so on so on so on so on so on so on so on so ... on so on so on "
        "so on so on so on so on so on so on so on ' in the column 'label'; a label is the name of a class, "
        "up to 200 letters without line breaks: is it the right column?",
        lambda at: csv(at, f"text,label\na,{'so on ' * 50}\n"),
    ),
    Row(
        "a test label that no training row has",
        BadData,
        "PATH/a.json, test: rows have the label '2', which no training row has: leave them out, or add such "
        "rows for training",
        lambda at: of_json(at, {"train": [["a", 0], ["b", 1]], "test": [["c", 2]]}),
    ),
    Row(
        "a class of one row, and no test rows",
        BadData,
        "a: class x has one row, so it cannot be trained and tested: give a second one, or test rows of their own",
        lambda at: csv(at, "text,label\na,x\nb,y\nc,y\n"),
    ),
    Row(
        "one class",
        BadData,
        "a, training rows: there is only one class (x), and nothing to tell apart: give data with at least two classes",
        lambda at: csv(at, "text,label\na,x\nb,x\nc,x\n"),
    ),
    Row(
        "an empty text",
        BadData,
        "a, training rows: row 2 has no text: leave it out",
        lambda at: of_json(at, {"train": [["a", 0], [" ", 1]], "test": [["c", 1]]}),
    ),
    Row(
        "a text that is none",
        BadData,
        "PATH/a.json: row 2 has 5 in the column 'text', which is no text: give texts",
        lambda at: of_json(at, [{"text": "a", "label": 0}, {"text": 5, "label": 1}]),
    ),
    Row(
        "half a letter",
        BadData,
        "PATH/a.json: row 2 holds half a letter (a surrogate without its other half): repair it",
        lambda at: of_json(at, '[["a", 0], ["\\ud800", 1]]'),
    ),
    Row(
        "a number that is none",
        BadData,
        "PATH/test.csv: row 1 has 'x' in the column 'a', which holds numbers elsewhere",
        lambda at: folder(at, train__csv="a,label\n1,0\n2,1\n", test__csv="a,label\nx,0\n"),
    ),
    Row(
        "NaN or infinite numbers",
        BadData,
        "PATH/a.csv: 1 of 2 rows have no finite number in the column 'a', the first is row 2 with nan: "
        "repair them or leave them out",
        lambda at: csv(at, "a,label\n1,0\nnan,1\n"),
    ),
    Row(
        "a missing number",
        BadData,
        "PATH/a.csv: 1 of 2 rows have nothing in the column 'a', the first is row 2: fill it or leave these rows out",
        lambda at: csv(at, "a,label\n1,0\n,1\n"),
    ),
    Row(
        "a column that only training rows have",
        BadData,
        "PATH/test.csv has no column 'text', which the training rows have: it has words, label",
        lambda at: folder(at, train__csv=TEN, test__csv="words,label\na,1\n"),
    ),
    Row(
        "no JSON",
        BadData,
        "PATH/a.json is no JSON (…): is the file cut short? Fetch or write it again",
        lambda at: of_json(at, "[1, 2"),
    ),
    Row(
        "JSON nested too deeply",
        BadData,
        "PATH/a.json is nested deeper than any table: give rows in columns",
        lambda at: of_json(at, DEEP),
    ),
    Row(
        "JSON of another form",
        BadData,
        'PATH/a.json is no table: give a list of objects with the columns as keys, a list of ["text", '
        '"label"], an object of such lists named train and test, or an object with a list for each column',
        lambda at: of_json(at, [1, 2]),
    ),
    Row(
        "a key twice in a row",
        BadData,
        "PATH/a.json has two columns called 'text': give each its own name",
        lambda at: of_json(at, '[{"text": "a", "text": "b"}]'),
    ),
    Row(
        "columns of different length",
        BadData,
        "PATH/a.json has columns of different length (1 in text, 2 in label): give a cell for every row",
        lambda at: of_json(at, {"text": ["a"], "label": [0, 1]}),
    ),
    Row(
        "rows of ever other columns",
        BadData,
        "PATH/a.json has more than 2 columns: rows of one table have the same ones",
        lambda at: of_json(few_columns(at), [{"a": 1}, {"b": 1}, {"c": 1}]),
    ),
    Row(
        "training rows under two names",
        BadData,
        "PATH/a.json holds train rows under two names: keep one of them",
        lambda at: of_json(at, {"train": [], "training": []}),
    ),
    Row(
        "a line of JSON that is no object",
        BadData,
        'PATH/a.jsonl has 5 in line 1: a line is an object with the columns as keys, such as {"text": "...", '
        '"label": "..."}',
        lambda at: of_json(at, "5\n", "a.jsonl"),
    ),
    Row(
        "a line of JSON cut short",
        BadData,
        "PATH/a.jsonl is no JSON in line 2 (…): is the file cut short? Fetch or write it again",
        lambda at: of_json(at, '{"text": "a", "label": 0}\n{"text', "a.jsonl"),
    ),
    Row(
        "Parquet without the package that reads it",
        MissingExtra,
        "PATH/a.parquet needs the package 'pyarrow', which is not installed: pip install 'nacre[tables]'",
        no_pyarrow,
    ),
    Row(
        "a Parquet file cut short",
        BadData,
        "PATH/a.parquet cannot be read as Parquet (…): is the file cut short? Fetch or write it again",
        lambda at: load(at.write("a.parquet", parquet(text=["a"], label=[0])[:-9])),
    ),
    Row(
        "Parquet with two columns of one name",
        BadData,
        "PATH/a.parquet has two columns called 'a': give each its own name",
        two_columns_of_parquet,
    ),
    Row(
        "a Parquet file that unpacks to more than any honest one",
        BadData,
        "PATH/a.parquet has … bytes and unpacks to more than …, as files do that are made to fill a memory: "
        "if you trust it, unpack it first and give the unpacked file",
        lambda at: load(small_room(at, room=10).write("a.parquet", parquet(text=["a" * 9999] * 999, label=[0] * 999))),
    ),
    Row(
        "two files of training rows",
        BadData,
        "PATH/train.csv and PATH/training.csv are both train rows: keep one of them in the folder",
        lambda at: folder(at, train__csv=TEN, training__csv=TEN),
    ),
    Row(
        "a file of training rows with parts of its own",
        BadData,
        "PATH/train.json holds parts of its own, but its name says that it holds train rows: rename it",
        lambda at: folder(at, train__json='{"train": [], "test": []}'),
    ),
    Row(
        "numbered files of different columns",
        BadData,
        "PATH/train-1-of-2.csv has the columns a, b, PATH/train-0-of-2.csv text, label: parts of one table "
        "have the same",
        lambda at: folder(at, **{"train-0-of-2__csv": TEN, "train-1-of-2__csv": "a,b\n"}),
    ),
    Row(
        "groups.json that is no JSON",
        BadData,
        "PATH/groups.json is no JSON (…): write an object of lists of class names, or delete it",
        lambda at: folder(at, train__csv=TEN, groups__json="{"),
    ),
    Row(
        "groups.json of another form",
        BadData,
        'PATH/groups.json is no object of lists of class names, such as {"animals": ["cat", "dog"]}: repair '
        "or delete it",
        lambda at: folder(at, train__csv=TEN, groups__json="[1]"),
    ),
    Row(
        "groups.json that leaves a class out",
        BadData,
        "PATH/groups.json does not hold each class exactly once (1): name each one once, or delete it",
        lambda at: folder(at, train__csv=TEN, groups__json='{"one": ["0"]}'),
    ),
]

PICTURES = [
    Row(
        "a file that is no picture",
        BadData,
        "PATH/a/3.png cannot be read as a picture (…): is it one, and whole? Fetch or save it again, or leave it out",
        lambda at: pictures(at, *PAIRS) if at.write("a/3.png", "text") else None,
    ),
    Row(
        "a picture cut short",
        BadData,
        "PATH/a.png cannot be read as a picture (…): is it one, and whole? Fetch or save it again, or leave it out",
        lambda at: read_picture(at.write("a.png", picture((64, 64))[:-30])),
    ),
    Row(
        "a program in the clothes of a picture",
        BadData,
        "PATH/a.png cannot be read as a picture (…): is it one, and whole? Fetch or save it again, or leave it out",
        lambda at: read_picture(at.write("a.png", "%!PS-Adobe-3.0 EPSF-3.0\n")),
    ),
    Row(
        "a header of absurd sizes",
        BadData,
        "PATH/a.png says that it has 4 x 4 pixels, at most 15 are read: shrink it",
        few_pixels,
    ),
    Row(
        "numbers whose white is unknown",
        BadData,
        "PATH/a.tif holds fractional numbers of 32 bit, whose white is unknown: save it with 8 or 16 bit a channel",
        lambda at: read_picture(at.write("a.tif", picture(mode="F", form="TIFF"))),
    ),
    Row(
        "pictures of mixed sizes",
        BadData,
        "PATH/b/3.png has 5x4 pixels, PATH/a/1.png 4x4: give pictures of one size, or say one, such as size "
        "= 64, and they are stretched to it",
        lambda at: pictures(at, *PAIRS) if at.write("b/3.png", picture((5, 4))) else None,
    ),
    Row(
        "a size that is none",
        BadSetting,
        "size is a side in pixels or [height, width], each at least 1 and not absurdly large, not 0",
        lambda at: pictures(at, *PAIRS) and load(at.folder, size=0),
    ),
    Row(
        "pictures beside the folders of the classes",
        BadData,
        "PATH/c.png lies beside the folders of the classes: put it into that of its class",
        lambda at: pictures(at, *PAIRS, "c.png"),
    ),
    Row(
        "a folder in the folder of a class",
        BadData,
        "PATH/a/deeper is a folder inside that of a class: put pictures into the folder of their class",
        lambda at: pictures(at, *PAIRS, "a/deeper/1.png"),
    ),
    Row(
        "a class without pictures",
        BadData,
        "PATH/c holds no pictures (.png, .jpg, .jpeg, .bmp, .gif, .webp, .tif, .tiff, .ppm, .pgm): delete "
        "it, or put pictures of its class there",
        lambda at: pictures(at, *PAIRS, "c/notes.txt"),
    ),
    Row(
        "a class that only test pictures have",
        BadData,
        "PATH/test/c is a class that has no folder in PATH/train: leave it out or add it",
        lambda at: pictures(at, *(f"train/{p}" for p in PAIRS), "test/c/1.png"),
    ),
    Row(
        "two folders of test pictures",
        BadData,
        "PATH has two folders of one part among train, val, valid: keep one for each part",
        lambda at: pictures(at, *(f"train/{p}" for p in PAIRS), "val/a/1.png", "valid/a/1.png"),
    ),
    Row(
        "no folders of classes",
        BadData,
        "PATH/train holds no folders with pictures: make one for each class",
        lambda at: pictures(at, "test/a/1.png", "train/1.txt") if not (at / "train").mkdir() else 0,
    ),
    Row(
        "control characters in the name of a class",
        BadData,
        "the folder 'PATH/c\\x1b' has control characters in its name, which names a class: rename it",
        lambda at: pictures(at, *PAIRS, "c\x1b/1.png"),
    ),
    Row(
        "more pictures than memory",
        BadData,
        "4 pictures of 4x4 do not fit into memory: say a smaller size, such as size = 64, or make blocks of them, which stay "
        "on disk (nacre.data.make_blocks)",
        no_memory,
    ),
]
