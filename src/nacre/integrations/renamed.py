"""Weights that a checkpoint of the Trainer holds under other names than the model has."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.utils import SAFE_WEIGHTS_NAME


def read_renamed(model: Any, folder: Path) -> None:
    """Load what the Trainer leaves out: transformers 5 writes the weights of some models under other names than they have."""
    file = folder / SAFE_WEIGHTS_NAME
    if not isinstance(model, PreTrainedModel) or not file.is_file():
        return
    with safe_open(file, "pt") as held:
        unread = set(held.keys()) - model.state_dict().keys()
    if unread:
        model.load_state_dict(type(model).from_pretrained(folder).state_dict())
