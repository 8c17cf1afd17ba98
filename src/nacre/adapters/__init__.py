"""Small weights beside a model's own, put in, chosen, merged, saved and loaded back in the form of PEFT; and inserted norms."""

from .described import describe, rebuild, unwrapped
from .folders import load_adapters, save_adapters
from .layers import adapters_in, answering_with, base_fingerprint, merged, put_in, targets_in, train_only
from .norms import Normed, RowNorm, insert_norms

__all__ = [
    "Normed",
    "RowNorm",
    "adapters_in",
    "answering_with",
    "base_fingerprint",
    "describe",
    "insert_norms",
    "load_adapters",
    "merged",
    "put_in",
    "rebuild",
    "save_adapters",
    "targets_in",
    "train_only",
    "unwrapped",
]
