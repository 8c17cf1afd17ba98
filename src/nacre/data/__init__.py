"""Data: named sources, files, folders and arrays as checked rows, and augmentation of whole batches."""

from .augment import AUGMENTS, Compose, Flip, Jitter, Shift, augmentation
from .block_making import make_blocks
from .blocks import BlockRows
from .columns import texts_in
from .glyphs import stream_glyphs
from .idx import read_idx
from .images import PICTURES, read_picture
from .loading import SOURCES, load
from .npz import read_npy, read_npz
from .refusals import check_inputs
from .source import Column, Source, digest
from .tables import Table, form_of, read_tables
from .texts import TextRows
from .tokens import TokenRows, tokens_of
from .validation import without_test_rows

__all__ = [
    "AUGMENTS",
    "PICTURES",
    "SOURCES",
    "BlockRows",
    "Column",
    "Compose",
    "Flip",
    "Jitter",
    "Shift",
    "Source",
    "Table",
    "TextRows",
    "TokenRows",
    "augmentation",
    "check_inputs",
    "digest",
    "form_of",
    "load",
    "make_blocks",
    "read_idx",
    "read_npy",
    "read_npz",
    "read_picture",
    "read_tables",
    "stream_glyphs",
    "texts_in",
    "tokens_of",
    "without_test_rows",
]
