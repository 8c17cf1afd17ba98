"""One seed of an experiment: its data, its stream, and a learner with all its parts, made of a config."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..backbones import Body, Classifier, backbone
from ..catalogue import NONE, find, inner_class, make, placed
from ..core import ranks
from ..core.drive import MakeOptimizer
from ..core.errors import BadData, BadSetting
from ..core.method import Method, compose, leaves
from ..core.rows import TensorRows
from ..core.rule import Rule
from ..core.stream import Joined, Stream, Task
from ..data import Source, TextRows, TokenRows, augmentation, digest, load
from ..heads import GrowingLinear, MultiHead
from ..learner import Learner, Stage
from ..streams import Split, stream
from .cache import key_of
from .config import Config
from .features import Features, Read, always_the_same
from .tables import DEVICE

GIVEN = "given in Python"
"""The name of a source or a backbone that no config can say."""
DEFAULT_TASKS = 5
MARK_EVERY = 100  # steps between the places that a rollback returns to, where no checkpoints are written by steps


@dataclass
class Trial:
    """What one seed runs with.

    Attributes:
        seed: Draws everything that is drawn.
        source: The data.
        split: The stream as described.
        stream: The stream as learned: one experience where a method joins all.
        body: The backbone and its description.
        learner: The model and its stages, at their beginning.
        features: What the learner reads in place of rows; None where it reads the rows themselves.
        read_as: A digest of how the backbone prepares rows, and of the tokens that it makes of texts.
    """

    seed: int
    source: Source
    split: Split
    stream: Stream
    body: Body
    learner: Learner
    features: Features | None = None
    read_as: str = ""

    @property
    def tasks(self) -> int:
        """How many experiences the learner meets."""
        return 1 if isinstance(self.stream, Joined) else len(self.split)

    def data(self) -> dict[str, Any]:
        """What the record says of the data."""
        source, taken = self.source, {"features": "taken once of the frozen backbone"} if self.features else {}
        return {
            "source": source.name,
            "sha256": source.sha256,
            "rows": {"train": len(source.train), "test": len(source.test)},
            "classes": len(source.classes),
            "note": source.note,
            "stream": self.split.describe(),
            **taken,
        }


def trial(config: Config, seed: int, data: Any = None, body: Body | None = None) -> Trial:
    """Make the parts of one seed.

    Args:
        config: A complete config.
        seed: Draws the data, the order of the stream, first weights, and whatever parts do not set a seed of their own for.
        data: The data themselves, where the config only says that they are given in Python.
        body: The backbone, likewise.

    Raises:
        NacreError: a part cannot be made; the message starts with the place in the config.
    """
    if data is None and config.data.source == GIVEN:
        raise BadData(
            "data.source: the rows of this run were given in Python; give them again, or save them as an .npz file"
        )
    with placed("data"):
        source = load(config.data.source, seed=seed, **config.data.reading()) if data is None else load(data, seed=seed)
    known = body is None
    with placed("backbone"):
        body = _body(config, seed, source, body)
        source = _read_by(body, source, config)
    with placed("stream"):
        tasks = config.stream.tasks
        if tasks is None:
            tasks = len(source.groups) or min(DEFAULT_TASKS, len(source.classes))
        split = stream(config.stream.kind, source, tasks=tasks, order=config.stream.order, seed=seed)
    head = (MultiHead if split.told else GrowingLinear)(body.width, seed=seed)
    model = Classifier(body, head).to(device_of(config))
    if config.backbone.frozen:
        model.body.requires_grad_(False)
    stages = tuple(stage(config, i, seed) for i in range(len(config.stage)))
    run = config.run
    learner = Learner(
        model,
        stages,
        seed=seed,
        precision=run.precision,
        deterministic=run.deterministic,
        on_nonfinite=run.on_nonfinite,
        mark_every=run.save_every or MARK_EVERY,
    )
    features, arriving = None, split
    if config.backbone.cache == "auto" and always_the_same(stages, config.backbone.frozen):
        features = Features(model, body, source, run.precision, run.deterministic, known)
        arriving = Read(split, features)
    joins = any(part.joins for s in stages for part in leaves(s.method) if isinstance(part, Method))
    met = Joined(arriving) if joins else arriving
    made = Trial(seed, source, split, met, body, learner, features, _read_as(body, source))
    for i, s in enumerate(stages):
        if not any(s.runs_on(Task(k)) for k in range(made.tasks)):
            raise BadSetting(f"stage.{i}: when = {s.when!r} is none of the {made.tasks} tasks, which count from 0")
    return made


def stage(config: Config, index: int, seed: int) -> Stage:
    """One stage of a config, with its parts."""
    table, place = config.stage[index], f"stage.{index}"
    methods = [method(t, seed, f"{place}.methods.{k}") for k, t in enumerate(table.methods)]
    optimizer = None
    if table.optimizer is not None:
        at = f"{place}.optimizer"
        optimizer = _Placed(at, make("optimizer", table.optimizer, at))
    schedule = make("schedule", table.schedule, f"{place}.schedule")
    with placed(place):
        return Stage(
            method=_as_one(methods),
            optimizer=optimizer,
            when=table.when,
            epochs=table.epochs,
            steps=table.steps,
            batch_size=table.batch_size,
            accumulate=table.accumulate,
            clip=table.clip,
            schedule=schedule,
            clock=table.clock,
            augment=augmentation(config.backbone.augment),
            frozen_norms=table.frozen_norms,
        )


def method(table: Mapping[str, Any], seed: int, place: str = "") -> Method:
    """A method of a config; parts that do not set a seed take this one."""
    kind = find("method", table["name"]).made_by
    return make("method", _seeded(kind, table, seed), place)


def device_of(config: Config) -> torch.device:
    """The device that a config means.

    Raises:
        BadSetting: this machine does not offer it.
    """
    with placed("run.device"):
        return device_called(config.run.device)


def device_called(name: str) -> torch.device:
    """A device by its name; "auto" is a GPU if there is one.

    Raises:
        BadSetting: there is no such device, or this machine does not offer it.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not DEVICE.fullmatch(name):
        raise BadSetting(f'a device is "auto", "cpu", "mps", "cuda" or "cuda:1", not {name!r}')
    kind, _, number = name.partition(":")
    there = torch.cuda.device_count() if kind == "cuda" else int(kind == "cpu" or torch.backends.mps.is_available())
    if int(number or 0) >= there:
        seen = f"only {there} of {kind}" if there else f"no {kind}"
        raise BadSetting(f'torch sees {seen} here, so there is no {name!r}: use "auto" or "cpu"')
    if number and ranks.world() > 1:
        raise BadSetting(
            f'{ranks.world()} processes cannot share {name!r}: set device = "cuda", one GPU for each, or "cpu"'
        )
    return ranks.own_device(kind) if not number else torch.device(name)


@dataclass(frozen=True)
class _Placed:
    """An optimizer to be made, whose errors say where in the config it stands."""

    place: str
    make: MakeOptimizer

    def __call__(self, params: dict[str, nn.Parameter]) -> Optimizer:
        with placed(self.place):
            return self.make(params)


def _body(config: Config, seed: int, source: Source, given: Body | None) -> Body:
    if given is not None:
        return copy.deepcopy(given)
    name, texts = config.backbone.source, isinstance(source.train, (TextRows, TokenRows))
    if name == GIVEN:
        raise BadData("the backbone of this run was given in Python: give it again, as Experiment(config, body=...)")
    x = source.train.x if isinstance(source.train, TensorRows) else None
    shape = tuple(x.shape[1:]) if isinstance(x, torch.Tensor) else ()
    grey_or_colour = shape[0] if len(shape) == 3 and shape[0] in (1, 3) and name.startswith("convnet") else None
    table = config.backbone
    body = backbone(name, seed=seed, pretrained=table.pretrained, channels=grey_or_colour, **table.of_its_kind())
    if texts and body.tokenizer is None:
        raise BadData(
            f"{source.name} has text rows, which need a text backbone, and {name!r} reads pictures or numbers: give the folder "
            "or the hub id of a text model, such as sentence-transformers/all-MiniLM-L6-v2"
        )
    if body.tokenizer is not None and shape:
        raise BadData(
            f"{name} reads texts, the rows of {source.name} are {'x'.join(map(str, shape))} numbers: give another"
        )
    if len(shape) == 1 and body.spec.get("kind") != "mlp":
        raise BadData(
            f"{name} reads pictures, the rows of {source.name} are {shape[0]} numbers: write mlp:{shape[0]}-..."
        )
    if (
        body.spec.get("kind") == "mlp"
        and body.spec["pixels"]["size"] is None
        and math.prod(shape) != body.spec["widths"][0]
    ):
        raise BadData(
            f"{name} reads {body.spec['widths'][0]} numbers a row, the rows of {source.name} are "
            f"{'x'.join(map(str, shape))}: write mlp:{math.prod(shape)}-..."
        )
    return body


def _read_by(body: Body, source: Source, config: Config) -> Source:
    """The data as this backbone reads them: texts as its tokens."""
    if isinstance(source.train, TextRows) and body.tokenizer is not None:
        source = source.tokenized(body.tokenizer)
    told = config.backbone.augment
    if not isinstance(source.train, TensorRows) and (names := [n for n in _listed(told) if n != NONE]):
        raise BadSetting(
            f"augment = {names[0]!r} changes pictures, and the rows of {source.name} are texts: leave it out"
        )
    return source


def _read_as(body: Body, source: Source) -> str:
    """See `Trial`; a configuration is left out, since other versions of its package write it down otherwise."""
    told = {key: value for key, value in body.spec.items() if key not in ("source", "config", "tokenizer")}
    rows = [r for r in (source.train, source.test) if isinstance(r, TokenRows)]
    return key_of({**told, "tokens": digest(*({**r.tokens.fields, "ends": r.tokens.ends} for r in rows))})


def _listed(told: str | list[str]) -> list[str]:
    return [told] if isinstance(told, str) else told


def _as_one(methods: list[Method]) -> Rule:
    return Method() if not methods else methods[0] if len(methods) == 1 else compose(*methods)


def _seeded(kind: type, table: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """A part's table with the run's seed wherever a part has one and the table does not say it."""
    full = dict(table)
    for f in fields(kind):
        inner = full.get(f.name)
        if f.name == "seed" and f.init:
            full.setdefault("seed", seed)
        elif isinstance(inner, Mapping) and (part := inner_class(kind, f.name, inner.get("name"))) is not None:
            full[f.name] = _seeded(part, inner, seed)
    return full
