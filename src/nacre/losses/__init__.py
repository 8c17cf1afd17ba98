"""Losses: functions of tensors."""

from .contrastive import supervised_info_nce
from .distillation import distillation, sigmoid_targets, stored_logits, weighted_mean
from .nuclear import nuclear_norm
from .quadratic import add_slopes, anchored, fold, pull, pull_all, quadratic

__all__ = [
    "add_slopes",
    "anchored",
    "distillation",
    "fold",
    "nuclear_norm",
    "pull",
    "pull_all",
    "quadratic",
    "sigmoid_targets",
    "stored_logits",
    "supervised_info_nce",
    "weighted_mean",
]
