"""The config of an experiment: typed tables with a meaning for each setting, read from and written to TOML.

What is written down is complete: every setting of every part, so that a run can be repeated when defaults have changed. Only
a part's `seed` may stay out, which then is the run's.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import tomli_w

from ..catalogue import NONE, build, entries, find, join, make, placed, plugins, refuse_missing_plugins
from ..core.errors import BadSetting, UnknownName, shown
from ..core.files import first_line, path_of
from ..core.method import compose, trains
from ..core.state import settings
from .plain import refuse_unplain
from .tables import BackboneTable, DataTable, RunTable, StageTable, StreamTable, Table, WatchTable

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

LARGEST, MOST = 2**18, 100  # bytes of a config file; stages, and methods of a stage


@dataclass
class Config(Table):
    """A whole experiment.

    >>> config = Config.of({"stage": [{"methods": [{"name": "er"}]}]}, ["stage.0.methods.0.rows=16", "data.source=digits"])
    >>> config.stage[0].methods[0]["name"], config.stage[0].methods[0]["rows"], config.stage[0].optimizer["name"]
    ('ER', 16, 'adamw')
    """

    run: RunTable = field(default_factory=RunTable)
    data: DataTable = field(default_factory=DataTable)
    stream: StreamTable = field(default_factory=StreamTable)
    backbone: BackboneTable = field(default_factory=BackboneTable)
    stage: list[StageTable] = field(default_factory=list)
    watch: WatchTable = field(default_factory=WatchTable)

    @staticmethod
    def of(tables: Mapping[str, Any], changes: Iterable[str] = ()) -> Config:
        """The complete config that some tables mean.

        Args:
            tables: As read from TOML; what is left out takes its default.
            changes: `place=value`, such as `stage.0.epochs=5`.

        Raises:
            UnknownName: a table, setting or part has no such name; the nearest is named.
            BadSetting: a value is of the wrong type or out of its range; the message starts with its place.
        """
        refuse_unplain(tables)
        tables = _unfolded(tables)
        for change in changes:
            _change(tables, change)
        refuse_unplain(tables)
        tables = _unfolded(tables)
        for key in tables:
            if key not in (known := [f.name for f in fields(Config)]):
                raise UnknownName(f"setting of {Config.heading}", key, known)
        if isinstance(tables.get("stage"), dict):
            raise BadSetting("stage is a list of tables: write [[stage]] with two brackets")
        if not tables.get("stage"):
            raise BadSetting('the config has no [[stage]]: add one, such as [[stage]] with methods = [{name = "ER"}]')
        _refuse_many("stage", tables["stage"])
        config = build(Config, {**tables, "stream": _stream(tables.get("stream", {}))})
        with placed("run.plugins"):
            refuse_missing_plugins(config.run.plugins)
        config.run.plugins = list(dict.fromkeys([*config.run.plugins, *plugins()]))
        _complete(config, tables)
        return config

    @staticmethod
    def load(path: str | Path, changes: Iterable[str] = ()) -> Config:
        """The config in a TOML file, or in a run's folder.

        Raises:
            BadSetting: there is no such file, or it is no TOML.
        """
        path = Path(path)
        path = path / "config.toml" if path.is_dir() else path
        try:
            with path.open("rb") as file:
                raw = file.read(LARGEST + 1)
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise BadSetting(f"the config {path} cannot be read: {why}: give a TOML file, or a run's folder") from error
        if len(raw) > LARGEST:
            raise BadSetting(
                f"{path} has more than {LARGEST:,} bytes: a config is a page of TOML; is it the right file?"
            )
        try:
            tables = tomllib.loads(raw.decode("utf-8-sig").replace("\r\n", "\n"))
        except (ValueError, RecursionError) as error:  # no TOML, no UTF-8, or a number of thousands of digits
            raise BadSetting(
                f"{path} is no TOML: {first_line(error)}: see docs/run.md for what a config says"
            ) from error
        return Config.of(tables, changes)

    def to_dict(self) -> dict[str, Any]:
        """Plain values; None stands as the word "none" where the default is another."""
        return {name: _written(getattr(self, name)) for name in (f.name for f in fields(self))}

    def to_toml(self) -> str:
        """The config as TOML, complete."""
        return tomli_w.dumps(self.to_dict())


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """What differs between two configs as plain values, a line each.

    >>> differences({"run": {"name": "a"}, "x": 1}, {"run": {"name": "b"}, "x": 1})
    ["run.name: 'a' -> 'b'"]
    """
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(k for k in other if k not in one)]
        return [line for k in keys for line in differences(one.get(k), other.get(k), join(place, k))]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            line for i, (a, b) in enumerate(zip(one, other, strict=True)) for line in differences(a, b, join(place, i))
        ]
    return [] if one == other else [f"{place}: {one!r} -> {other!r}"]


def _stream(table: Any) -> Any:
    """The table of a stream with what is set of its kind apart, complete; each setting is checked."""
    if not isinstance(table, Mapping):
        return table
    usual = StreamTable()
    own = {key: value for key, value in table.items() if key in usual.to_dict()}
    kind = own.get("kind", usual.kind)
    if not isinstance(kind, str):
        return own
    with placed("stream.kind"):
        entry = find("stream", kind)
    told = {key: value for key, value in table.items() if key not in own}
    with placed("stream"):
        known = [s.name for s in entry.settings]
        for key in told:
            if key not in known:
                raise UnknownName(f"setting of [stream] of the kind {entry.name}", key, [*usual.to_dict(), *known])
    made = build(entry.made_by, told, "stream")
    return {**own, "kind": entry.name, "settings": settings(made)}


def _complete(config: Config, tables: Mapping[str, Any]) -> None:
    """Put every setting of every part into its table, and check each on the way."""
    with placed("backbone.augment"):
        told = config.backbone.augment
        names = [find("augment", a).name for a in ([told] if isinstance(told, str) else told)]
        config.backbone.augment = names[0] if isinstance(told, str) else names
    for i, stage in enumerate(config.stage):
        place = join("stage", i)
        _refuse_many(f"{place}.methods", stage.methods)
        made = [make("method", t, f"{place}.methods.{k}") for k, t in enumerate(stage.methods)]
        stage.methods = [
            {"name": _name_of(t), **_without_seeds(settings(m), t)} for t, m in zip(stage.methods, made, strict=True)
        ]
        if "optimizer" not in tables["stage"][i]:
            stage.optimizer = {} if trains(compose(*made)) else None
        if stage.optimizer is not None:
            table = {"name": "adamw", **stage.optimizer}
            optimizer = make("optimizer", table, f"{place}.optimizer")
            stage.optimizer = {**table, "name": optimizer.name, "lr": optimizer.lr, "groups": optimizer.groups}
        make("schedule", {"name": "constant", **stage.schedule}, f"{place}.schedule")
        entry = find("schedule", stage.schedule.get("name", "constant"))
        stage.schedule = {"name": entry.name, **{s.name: s.default for s in entry.settings}, **stage.schedule}
    paths = ((config.data, "source", "data"), (config.data, "anchors", "data"), (config.backbone, "source", "backbone"))
    for table, name, place in paths:
        if getattr(table, name) is None:
            continue
        with placed(place):
            path = path_of(getattr(table, name))
        if path.exists() and getattr(table, name) not in {e.name for k in ("data", "backbone") for e in entries(k)}:
            setattr(table, name, str(path.resolve()))  # a run is resumed from anywhere


def _refuse_many(place: str, entries: Any) -> None:
    if isinstance(entries, list) and len(entries) > MOST:
        raise BadSetting(f"{place} has {len(entries)} entries: at most {MOST} are made")


def _name_of(table: Mapping[str, Any]) -> str:
    return find("method", table["name"]).name


def _without_seeds(complete: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A part's settings, without the seeds that nobody chose: they are the run's."""
    kept = {}
    for key, value in complete.items():
        if key == "seed" and key not in given:
            continue
        told = given.get(key)
        kept[key] = (
            _without_seeds(value, told if isinstance(told, Mapping) else {}) if isinstance(value, dict) else value
        )
    return {k: NONE if v is None else v for k, v in kept.items()}


def _unfolded(tables: Mapping[str, Any]) -> dict[str, Any]:
    """A copy in which short forms are full: a table for a part's name alone."""
    full: dict[str, Any] = _copied(tables)
    stages = full.get("stage", [])
    for stage in stages if isinstance(stages, list) else []:
        for key in ("optimizer", "schedule"):
            if isinstance(stage, dict) and isinstance(stage.get(key), str) and stage[key] != NONE:
                stage[key] = {"name": stage[key]}
        if isinstance(stage, dict) and isinstance(stage.get("methods"), list):
            stage["methods"] = [{"name": m} if isinstance(m, str) else m for m in stage["methods"]]
    return full


def _change(tables: dict[str, Any], change: str) -> None:
    """Put one `place=value` into the tables; tables may be begun, entries of lists not."""
    place, sign, text = change.partition("=")
    keys = place.strip().split(".")
    if not sign or not all(keys):
        raise BadSetting(f"--set takes place=value, such as stage.0.epochs=5, not {shown(change)}")
    at: Any = tables
    for i, key in enumerate(keys):
        so_far = ".".join(keys[:i]) or "the config"
        last = i == len(keys) - 1
        if isinstance(at, list):
            if not re.fullmatch(r"[0-9]{1,9}", key) or int(key) >= len(at):
                has = f"entries 0 to {len(at) - 1}" if at else "no entries"
                raise BadSetting(
                    f"--set {shown(change)[1:-1]}: {so_far} has {has}, not {key!r}; write further ones into the config file"
                )
            slot: Any = int(key)
        elif isinstance(at, dict):
            slot = key
            if key not in at and not last:
                if not i and key == "stage":
                    raise BadSetting(
                        f"--set {shown(change)[1:-1]}: the config has no [[stage]] yet; write it into the config file"
                    )
                at[key] = {}
        else:
            raise BadSetting(
                f"--set {shown(change)[1:-1]}: {so_far} is {shown(at)}, not a table: it has no settings of its own"
            )
        if last:
            at[slot] = _value(text.strip())
        else:
            if isinstance(at[slot], str) and len(keys) > 3:  # a part by its name alone becomes its table
                at[slot] = {"name": at[slot]}
            at = at[slot]


def _value(text: str) -> Any:
    """A value as TOML reads it; what TOML cannot read is a text without quotes."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    except (ValueError, RecursionError) as error:
        raise BadSetting(f"--set {shown(text)}: {first_line(error)}: write a shorter value") from error


def _written(value: Any) -> Any:
    """Plain values for TOML: what is None is left out where that is the default, else it is the word."""
    if isinstance(value, StreamTable):
        return {key: _written(held) for key, held in value.to_dict().items() if held is not None}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kept = {}
        for f in fields(value):
            held = getattr(value, f.name)
            if held is not None or f.default is not None:
                kept[f.name] = NONE if held is None else _written(held)
        return kept
    if isinstance(value, (list, tuple)):
        return [_written(v) for v in value]
    if isinstance(value, dict):
        return {k: NONE if v is None else _written(v) for k, v in value.items()}
    return value


def _copied(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _copied(v) for k, v in value.items()}
    return [_copied(v) for v in value] if isinstance(value, (list, tuple)) else value
