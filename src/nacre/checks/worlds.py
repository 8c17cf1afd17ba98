"""Small seeded worlds that parts are tried in: rows, a model with features and a growing head, streams.

Every world keeps all its rows, training and test, in one `Store` that notes what is read: who peeks is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..core.dice import dice, mix
from ..core.rows import Augment, Batch
from ..core.stream import Experience, Task
from ..heads import GrowingLinear

SEED: ContextVar[int] = ContextVar("the seed of all worlds", default=0)
"""Set by whoever runs a check; another seed gives other rows, other first weights and other draws of the learner."""

Classes = tuple[int, ...]
GROWING: tuple[Classes, ...] = ((0, 1), (2, 3), (4, 5))
"""The classes of each task of the usual stream: a head of 2, then 4, then 6."""
SHORT = GROWING[:2]
WORDS = 24  # of the text world's vocabulary
TOKENS = 5


@dataclass
class Answer:
    """What the models of these worlds answer with."""

    logits: Tensor  # (rows, classes)
    features: Tensor  # (rows, 16)


class Net(nn.Module):
    """A body that gives 16 features, and a growing head."""

    def __init__(self, body: nn.Module):
        super().__init__()
        self.body = body
        self.head = GrowingLinear(16)

    def forward(self, x: Tensor) -> Answer:
        """Answer for inputs (rows, ...)."""
        z = self.body(x)
        return Answer(self.head(z), z)


class TextNet(Net):
    """The same over a Hugging Face text encoder; features are the mean over the tokens."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Answer:
        """Answer for token ids and their mask, (rows, tokens) each."""
        hidden = self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        seen = attention_mask[..., None].to(hidden)
        z = (hidden * seen).sum(1) / seen.sum(1).clamp_min(1)
        return Answer(self.head(z), z)


def vectors(norm: bool = True, dropout: float = 0.1) -> Net:
    """8 -> 32 -> 16 with BatchNorm and dropout."""
    first = [nn.Linear(8, 32), nn.BatchNorm1d(32) if norm else nn.Identity(), nn.ReLU(), nn.Dropout(dropout)]
    return Net(nn.Sequential(*first, nn.Linear(32, 16), nn.ReLU()))


def pictures() -> Net:
    """A conv net with BatchNorm on (1, 8, 8) pixels."""
    convs = [nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    return Net(nn.Sequential(_Pixels(), *convs, nn.Flatten(), nn.Linear(128, 16), nn.ReLU()))


def text() -> Net:
    """A tiny BERT of one layer."""
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=WORDS,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=TOKENS,
    )
    return TextNet(BertModel(config, add_pooling_layer=False))


class _Pixels(nn.Module):
    """uint8 in 0..255 as numbers around 0."""

    def forward(self, x: Tensor) -> Tensor:
        return x.float() / 128 - 1


@dataclass(frozen=True)
class World:
    """One kind of rows with a model for them.

    Attributes:
        name: What it is called in messages.
        build: Makes the model; its weights are drawn from the global generator, which `model` seeds.
        draw: Inputs for labels (rows,) from a generator.
        augment: Changes batches; None = as they are.
    """

    name: str
    build: Callable[[], nn.Module]
    draw: Callable[[Tensor, torch.Generator], Any]
    augment: Augment | None = None

    def model(self, seed: int = 0, **settings: Any) -> Any:
        """The model, the same at every call."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(mix("world", self.name, seed, SEED.get()))
            return self.build(**settings)

    def stream(
        self, splits: Sequence[Classes] = GROWING, rows: int = 6, seed: int = 0, told: bool = False, tests: int = 5
    ) -> list[Experience]:
        """A stream with `rows` training and `tests` test rows of each class; all share one store.

        Rows of a class are the same wherever in the stream it comes, and whatever else comes.
        """
        store, met = Store(), []
        for i, classes in enumerate(splits):
            views = []
            for kind, count in (("train", rows), ("test", tests)):
                y = torch.tensor(classes, dtype=torch.long).repeat_interleave(count)
                x = self.draw(y, dice(seed, SEED.get(), self.name, kind, i))
                views.append(store.admit(x, y, i if told else None))
            task = Task(i, views[0], tuple(sorted(set(classes))), i if told else None)
            met.append(Experience(task, {f"task{i}": views[1]}))
        return met


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, all worlds are drawn by this seed."""
    token = SEED.set(seed)
    try:
        yield
    finally:
        SEED.reset(token)


@dataclass
class Store:
    """All rows of a stream.

    Attributes:
        x: Inputs by piece; a piece is what one task brings for training or for testing.
        y: Labels by piece.
        read: The pieces of which rows were read.
    """

    x: list[Any] = field(default_factory=list)
    y: list[Tensor] = field(default_factory=list)
    read: set[int] = field(default_factory=set)

    def admit(self, x: Any, y: Tensor, task: int | None) -> View:
        """Take in a piece."""
        self.x.append(x)
        self.y.append(y)
        return View(self, len(self.y) - 1, task)

    def take(self, piece: int, index: Tensor, task: int | None = None) -> Batch:
        """Rows of a piece; it is noted that they were read."""
        self.read.add(piece)
        x, y = self.x[piece], self.y[piece]
        picked = {k: v[index] for k, v in x.items()} if isinstance(x, dict) else x[index]
        told = torch.full((len(index),), task) if task is not None else None
        return Batch(picked, y[index], index, task=told)


@dataclass(frozen=True)
class View:
    """One piece of a store as rows."""

    store: Store
    piece: int
    task: int | None = None

    def __len__(self) -> int:
        return len(self.store.y[self.piece])

    def take(self, index: Tensor) -> Batch:
        """The rows at these positions."""
        return self.store.take(self.piece, index, self.task)

    def all(self) -> Batch:
        """Every row."""
        return self.take(torch.arange(len(self)))


def shaken(batch: Batch, generator: torch.Generator) -> Batch:
    """An augmentation: every row is shaken by a draw of its own."""
    noise = 0.1 * torch.randn(batch.x.shape, generator=generator)
    return replace(batch, x=batch.x + noise.to(batch.x))


def _vectors_of(y: Tensor, generator: torch.Generator) -> Tensor:
    centres = 1.5 * torch.randn(32, 8, generator=dice("centres"))
    return centres[y] + torch.randn(len(y), 8, generator=generator)


def _pictures_of(y: Tensor, generator: torch.Generator) -> Tensor:
    patterns = torch.randint(0, 200, (32, 1, 8, 8), generator=dice("patterns"))
    return (patterns[y] + torch.randint(0, 56, (len(y), 1, 8, 8), generator=generator)).byte()


def _texts_of(y: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Half of the words of a text tell its class; texts have 3 to 5 tokens."""
    ids = torch.randint(17, WORDS, (len(y), TOKENS), generator=generator)
    ids = torch.where(torch.rand(ids.shape, generator=generator) < 0.5, y[:, None] + 1, ids)
    long = torch.randint(3, TOKENS + 1, (len(y), 1), generator=generator)
    seen = torch.arange(TOKENS) < long
    return {"input_ids": ids * seen, "attention_mask": seen.long()}


VECTORS = World("vectors", vectors, _vectors_of, shaken)
PICTURES = World("pictures", pictures, _pictures_of)
TEXT = World("text", text, _texts_of)
WORLDS = (VECTORS, PICTURES, TEXT)


def calm() -> nn.Module:
    """A model in which rounding stays small: without dropout and BatchNorm."""
    return VECTORS.model(norm=False, dropout=0.0)
