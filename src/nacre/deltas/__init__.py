"""Sparse deltas: what a tuned model has that its base has not, as a file; applied, merged, told."""

from .file import Change, Delta
from .merging import HOWS, How, merge
from .saving import applied, apply, save
from .weights import Kind, Weights, weights_of

__all__ = ["HOWS", "Change", "Delta", "How", "Kind", "Weights", "applied", "apply", "merge", "save", "weights_of"]
