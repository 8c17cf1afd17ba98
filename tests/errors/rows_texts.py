"""What texts, their encoders and their tokenizers are refused."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch

from nacre import data
from nacre.backbones import HuggingFaceText, Tokenizer, backbone, from_spec
from nacre.core.errors import BadData, BadSetting, BadUse, UnknownName
from nacre.core.ragged import Ragged
from nacre.core.rows import TensorRows
from nacre.data import Source, Table, TextRows, TokenRows, make_blocks, texts_in, tokens_of
from nacre.experiment import Config, Experiment, load, recipe
from nacre.experiment.trial import trial
from tests.errors.row import Place, Row
from tests.texts import small

FLAT = Ragged({"input_ids": torch.tensor([7, 8, 9])}, torch.tensor([1, 3]))
T5 = json.dumps({"model_type": "t5", **small.KINDS["t5"]})
VALUES = torch.rand(6, 4), torch.arange(6) % 2


@cache
def made() -> Path:
    """A tiny encoder, made once and never changed."""
    return small.model(Path(mkdtemp(prefix="nacre-encoder-")) / "encoder")


def encoder(at: Place, **files: Any) -> Path:
    """A copy of it, with files of its own; two underscores stand for a dot, None deletes."""
    place = Path(shutil.copytree(made(), at / "encoder", dirs_exist_ok=True))
    for name, content in files.items():
        path = place / name.replace("__", ".")
        if content is None:
            path.unlink()
        else:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return place


def changed(at: Place, **told: Any) -> Path:
    """A copy whose config.json says something else."""
    place = encoder(at)
    return encoder(at, config__json={**json.loads((place / "config.json").read_text()), **told})


def pooled(at: Place, mode: str) -> Path:
    """A copy with the files of sentence-transformers."""
    at.write("encoder/1_Pooling/config.json", json.dumps({"pooling_mode": mode}))
    return encoder(at, modules__json=[{"type": "a.Pooling", "path": "1_Pooling"}])


def silent(at: Place) -> Any:
    """An encoder whose forward pass fails."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no such thing")

    at.patch.setattr(HuggingFaceText, "forward", forward)
    return backbone(encoder(at))


def config(at: Place, *changes: str, data: str | None = None) -> Config:
    source = str(small.tables(at / "data")) if data is None else data
    tables = {
        "data": {"source": source},
        "backbone": {"source": str(encoder(at))},
        "stage": [{"methods": ["SimpleCIL"]}],
    }
    return Config.of(tables, ["stream.tasks=2", *changes])


def ran(at: Place) -> Path:
    """A finished run over texts."""
    Experiment(config(at)).run(at / "run")
    return at / "run"


def other_tokens(at: Place) -> Any:
    """Blocks of tokens, and a backbone that cuts texts shorter."""
    told = config(at)
    texts, body = data.load(told.data.source), backbone(told.backbone.source)
    make_blocks(texts.tokenized(body.tokenizer), at / "blocks")
    same = trial(config(at, f"data.source={at / 'blocks'}"), 0)
    assert same.source.train.made_by == body.tokenizer.sha256
    return trial(config(at, f"data.source={at / 'blocks'}", "backbone.max_length=4"), 0)


def otherwise(at: Place) -> Any:
    """Go on with a run whose tokenizer has changed."""
    folder = ran(at)
    record = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**record, "status": "interrupted"}))
    told = json.loads((at / "encoder/tokenizer.json").read_text())
    words = told["model"]["vocab"]
    words["red0"], words["blue0"] = words["blue0"], words["red0"]
    (at / "encoder/tokenizer.json").write_text(json.dumps(told))
    return Experiment(Config.load(folder)).resume(folder)


def moved(at: Place) -> Any:
    features = trial(config(at), 0).features
    assert features is not None
    features.refuse_motion({"body.net.weight": {"moved": 1.0}})


def files(at: Place, name: str, content: str, *words: str) -> Any:
    """Ask a model of texts by the command line."""
    at.command("predict", ran(at), at.write(name, content), *words)


def of_digits(at: Place) -> Any:
    Experiment(Config.of({"backbone": {"source": "mlp:64-16"}, "stage": [{"methods": ["SimpleCIL"]}]})).run(at / "run")
    at.command("predict", at / "run", at.write("a.csv", "a\n"), "--text", "a")


def empty(texts: Any) -> Ragged:
    return Ragged({"input_ids": torch.zeros(0, dtype=torch.int32)}, torch.zeros(len(texts), dtype=torch.long))


def wordless(at: Place) -> Any:
    return tokens_of("toy, training rows", TextRows(["a", "b"], torch.tensor([0, 1])), empty)


ENCODERS = [
    Row(
        "a model that reads and writes texts",
        BadSetting,
        "'PATH/t5' is a T5 model, which reads input_ids, attention_mask, decoder_input_ids: give a vision "
        "model such as ViT, DINOv2, ConvNeXt or Swin, or a text encoder such as BERT or MPNet",
        lambda at: backbone(at.write("t5/config.json", T5).parent),
    ),
    Row(
        "what is said of text models, said of pictures",
        BadSetting,
        "max_length = 8 is said of text models, not of 'glyph-vit', which reads pictures: leave it out",
        lambda at: backbone("glyph-vit", max_length=8),
    ),
    Row(
        "what is said of pictures, said of a text model",
        BadSetting,
        "size = 8 is said of vision models, not of 'PATH/encoder', which reads texts: leave it out",
        lambda at: backbone(encoder(at), size=8),
    ),
    Row(
        "layers of a model that does not count them",
        BadSetting,
        "'PATH/swin' does not say how many layers it has: leave layers = 1 out",
        lambda at: backbone(at.write("swin/config.json", '{"model_type": "swin"}').parent, layers=1),
    ),
    Row(
        "more layers than there are",
        BadSetting,
        "'PATH/encoder' has 2 layers: layers is 1 to 2, not 3",
        lambda at: backbone(encoder(at), layers=3),
    ),
    Row(
        "a way to pool that there is not",
        BadSetting,
        "the tokens of a text are pooled by 'auto', 'mean', 'cls', 'last', not 'first'",
        lambda at: backbone(encoder(at), pool="first"),
    ),
    Row(
        "a way to pool that is not made here",
        BadSetting,
        '\'PATH/encoder\' pools by weightedmean, which is not made here: say pool = "mean", "cls" or "last"',
        lambda at: backbone(pooled(at, "weightedmean")),
    ),
    Row(
        "a pooling that makes no sense",
        BadData,
        "the modules.json of 'PATH/encoder', or a file that it names, does not say how texts are pooled "
        "(TypeError: …): repair it, or delete modules.json",
        lambda at: backbone(encoder(at, modules__json={"type": 3})),
    ),
    Row(
        "a file beside the model that is no JSON",
        BadData,
        "PATH/encoder/modules.json is no JSON (…): fetch it again",
        lambda at: backbone(encoder(at, modules__json="{")),
    ),
    Row(
        "a model without a tokenizer",
        BadData,
        "no fast tokenizer can be made of what 'PATH/encoder' holds (it would know no word): save it beside "
        "the model with tokenizer.save_pretrained(folder), which writes tokenizer.json",
        lambda at: backbone(encoder(at, tokenizer__json=None, tokenizer_config__json=None)),
    ),
    Row(
        "a tokenizer of another model",
        BadData,
        "the tokenizer of 'PATH/encoder' gives token ids up to 35, and the model embeds 10: are both of one model?",
        lambda at: backbone(changed(at, vocab_size=10), pretrained=False),
    ),
    Row(
        "longer texts than the model reads",
        BadSetting,
        "texts for 'PATH/encoder' are cut to 3 to 40 tokens: max_length cannot be 41",
        lambda at: backbone(encoder(at), max_length=41),
    ),
    Row(
        "a model that does not answer to tokens",
        BadSetting,
        "'PATH/encoder' (BertModel) does not answer to tokens with features: no such thing. Load the model "
        "yourself and give a module that reads input_ids and attention_mask",
        silent,
    ),
    Row(
        "a description of no tokenizer",
        BadData,
        "this describes no tokenizer (…): was it altered?",
        lambda at: Tokenizer("{}"),
    ),
    Row(
        "a spec whose tokenizer was altered",
        BadData,
        "this describes no tokenizer (…): was it altered?",
        lambda at: from_spec({**backbone(encoder(at)).spec, "tokenizer": {"description": "{}"}}),
    ),
]

TEXTS = [
    Row(
        "tokens whose rows end elsewhere",
        BadData,
        "the rows end at 4, but input_ids does not: give each field as one long vector",
        lambda at: Ragged(FLAT.fields, torch.tensor([1, 4])),
    ),
    Row(
        "more rows of tokens than labels",
        BadData,
        "there are 2 rows of tokens and 1 labels: give one label for each row",
        lambda at: TokenRows(FLAT, torch.tensor([0])),
    ),
    Row(
        "pictures or numbers, where tokens are to be made",
        BadData,
        "toy, training rows: there are no texts to make tokens of: give rows of texts (nacre.data.TextRows)",
        lambda at: Source("toy", TensorRows(*VALUES), TensorRows(*VALUES), ("a", "b")).tokenized(empty),
    ),
    Row(
        "texts of which the tokenizer leaves nothing",
        BadData,
        "toy, training rows: the tokenizer leaves nothing of 2 texts, the first is row 1 with 'a': leave them out",
        wordless,
    ),
    Row(
        "a column of texts that there is not",
        UnknownName,
        "unknown column of a.csv 'qery': did you mean 'query'? known are query",
        lambda at: texts_in(Table("a.csv", {"query": ["b"]}), "qery"),
    ),
    Row(
        "texts to predict, in one of several columns",
        BadData,
        "a.csv has the columns a, c, and none of them is called text, sentence, utterance, query, question, "
        "content, review or message: say which one holds the texts, as --text COLUMN",
        lambda at: texts_in(Table("a.csv", {"a": ["b"], "c": ["d"]})),
    ),
    Row(
        "numbers, where the backbone reads texts",
        BadData,
        "backbone: PATH/encoder reads texts, the rows of digits are 1x8x8 numbers: give another",
        lambda at: trial(config(at, data="digits"), 0),
    ),
    Row(
        "pictures changed, where rows are texts",
        BadSetting,
        "backbone: augment = 'flip' changes pictures, and the rows of data are texts: leave it out",
        lambda at: trial(config(at, "backbone.augment=flip"), 0),
    ),
    Row(
        "tokens of another length than the backbone cuts texts to",
        BadData,
        "backbone: the tokens of data were made by another tokenizer than the backbone's, or cut to another length: make "
        "them again with source.tokenized(body.tokenizer), or take the backbone that they were made for",
        other_tokens,
    ),
    Row(
        "a tokenizer that has changed since the run began",
        BadData,
        "the backbone prepares rows otherwise than when this run began, by another tokenizer perhaps: bring "
        "its old files back, or start a new run",
        otherwise,
    ),
    Row(
        "a backbone that moves though its features were taken",
        BadUse,
        "1 tensors of the backbone moved, such as body.net.weight, though no stage has an optimizer for it, "
        'and its features were taken before: set backbone.cache = "off"',
        moved,
    ),
    Row(
        "a recipe that there is not",
        UnknownName,
        "unknown recipe 'banking7': did you mean 'banking77'? known are …",
        lambda at: recipe("recipe:banking7"),
    ),
    Row(
        "a recipe without its data",
        BadSetting,
        "recipe:banking77 needs its data: say the folder in which they lie, as --data FOLDER",
        lambda at: recipe("banking77"),
    ),
    Row(
        "numbers, where a model of texts is asked",
        BadData,
        "this model reads texts: give a text or a list of texts, not 3",
        lambda at: load(ran(at)).predict([3]),
    ),
    Row(
        "a column of texts, where a model reads none",
        2,
        "--text a names a column of texts, and this model reads none: leave it out",
        of_digits,
    ),
    Row(
        "a picture, where a model of texts is asked",
        1,
        "PATH/a.png holds no texts: give a .txt file with a text a line, or a table (.csv, .tsv, .jsonl, .parquet)",
        lambda at: files(at, "a.png", "x"),
    ),
    Row(
        "training and test rows in one file to predict",
        1,
        "PATH/a.json holds train and test rows: give a file with the rows to predict alone",
        lambda at: files(at, "a.json", '{"train": [["a", "b"]], "test": [["c", "d"]]}'),
    ),
]
