"""Losses: functions of tensors."""

from .contrastive import supervised_info_nce
from .quadratic import quadratic

__all__ = ["quadratic", "supervised_info_nce"]
