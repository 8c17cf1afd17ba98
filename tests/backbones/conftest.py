"""Tiny Hugging Face models in folders; the hub is never asked."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before transformers is imported

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 32}
CONFIGS: dict[str, dict[str, Any]] = {
    "vit": {**TINY, "patch_size": 8},
    "deit": {**TINY, "patch_size": 8},
    "dinov2": {**TINY, "patch_size": 8},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "convnext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2},
    "swin": {
        "image_size": 32,
        "patch_size": 4,
        "embed_dim": 8,
        "depths": [1, 1],
        "num_heads": [2, 2],
        "window_size": 4,
    },
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where a tiny model of a kind was saved, with its preprocessor_config.json; made once."""
    import transformers

    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in made:
            where = tmp_path_factory.mktemp(kind)
            bars = transformers.utils.logging.is_progress_bar_enabled()
            transformers.utils.logging.disable_progress_bar()
            config = transformers.AutoConfig.for_model(kind, **CONFIGS[kind])
            transformers.AutoModel.from_config(config).save_pretrained(where)
            if bars:
                transformers.utils.logging.enable_progress_bar()
            told = {"size": {"height": 32, "width": 32}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.25, 0.3]}
            (where / "preprocessor_config.json").write_text(json.dumps(told), encoding="utf-8")
            made[kind] = where
        return made[kind]

    return of
