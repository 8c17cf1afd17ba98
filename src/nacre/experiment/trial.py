"""One seed of an experiment: its data, its stream, and a learner with all its parts, made of a config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from ..backbones import Body, Classifier
from ..catalogue import find, inner_class, make, placed
from ..core import ranks
from ..core.drive import MakeOptimizer
from ..core.errors import BadData, BadSetting
from ..core.method import Method, as_met, compose
from ..core.rule import Rule
from ..core.stream import Joined, Stream, Task
from ..data import Source, augmentation, digest, load, without_test_rows
from ..heads import GrowingLinear, MultiHead
from ..learner import Learner, Stage
from ..streams import STREAMS, Anchored, First, FromData, arriving
from .anchors import anchors_of
from .bodies import GIVEN, body_of, read_as, read_by
from .config import Config
from .features import Features, Read, always_the_same
from .tables import DEVICE

MARK_EVERY = 100  # steps between the places that a rollback returns to, where no checkpoints are written by steps


@dataclass
class Trial:
    """What one seed runs with.

    Attributes:
        seed: Draws everything that is drawn.
        source: The data.
        split: The stream as described.
        stream: The stream as learned: its rows arrive as the config says, joined or accumulated where a method asks for it.
        body: The backbone and its description.
        learner: The model and its stages, at their beginning.
        arrival: How rows arrive.
        features: What the learner reads in place of rows; None where it reads the rows themselves.
        read_as: A digest of how the backbone prepares rows, and of the tokens that it makes of texts.
    """

    seed: int
    source: Source
    split: FromData
    stream: Stream
    body: Body
    learner: Learner
    arrival: str = "offline"
    features: Features | None = None
    read_as: str = ""

    @cached_property
    def described(self) -> dict[str, Any]:
        """The stream in words and numbers."""
        return self.split.describe()

    @cached_property
    def stream_sha256(self) -> str:
        """A digest of the stream as described and of what the classes are called."""
        return digest([json.dumps([self.described, self.source.classes], sort_keys=True, default=str)])

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
            "stream": {**self.described, "arrival": self.arrival},
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
        drawn = seed if config.data.seed is None else config.data.seed
        source = (
            load(config.data.source, seed=drawn, **config.data.reading()) if data is None else load(data, seed=drawn)
        )
        if config.data.tested_on == "validation":
            source = without_test_rows(source, seed, config.data.validation_share)
    told, known = config.stream, body is None
    with placed("stream"):
        kind = STREAMS[told.kind](**told.settings)
        shape = kind.row_shape(source)
    with placed("backbone"):
        body = body_of(config, seed, source, shape, body)
        source = read_by(body, source, config)
    with placed("stream"):
        split = kind.over(source, seed)
        split = split if told.first is None else First(split, told.first)
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
        verify_rest=False,  # the recorder does it
    )
    with placed("data"):
        anchors = anchors_of(config, body, source, drawn)
    features = None
    if config.backbone.cache == "auto" and split.brings != "all" and always_the_same(stages, config.backbone.frozen):
        features = Features(model, body, source, run.precision, run.deterministic, known)
    met = split if features is None else Read(split, features)
    met = met if anchors is None else Anchored(met, anchors)
    learned = as_met(arriving(met, told.arrival, seed), *(s.method for s in stages))
    made = Trial(seed, source, split, learned, body, learner, told.arrival)
    made.features, made.read_as = features, read_as(body, source)
    for i, s in enumerate(stages):
        if not any(s.runs_on(Task(k)) for k in range(made.tasks)):
            raise BadSetting(f"stage.{i}: when = {s.when!r} is none of the {made.tasks} tasks, which count from 0")
        others = s.method.overrides("shape_rows")  # which may be met as often as one likes
        if told.arrival != "offline" and s.optimizer is not None and s.epochs > 1 and s.steps is None and not others:
            raise BadSetting(
                f"stage.{i}: epochs = {s.epochs}, but the rows of a stream with arrival = {told.arrival!r} are met once: set "
                "epochs = 1"
            )
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
            optimizer_state=table.optimizer_state,
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
