"""Trackers of experiments: TensorBoard, Weights & Biases, MLflow, trackio, through the tracker classes of accelerate.

What is sent is a record, as `run.json` holds it, in flat names: `settings.run.name`, `loss/stage0`, `accuracy/task1`. So a
tracker knows nothing that the record does not.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from ..core.errors import BadSetting, MissingExtra, UnknownName

PACKAGES = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow", "trackio": "trackio"}
"""Trackers by name, and the package that each needs beside accelerate."""
LONGEST = 250  # characters of a setting that trackers take

PARTS = ("moments", "tests", "matrix", "motion", "summary", "curves")
"""What is read of a record."""


class Tracker(Protocol):
    """What is asked of a tracker: accelerate's `GeneralTracker`, or anything with these three."""

    def store_init_configuration(self, values: dict[str, Any]) -> None: ...

    def log(self, values: dict[str, Any], step: int | None = None) -> None: ...

    def finish(self) -> None: ...


def check_trackers(names: Iterable[str]) -> None:
    """See that trackers have these names, and that what they need is installed.

    Raises:
        UnknownName: none has such a name.
        BadSetting: one is named twice.
        MissingExtra: its package, or accelerate, is not installed.
    """
    named = list(names)
    for name in named:
        if name not in PACKAGES:
            raise UnknownName("tracker", name, PACKAGES)
    if len(set(named)) < len(named):
        raise BadSetting(f"a tracker is named twice in {named}: name each once")
    for name in named:
        for package in ("accelerate", PACKAGES[name]):
            if importlib.util.find_spec(package) is None:
                raise MissingExtra(f"the tracker {name!r}", package, name)


def trackers(names: Iterable[str], run: str, folder: str | Path) -> list[Tracker]:
    """Trackers that have begun.

    Args:
        names: Of `PACKAGES`.
        run: What the run is called there.
        folder: Where those lie that write files.

    Raises:
        UnknownName: none has such a name.
        MissingExtra: a package is not installed.
    """
    names = list(names)
    check_trackers(names)
    if not names:
        return []
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    found: list[Tracker] = []
    for name in names:
        kind: Any = LOGGER_TYPE_TO_CLASS[name]
        tracker = kind(run, str(folder)) if kind.requires_logging_directory else kind(run)
        tracker.start()
        found.append(tracker)
    return found


def send(record: Mapping[str, Any], to: Iterable[Tracker], seed: int | None = None) -> None:
    """Send a record, or the part of one seed in it.

    Args:
        record: As `Run.to_json` gives it, or `run.json` holds it.
        to: Trackers that have begun; they are finished afterwards.
        seed: Which seed's part, where the record has several.
    """
    for tracker in to:
        try:
            tracker.store_init_configuration(settings(record))
            for step, values in points(record, seed):
                tracker.log(values, step=step)
        finally:
            tracker.finish()


def settings(record: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a record as flat names and plain values, long ones cut.

    >>> settings({"settings": {"run": {"name": "a", "seeds": [0, 1]}}})
    {'settings.run.name': 'a', 'settings.run.seeds': '[0, 1]'}
    """
    flat = dict(_flat(record.get("settings", {}), "settings"))
    return {name: v if isinstance(v, (bool, int, float)) else str(v)[:LONGEST] for name, v in flat.items()}


def points(record: Mapping[str, Any], seed: int | None = None) -> list[tuple[int, dict[str, float]]]:
    """The numbers of a record by the step that they belong to, counted over the whole stream, in order.

    What was measured when a task had been learned belongs to the task's last step.
    """
    held = record if len(record["seeds"]) == 1 else {key: _of_seed(record, key, seed) for key in PARTS}
    found: dict[int, dict[str, float]] = {}
    ends = _curves(held["curves"], found)
    score, step = record.get("score", {}).get("name", "accuracy"), -1
    for number, moment in enumerate(held["moments"]):
        step = max(ends.get(moment, 0), step + 1)  # moments without steps follow each other
        row = zip(held["tests"], held["matrix"][number], strict=True)
        values = {f"{score}/{test['name']}": value for test, value in row}
        values |= {f"motion/{key}": v for key, v in held["motion"].get(moment, {}).get("total", {}).items()}
        if number == len(held["moments"]) - 1:
            values |= {f"summary/{key}": value for key, value in held["summary"].items()}
        found.setdefault(step, {}).update(values)
    known = {step: {name: v for name, v in values.items() if v is not None} for step, values in found.items()}
    return sorted((step, values) for step, values in known.items() if values)


def _curves(curves: Mapping[str, Any], found: dict[int, dict[str, float]]) -> dict[str, int]:
    """Add the points of each stage, whose steps follow those of the stages before; the last step of each task's moment."""
    before, begins, ends = 0, {}, {}
    for curve in curves.get("loss", []):
        begins[curve["task"], curve["stage"]] = before
        for step, loss, rate in zip(curve["step"], curve["loss"], curve["lr"], strict=True):
            at = found.setdefault(before + step, {})
            at[f"loss/stage{curve['stage']}"], at[f"lr/stage{curve['stage']}"] = loss, rate
        before += curve["steps"]
        ends[f"task{curve['task']}"] = before
    for curve in curves.get("watch", []):
        begun = begins.get((curve["task"], curve["stage"]), 0)
        for test, scores in curve["scores"].items():
            for step, value in zip(curve["step"], scores, strict=True):
                found.setdefault(begun + step, {})[f"watch/{test}"] = value
    return ends


def _of_seed(record: Mapping[str, Any], key: str, seed: int | None) -> Any:
    return record[key][str(record["seeds"][0] if seed is None else seed)]


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}")
    elif isinstance(value, list) and value and isinstance(value[0], Mapping):
        for number, inner in enumerate(value):
            yield from _flat(inner, f"{name}.{number}")
    else:
        yield name, value
