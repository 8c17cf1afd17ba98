"""Text encoders in Hugging Face form: a folder, or a name on the hub; those of sentence-transformers too.

Tokens of a text become one row of features by pooling. How a model of sentence-transformers pools, how long its texts are and
whether it scales features to length 1 stand in files beside it, which are read here; its package is not needed.

Shapes: token ids and mask (rows, tokens), hidden states (rows, tokens, width), features (rows, width).
"""

from __future__ import annotations

import inspect
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..core.errors import BadData, BadSetting
from ..core.files import first_line
from ..core.model import evaluating
from .body import Body
from .huggingface_config import file_of, first_sentence, plain
from .huggingface_loading import cut_to, from_config, load, quiet
from .tokenizer import Tokenizer

logger = logging.getLogger(__name__)
TextPool = Literal["auto", "mean", "cls", "last"]
LENGTH = 512  # tokens of a text at most, where nothing says how many a model reads
BOUNDLESS = 10**6  # what tokenizers say that know no bound is more
POOLS = {"cls_token": "cls", "cls": "cls", "mean_tokens": "mean", "mean": "mean", "lasttoken": "last"}
"""How sentence-transformers calls what is done here."""


class HuggingFaceText(nn.Module):
    """Features of a Hugging Face text encoder; its weights are named `net....`.

    Args:
        net: A model that answers `input_ids` and `attention_mask` with an object that has `last_hidden_state`.
        pool: The `"mean"` over a text's tokens, its first (`"cls"`), or its `"last"`.
        normalize: Scale features to length 1.
    """

    def __init__(self, net: nn.Module, pool: str = "mean", normalize: bool = False):
        super().__init__()
        self.net, self.pool, self.normalize, self.width = net, pool, normalize, 0
        known = inspect.signature(net.forward).parameters
        self.asked = {"use_cache": False} if "use_cache" in known else {}

    def forward(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """Features (rows, width) of texts, padded on the right.

        Args:
            input_ids: What stands where the mask is 0 is never read.
            attention_mask: 1 for the tokens of a text.
            token_type_ids: For models that read them; None = all 0.
        """
        width = _read(attention_mask)
        mask = attention_mask[:, :width]
        kinds = {} if token_type_ids is None else {"token_type_ids": token_type_ids[:, :width].long()}
        answer: Any = self.net(input_ids=input_ids[:, :width].long(), attention_mask=mask.long(), **kinds, **self.asked)
        z = self._pooled(answer.last_hidden_state, mask)
        return F.normalize(z, dim=1) if self.normalize else z

    def _pooled(self, hidden: Tensor, mask: Tensor) -> Tensor:
        if self.pool == "cls":
            return hidden[:, 0]
        if self.pool == "last":
            last = mask.long().sum(1) - 1
            return hidden[torch.arange(len(hidden), device=hidden.device), last]
        seen = mask.to(hidden.dtype)
        return (hidden * seen[..., None]).sum(1) / seen.sum(1, keepdim=True)


def _read(mask: Tensor) -> int:
    """How many places any text reaches; on an accelerator all of them, for asking would wait for it."""
    reached = (mask != 0).any(0).nonzero() if mask.device.type == "cpu" else mask.new_empty(0)
    return int(reached[-1]) + 1 if len(reached) else mask.shape[1]


def text_model(
    transformers: Any,
    where: str | Path,
    config: Any,
    *,
    seed: int = 0,
    pretrained: bool = True,
    pool: TextPool = "auto",
    max_length: int | None = None,
    layers: int | None = None,
    normalize: bool | None = None,
) -> Body:
    """Load a text encoder with its tokenizer from a folder or the hub; weights become fp32, in eval mode.

    Args:
        transformers: The package.
        where: A folder with `config.json`, or an id such as `sentence-transformers/all-MiniLM-L6-v2`.
        config: What `config.json` says.
        seed: Seeds the weights where `pretrained` is False.
        pretrained: False takes the structure and the tokenizer only, with random weights.
        pool: How tokens become one row; `"auto"` does as the model's files say, else takes the mean.
        max_length: Tokens that a text is cut to; None does as the model's files say.
        layers: Leave out the layers behind so many; None = none.
        normalize: Whether features are scaled to length 1; None does as the model's files say.

    Raises:
        BadData: no tokenizer, weights in another form than safetensors, or weights that do not fit.
        BadSetting: settings that do not fit the model.
    """
    source = str(where)
    if pool not in get_args(TextPool):
        raise BadSetting(f"the tokens of a text are pooled by {', '.join(map(repr, get_args(TextPool)))}, not {pool!r}")
    cut_to(config, layers, source)
    told = _told(transformers, where)
    net = load(transformers, where, config, pretrained, seed)
    if pool == "auto" and told.pool not in ("mean", "cls", "last"):
        raise BadSetting(f'{source!r} pools by {told.pool}, which is not made here: say pool = "mean", "cls" or "last"')
    module = HuggingFaceText(
        net, told.pool if pool == "auto" else pool, told.normalize if normalize is None else normalize
    )
    tokenizer = _tokenizer(transformers, where, net, config, told.max_length, max_length)
    return _body(module, config, tokenizer, source)


def from_text_spec(spec: dict[str, Any], seed: int = 0, most: int | None = None) -> Body:
    """The same structure again, with random weights, and its tokenizer, from the spec alone.

    Raises:
        BadData: it describes no model or no tokenizer, or one of more weights than `most`.
    """
    with quiet() as transformers:
        net, config = from_config(transformers, spec, seed, most)
        tokenizer = Tokenizer(**spec["tokenizer"])
        return _body(HuggingFaceText(net, spec["pool"], spec["normalize"]), config, tokenizer, spec["source"])


def _body(module: HuggingFaceText, config: Any, tokenizer: Tokenizer, source: str) -> Body:
    """Wrap a model, and learn its width from one text of two tokens."""
    rows = getattr(module.net.get_input_embeddings(), "num_embeddings", None)  # pyright: ignore[reportCallIssue]
    if isinstance(rows, int) and tokenizer.highest >= rows:
        raise BadData(
            f"the tokenizer of {source!r} gives token ids up to {tokenizer.highest}, and the model embeds {rows}: are both of "
            "one model?"
        )
    try:
        with evaluating(module), torch.no_grad():
            features = module(torch.zeros(1, 2, dtype=torch.long), torch.ones(1, 2, dtype=torch.long))
    except Exception as error:
        raise BadSetting(
            f"{source!r} ({type(module.net).__name__}) does not answer to tokens with features: {first_sentence(error)}. Load "
            "the model yourself and give a module that reads input_ids and attention_mask"
        ) from error
    module.width = features.shape[-1]
    spec = {
        "kind": "huggingface-text", "source": source, "pool": module.pool, "normalize": module.normalize,
        "config": plain(config), "tokenizer": tokenizer.settings,
    }  # fmt: skip
    return Body(module.eval(), None, module.width, spec, tokenizer)


@dataclass(frozen=True)
class _Told:
    """What the files of sentence-transformers say of a model; else what is usual."""

    pool: str = "mean"
    normalize: bool = False
    max_length: int | None = None


def _told(transformers: Any, where: str | Path) -> _Told:
    parts = _json(transformers, where, "modules.json")
    if parts is None:
        return _Told()
    try:
        kinds = {str(part["type"]).rpartition(".")[2]: str(part["path"]) for part in parts}
        if left := [kind for kind in kinds if kind not in ("Transformer", "Pooling", "Normalize")]:
            logger.warning("%s also has %s, which is left out: features are those before it", where, ", ".join(left))
        pooling = _json(transformers, where, f"{kinds.get('Pooling', '1_Pooling')}/config.json") or {}
        lengths = _json(transformers, where, "sentence_bert_config.json") or {}
        most = lengths.get("max_seq_length")
        return _Told(_pool_in(pooling), "Normalize" in kinds, int(most) if most is not None else None)
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise BadData(
            f"the modules.json of {str(where)!r}, or a file that it names, does not say how texts are pooled "
            f"({type(error).__name__}: {error}): repair it, or delete modules.json"
        ) from error


def _pool_in(told: dict[str, Any]) -> str:
    """The pooling in a `1_Pooling/config.json`."""
    modes = [key.removeprefix("pooling_mode_") for key, on in told.items() if key.startswith("pooling_mode_") and on]
    mode = told.get("pooling_mode", modes or "mean")
    modes = [mode] if isinstance(mode, str) else list(mode)
    return " and ".join(POOLS.get(mode, mode) for mode in modes)


def _json(transformers: Any, where: str | Path, name: str) -> Any:
    path = file_of(transformers, where, name)
    if path is None:
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise BadData(f"{path} is no JSON ({first_line(error)}): fetch it again") from error


def _tokenizer(
    transformers: Any, where: str | Path, net: nn.Module, config: Any, told: int | None, asked: int | None
) -> Tokenizer:
    """The model's tokenizer, cutting texts to what is asked for, or else to what the model reads."""
    try:
        made = transformers.AutoTokenizer.from_pretrained(where, trust_remote_code=False)
        fast = made.backend_tokenizer
        usual, direction = made.model_max_length, made.truncation_side
        fewest = fast.num_special_tokens_to_add(False) + 1
        words = set(fast.get_vocab(with_added_tokens=True)) - set(made.all_special_tokens)
        if not words:  # what transformers makes where there are no files
            raise ValueError("it would know no word")
    except Exception as error:  # of whatever kind: its files may say anything
        raise BadData(
            f"no fast tokenizer can be made of what {str(where)!r} holds ({first_sentence(error)}): save it beside the model "
            "with tokenizer.save_pretrained(folder), which writes tokenizer.json"
        ) from error
    room = _room(net, config)
    most = min(usual if isinstance(usual, int) and usual < BOUNDLESS else room or LENGTH, room or BOUNDLESS)
    length = asked if asked is not None else min(told or most, most)
    if not fewest <= length <= (room or BOUNDLESS):
        span = f"{fewest} to {room}" if room is not None else f"at least {fewest}"
        raise BadSetting(f"texts for {str(where)!r} are cut to {span} tokens: max_length cannot be {length}")
    kinds = "token_type_ids" in inspect.signature(net.forward).parameters
    return Tokenizer.of(fast, length, kinds, direction)


def _room(net: nn.Module, config: Any) -> int | None:
    """How many tokens a model has positions for; None where they are not counted."""
    for name, module in net.named_modules():
        if name.endswith(("position_embeddings", "wpe")) and isinstance(module, nn.Embedding):
            return module.num_embeddings - (module.padding_idx + 1 if module.padding_idx is not None else 0)
    return getattr(config, "max_position_embeddings", None)
