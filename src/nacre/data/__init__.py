"""Data: named sources, files, folders and arrays as checked rows, and augmentation of whole batches."""

from .augment import AUGMENTS, Compose, Flip, Jitter, Shift, augmentation
from .glyphs import stream_glyphs
from .idx import read_idx
from .images import read_picture
from .loading import SOURCES, load
from .npz import read_npy, read_npz
from .source import Column, Source, check_inputs, digest
from .tables import Table, read_tables
from .texts import TextRows
from .validation import without_test_rows

__all__ = [
    "AUGMENTS",
    "SOURCES",
    "Column",
    "Compose",
    "Flip",
    "Jitter",
    "Shift",
    "Source",
    "Table",
    "TextRows",
    "augmentation",
    "check_inputs",
    "digest",
    "load",
    "read_idx",
    "read_npy",
    "read_npz",
    "read_picture",
    "read_tables",
    "stream_glyphs",
    "without_test_rows",
]
