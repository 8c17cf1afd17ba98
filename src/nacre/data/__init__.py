"""Data: named sources, files, folders and arrays as checked rows, and augmentation of whole batches."""

from .augment import AUGMENTS, Compose, Flip, Jitter, Shift, augmentation
from .columns import texts_in
from .glyphs import stream_glyphs
from .idx import read_idx
from .images import read_picture
from .loading import SOURCES, load
from .npz import read_npy, read_npz
from .source import Source, check_inputs, digest, tokens_of
from .tables import Table, form_of, read_tables
from .texts import TextRows
from .tokens import TokenRows

__all__ = [
    "AUGMENTS",
    "SOURCES",
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
    "read_idx",
    "read_npy",
    "read_npz",
    "read_picture",
    "read_tables",
    "stream_glyphs",
    "texts_in",
    "tokens_of",
]
