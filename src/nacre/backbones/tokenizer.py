"""From texts to tokens, as a backbone reads them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..core.errors import BadData
from ..core.files import first_line
from ..core.ragged import Ragged

AT_ONCE = 10_000  # texts that are encoded together: nothing is kept of a text but its numbers


class Tokenizer:
    """Makes tokens of texts; described whole by one text in JSON, that of Hugging Face's fast tokenizers.

    Args:
        description: The JSON, with the truncation in it.
        kinds: Whether to hand out `token_type_ids` too, where any is not 0.

    Raises:
        BadData: it describes no tokenizer.
    """

    def __init__(self, description: str, kinds: bool = False):
        import tokenizers

        try:
            self.fast: Any = tokenizers.Tokenizer.from_str(description)
        except Exception as error:  # the package raises bare exceptions
            raise BadData(f"this describes no tokenizer ({first_line(error)}): was it altered?") from error
        self.fast.no_padding()
        self.description, self.kinds = description, kinds

    @staticmethod
    def of(fast: Any, max_length: int, kinds: bool = False, direction: str = "right") -> Tokenizer:
        """A fast tokenizer, whose texts are cut to `max_length` tokens."""
        made = Tokenizer(fast.to_str(), kinds)
        made.fast.enable_truncation(max_length, direction=direction)
        made.description = made.fast.to_str()
        return made

    @property
    def max_length(self) -> int | None:
        """Tokens of a text at most, special ones included; None = any number."""
        return self.fast.truncation["max_length"] if self.fast.truncation else None

    @property
    def settings(self) -> dict[str, Any]:
        """What `Tokenizer(**settings)` makes the same tokenizer from, ready for JSON."""
        return {"description": self.description, "kinds": self.kinds}

    @property
    def sha256(self) -> str:
        """Digest of all that its tokens depend on, the truncation included."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    @property
    def highest(self) -> int:
        """The highest token id that it can give."""
        return max(self.fast.get_vocab(with_added_tokens=True).values(), default=-1)

    def __call__(self, texts: Sequence[str]) -> Ragged:
        """The tokens of texts, `input_ids` in int32."""
        ids: list[Any] = []
        kinds: list[Any] = []
        lengths: list[int] = []
        for low in range(0, len(texts), AT_ONCE):
            found = self.fast.encode_batch_fast(list(texts[low : low + AT_ONCE]))
            lengths += map(len, found)
            ids.append(np.fromiter(chain.from_iterable(one.ids for one in found), np.int32))
            if self.kinds:
                kinds.append(np.fromiter(chain.from_iterable(one.type_ids for one in found), np.int32))
        fields = {"input_ids": _joined(ids)}
        if kinds and bool((told := _joined(kinds)).any()):
            fields["token_type_ids"] = told
        return Ragged(fields, torch.tensor(lengths, dtype=torch.long).cumsum(0))

    def __deepcopy__(self, memo: dict[int, Any]) -> Tokenizer:
        return Tokenizer(self.description, self.kinds)


def _joined(pieces: list[Any]) -> Tensor:
    return torch.from_numpy(np.concatenate(pieces) if pieces else np.zeros(0, np.int32))
