"""Small weights beside a model's own: adapters in the form of PEFT, chosen entries as parameters, and norms."""

from .called import layers_called, read_past
from .described import describe, rebuild, unwrapped
from .effective import effective
from .folders import load_adapters, save_adapters
from .layers import adapters_in, answering_with, base_fingerprint, merged, put_in, targets_in, train_only
from .norms import Normed, RowNorm, insert_norms
from .osf import decomposed, merge_osf, put_in_osf
from .rescaled import merge_rescaling, put_in_rescaling, rescalable
from .sparse import entries_in, put_in_entries, take_out_entries, unfit, write_entries

__all__ = [
    "Normed",
    "RowNorm",
    "adapters_in",
    "answering_with",
    "base_fingerprint",
    "decomposed",
    "describe",
    "effective",
    "entries_in",
    "insert_norms",
    "layers_called",
    "load_adapters",
    "merge_osf",
    "merge_rescaling",
    "merged",
    "put_in",
    "put_in_entries",
    "put_in_osf",
    "put_in_rescaling",
    "read_past",
    "rebuild",
    "rescalable",
    "save_adapters",
    "take_out_entries",
    "targets_in",
    "train_only",
    "unfit",
    "unwrapped",
    "write_entries",
]
