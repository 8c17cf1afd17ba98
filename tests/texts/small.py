"""Tiny text encoders with tokenizers, in the hub's own format, and sentences of classes that can be told apart."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import torch

from nacre.core.dice import dice

CLASSES = ("red", "green", "blue", "grey")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
OWN, SHARED = 5, 12  # words that only one class says, and words of all
SHAPE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
KINDS: dict[str, dict[str, Any]] = {
    "bert": {**SHAPE, "max_position_embeddings": 40},
    "roberta": {**SHAPE, "max_position_embeddings": 42, "pad_token_id": 0},
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 32, "max_position_embeddings": 40},
    "gpt2": {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 40},
    "t5": {"d_model": 16, "d_ff": 16, "num_layers": 1, "num_heads": 2},
}


def vocabulary() -> list[str]:
    """Special tokens, each class's own words, and the shared ones."""
    own = [f"{name}{k}" for name in CLASSES for k in range(OWN)]
    return [*SPECIAL, *own, *(f"word{k}" for k in range(SHARED))]


def sentences(rows: int, *place: int | str, longest: int = 20) -> list[tuple[str, str]]:
    """Texts with their labels, `rows` of each class and of very different lengths; a third of the words are the class's own."""
    generator, found = dice("sentences", *place), []
    for row in range(rows * len(CLASSES)):
        name = CLASSES[row % len(CLASSES)]
        length = int(torch.randint(3, longest + 1, (1,), generator=generator))
        own = torch.rand(length, generator=generator) < 0.34
        own[0] = True
        which = torch.randint(0, OWN * SHARED, (length,), generator=generator).tolist()
        words = [f"{name}{k % OWN}" if mine else f"word{k % SHARED}" for k, mine in zip(which, own, strict=True)]
        found.append((" ".join(words), name))
    return found


def tables(folder: Path, train: int = 12, test: int = 6) -> Path:
    """A folder with train.csv and test.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", train), ("test", test)):
        with (folder / f"{part}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *sentences(rows, part)])
    return folder


def tokenizer(length: int = 30) -> Any:
    """A tokenizer of whole words, as `transformers` saves it."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.WordLevel({word: k for k, word in enumerate(vocabulary())}, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    made.enable_padding(length=64)  # as sentence-transformers leave theirs: it has to be taken off
    return PreTrainedTokenizerFast(
        tokenizer_object=made, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=length,
    )  # fmt: skip


def model(folder: Path, kind: str = "bert", sentence: dict[str, Any] | None = None, **changed: Any) -> Path:
    """Save a tiny encoder with its tokenizer.

    Args:
        folder: Where to.
        kind: One of `KINDS`.
        sentence: What files of sentence-transformers say: `pooling` (the dict), `normalize`, `max_seq_length`.
        **changed: Settings of the model.
    """
    import transformers

    config = transformers.AutoConfig.for_model(kind, vocab_size=len(vocabulary()), **{**KINDS[kind], **changed})
    log = transformers.utils.logging
    bars = log.is_progress_bar_enabled()
    log.disable_progress_bar()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        net = transformers.AutoModel.from_config(config)
        for name, weight in net.named_parameters():
            if "embed" in name or "wte" in name:
                torch.nn.init.normal_(weight, std=0.5)  # so that words are told apart before any training
        net.save_pretrained(folder)
    if bars:
        log.enable_progress_bar()
    tokenizer().save_pretrained(folder)
    if sentence is not None:
        parts = [("Transformer", ""), ("Pooling", "1_Pooling")] + [("Normalize", "2_Normalize")] * sentence["normalize"]
        told = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in parts]
        (folder / "modules.json").write_text(json.dumps(told))
        (folder / "1_Pooling").mkdir(exist_ok=True)
        (folder / "1_Pooling" / "config.json").write_text(json.dumps(sentence["pooling"]))
        (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": sentence["max_seq_length"]}))
    return folder
