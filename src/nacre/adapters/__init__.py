"""Small weights beside a model's own: put in, chosen, merged, saved and loaded back in the form of PEFT."""

from .described import describe, rebuild, unwrapped
from .folders import load_adapters, save_adapters
from .layers import adapters_in, answering_with, base_fingerprint, merged, put_in, targets_in, train_only

__all__ = [
    "adapters_in",
    "answering_with",
    "base_fingerprint",
    "describe",
    "load_adapters",
    "merged",
    "put_in",
    "rebuild",
    "save_adapters",
    "targets_in",
    "train_only",
    "unwrapped",
]
