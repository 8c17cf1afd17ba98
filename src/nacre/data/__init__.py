"""Data: named sources, files and arrays as checked rows, and augmentation of whole batches."""

from .augment import AUGMENTS, Compose, Flip, Jitter, Shift, augmentation
from .glyphs import stream_glyphs
from .idx import read_idx
from .loading import SOURCES, load
from .source import Column, Source, check_inputs, digest

__all__ = [
    "AUGMENTS",
    "SOURCES",
    "Column",
    "Compose",
    "Flip",
    "Jitter",
    "Shift",
    "Source",
    "augmentation",
    "check_inputs",
    "digest",
    "load",
    "read_idx",
    "stream_glyphs",
]
