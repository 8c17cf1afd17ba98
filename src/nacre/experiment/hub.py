"""A learned model in the hub's own form: a folder that `AutoModel`, its tokenizer and PEFT load, and this library too."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from .. import checkpoint
from ..adapters import adapters_in, merged, save_adapters
from ..backbones import Body, Classifier, Tokenizer, from_spec
from ..backbones.huggingface_loading import quiet
from ..core.errors import BadSetting
from .export import Predictor, digest_of, exported_in, load

MODEL = "model.safetensors"
OWN = "export"
"""The folder inside in which head, read-out and names of classes lie, where `nacre.load` looks for them."""
POOLS = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}
SPECIAL = {
    "pad_token": ("[PAD]", "<pad>"),
    "unk_token": ("[UNK]", "<unk>"),
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "mask_token": ("[MASK]", "<mask>"),
    "bos_token": ("<s>", "<|endoftext|>"),
    "eos_token": ("</s>", "<|endoftext|>"),
}
"""What tokenizers usually call the tokens that mean something to a model."""


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: Where.
        reads: `"texts"`, `"pictures"` or `"numbers"`.
        base: The folder or hub id that the backbone came from.
        auto: Whether `AutoModel` loads it.
        adapters: Names of the adapters beside it.
        classes: What the head answers with.
        method: What answers beside the head; empty where the head does.
    """

    folder: Path
    reads: str
    base: str
    auto: bool
    adapters: list[str] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    method: str = ""


def to_hub(run: str | Path, out: str | Path, seed: int | None = None) -> Exported:
    """Write the model of a run in the hub's form, apart from the model card.

    Of a transformers backbone: `config.json` and `model.safetensors` without adapters, its tokenizer or how it prepares
    pictures, how texts are pooled, each adapter in a folder of PEFT's form, and under `export/` what this library needs to
    answer: head, read-out, names of classes. Weights are written once. Other backbones are written under `export/` alone.

    Args:
        run: A run's folder.
        out: Where to; it must be empty or not there yet.
        seed: Of several seeds, which; None = the first.

    Raises:
        BadCheckpoint: the run has no exported model.
        BadSetting: there is something in `out` already.
    """
    place = Path(out)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise BadSetting(f"{str(place)!r} is there and not empty: give a new folder, or clear it first")
    _, saved = exported_in(run, seed)
    spec = saved["body"]
    source = str(spec.get("source", spec["kind"]))
    body = from_spec(spec)
    predictor = load(run) if seed is None else load(_of_seed(run, seed))
    place.mkdir(parents=True, exist_ok=True)
    auto = spec["kind"].startswith("huggingface")
    names: list[str] = []
    if auto:
        _write_backbone(predictor, body, place)
        if adapters_in(predictor.model):
            names = save_adapters(predictor.model, place, base=source)
        saved |= _lend(saved, place)
    checkpoint.save(place / OWN, saved)
    reads = "texts" if body.tokenizer is not None else "pictures" if len(saved["row"]["shape"]) == 3 else "numbers"
    method = saved["method"]["name"] if saved["method"] is not None else ""
    return Exported(place, reads, source, auto, names, list(saved["classes"]), method)


def _of_seed(run: str | Path, seed: int) -> Path:
    place, _ = exported_in(run, seed)
    inside = place / f"seed-{seed}"
    return inside if inside.is_dir() else place


def _write_backbone(predictor: Predictor, body: Body, place: Path) -> None:
    """The transformers model without its adapters, and the files that say how rows become its inputs."""
    plain = merged(predictor.model)
    assert isinstance(plain, Classifier)
    net: Any = plain.body.net
    with quiet():
        net.save_pretrained(place)
    if body.tokenizer is not None:
        _write_tokenizer(body.tokenizer, net, place)
        _write_pooling(body, place)
    elif body.pixels is not None:
        _write_json(place / "preprocessor_config.json", _preprocessing(body.pixels.settings))


def _write_tokenizer(tokenizer: Tokenizer, net: Any, place: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    vocabulary = tokenizer.fast.get_vocab(with_added_tokens=True)
    special = {kind: next((w for w in words if w in vocabulary), None) for kind, words in SPECIAL.items()}
    pad = getattr(net.config, "pad_token_id", None)
    if (named := tokenizer.fast.id_to_token(pad) if isinstance(pad, int) else None) is not None:
        special["pad_token"] = named
    said = {kind: word for kind, word in special.items() if word is not None}
    inputs = ["input_ids", *(["token_type_ids"] if tokenizer.kinds else []), "attention_mask"]
    copy = Tokenizer(**tokenizer.settings).fast
    length = tokenizer.max_length or 512
    made = PreTrainedTokenizerFast(
        tokenizer_object=copy,
        model_max_length=length,
        model_input_names=inputs,
        clean_up_tokenization_spaces=False,
        **said,
    )
    made.save_pretrained(str(place))


def _write_pooling(body: Body, place: Path) -> None:
    """How tokens become a row, as sentence-transformers writes it down."""
    parts = ["Transformer", "Pooling", *(["Normalize"] if body.spec["normalize"] else [])]
    paths = ["", *(f"{k}_{part}" for k, part in enumerate(parts) if k)]
    kind = "sentence_transformers.models."
    named = [
        {"idx": k, "name": str(k), "path": path, "type": kind + part}
        for k, (part, path) in enumerate(zip(parts, paths, strict=True))
    ]
    _write_json(place / "modules.json", named)
    modes = {mode: pool == body.spec["pool"] for pool, mode in POOLS.items()}
    _write_json(place / "1_Pooling" / "config.json", {"word_embedding_dimension": body.width, **modes})
    assert body.tokenizer is not None
    _write_json(
        place / "sentence_bert_config.json", {"max_seq_length": body.tokenizer.max_length, "do_lower_case": False}
    )


def _preprocessing(pixels: dict[str, Any]) -> dict[str, Any]:
    """How pictures are prepared, as image processors of transformers write it down; bicubic is their number 3."""
    height, width = pixels["size"]
    normalises = pixels["mean"] is not None or pixels["std"] is not None
    channels = pixels["channels"] or 3
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": height, "width": width},
        "resample": 3,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": normalises,
        "image_mean": _channelwise(pixels["mean"] or [0.0], channels),
        "image_std": _channelwise(pixels["std"] or [1.0], channels),
        "do_convert_rgb": channels == 3,
    }


def _channelwise(values: list[float], channels: int) -> list[float]:
    return values if len(values) == channels else values * channels


def _lend(saved: dict[str, Any], place: Path) -> dict[str, Any]:
    """The saved model without the weights that lie in the hub's file under the same names, and where those are."""
    from safetensors.torch import load_file

    path = place / MODEL
    if not path.is_file():  # cut into several
        return {}
    there, names = load_file(path), {}
    for name, tensor in saved["model"].items():
        plain = name.removeprefix("body.net.").replace(".base_layer.", ".")
        if name.startswith("body.net.") and plain in there and torch.equal(there[plain], tensor):
            names[name] = plain
    lent = {"file": MODEL, "sha256": digest_of(path), "names": names}
    return {"model": {n: t for n, t in saved["model"].items() if n not in names}, "lent": lent}


def _write_json(path: Path, tree: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, indent=2) + "\n", encoding="utf-8")
