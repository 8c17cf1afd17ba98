"""What experiments, their folders and records, and models for predicting are refused; over 300 lines because it is a table."""

from __future__ import annotations

import fcntl
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

import nacre
from nacre import checkpoint
from nacre.backbones import Pixels
from nacre.core.errors import BadCheckpoint, BadData, BadSetting, NacreError
from nacre.core.run import Run
from nacre.data import Source, TextRows
from nacre.experiment import Comparison, Config, Experiment, Finished, compare, compared_in, crew, fit, load
from nacre.experiment.rows import Trained
from nacre.experiment.trial import GIVEN, device_called, trial
from nacre.methods import ER
from nacre.rules import Rest
from tests.errors.row import Place, Row

READS = {"backbone": {"source": "mlp:64-16"}, "stage": [{"methods": ["SimpleCIL"]}]}


def config(*changes: str, **tables: Any) -> Config:
    """Digits, a small perceptron, nothing trained; with whatever shall differ."""
    return Config.of({**READS, **tables}, changes)


def tried(*changes: str, data: Any = None, **tables: Any) -> Any:
    """Make the parts of a run."""
    return trial(config(*changes, **tables), 0, data)


def ran(at: Place, *changes: str) -> Path:
    """The folder of a finished run."""
    Experiment(config(*changes)).run(at / "run")
    return at / "run"


def again(at: Place, *changes: str) -> Any:
    ran(at)
    return Experiment(config(*changes)).run(at / "run")


def unfinished(at: Place) -> Any:
    record = json.loads((ran(at) / "run.json").read_text())
    at.write("run/run.json", json.dumps({**record, "status": "interrupted"}))
    return Experiment(config()).run(at / "run")


def busy(at: Place) -> Any:
    """Resume a run in which another process works."""
    at.write("run/config.toml", config().to_toml())
    handle = os.open(at / "run", os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        return Experiment(config()).resume(at / "run")
    finally:
        os.close(handle)


def other_data(at: Place) -> Any:
    x, y = np.zeros((8, 64), np.uint8), np.arange(8) % 2
    at.folder.mkdir(exist_ok=True)
    np.savez(at / "a.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    folder = ran(at, f"data.source={at / 'a.npz'}")
    (folder / "run.json").unlink()
    np.savez(at / "a.npz", x_train=x + 1, y_train=y, x_test=x, y_test=y)
    return Experiment(Config.load(folder)).resume(folder)


def other_stream(at: Place) -> Any:
    at.write("data/train.csv", "x,label\n" + "".join(f"{k},{'abcd'[k % 4]}\n" for k in range(16)))
    folder = ran(at, f"data.source={at / 'data'}", "stream.tasks=2", "stream.order=given", "backbone.source=mlp:1-4")
    (folder / "run.json").unlink()
    at.write("data/groups.json", '{"one": ["d", "a"], "two": ["b", "c"]}')
    return Experiment(Config.load(folder)).resume(folder)


def other_checkpoint(at: Place) -> Any:
    folder = ran(at)
    (folder / "run.json").unlink()
    for place in (folder / "checkpoints" / "seed-0").iterdir():
        checkpoint.save(place, {"step": 1})
    return Experiment(config()).resume(folder)


def at_once(places: list[Path], workers: int, look: Any) -> dict[Path, str]:
    """Work rows off in this process, as others would."""
    failed = {}
    for place in places:
        try:
            Experiment(Config.load(place)).resume(place)
        except NacreError as error:
            failed[place] = str(error)
    return failed


def several(at: Place, *names: str) -> Comparison:
    at.patch.setattr(crew, "_work_off", at_once)
    return Comparison([config(f"run.name={name}") for name in names])


def compared(at: Place, first: Comparison, then: Comparison) -> Any:
    first.run(at / "both")
    return then.run(at / "both")


def failing(at: Place) -> Any:
    at.patch.setattr(crew, "_work_off", at_once)
    return Comparison([config("data.source=gone.npz")]).run(at / "both")


def mark(at: Place, **held: Any) -> Any:
    """Read a comparison that somebody wrote by hand."""
    usual = {"format": compare.FORMAT, "rows": [], "text": "", "bounds": [], "runs": []}
    at.write("comparison.json", json.dumps({**usual, **held}))
    return compared_in(at.folder)


def finished_comparison(at: Place) -> Any:
    both = several(at, "a")
    both.save(at / "both", both.run(at / "both"))
    return both.run(at / "both")


def broken_bounds(at: Place) -> Any:
    at.patch.setattr(compare, "STORED", at.write("stored.json", "{"))
    return compare.stored()


def exported(at: Place, **changed: Any) -> Any:
    """Load a model some of whose description was changed."""
    place = ran(at) / "export"
    tree = checkpoint.load(place)
    checkpoint.save(place, {**tree, **changed})
    return load(place)


def asked(at: Place, x: Any, *changes: str, **told: Any) -> Any:
    """Ask a model that was trained on digits."""
    return load(ran(at, *changes)).predict(x, **told)


def vectors(at: Place) -> Any:
    """Ask a model that was trained on float vectors about bytes."""
    x, y = torch.rand(8, 5), torch.arange(8) % 2
    nacre.fit((x, y, x, y), "SimpleCIL", tasks=2, out=at / "run")
    return load(at / "run").predict((x * 255).to(torch.uint8))


TEXTS = TextRows(list("abcdef"), torch.arange(6) % 2)
WORDS = Source("toy", TEXTS, TEXTS, ("a", "b"))
PAIR = (np.random.default_rng(0).random((8, 5), np.float32), np.arange(8) % 2)

TRIALS = [
    Row(
        "rows that were given in Python, when they are not",
        BadData,
        "data.source: the rows of this run were given in Python; give them again, or save them as an .npz file",
        lambda at: tried(f"data.source={GIVEN}"),
    ),
    Row(
        "a backbone that was given in Python, when it is not",
        BadData,
        "backbone: the backbone of this run was given in Python: give it again, as Experiment(config, body=...)",
        lambda at: tried(f"backbone.source={GIVEN}"),
    ),
    Row(
        "text rows, where no backbone reads texts",
        BadData,
        "backbone: toy has text rows, which need a text backbone, and 'mlp:64-16' reads pictures or numbers: "
        "give the folder or the hub id of a text model, such as sentence-transformers/all-MiniLM-L6-v2",
        lambda at: tried(data=WORDS),
    ),
    Row(
        "vectors, where the backbone reads pictures",
        BadData,
        "backbone: convnet reads pictures, the rows of arrays are 5 numbers: write mlp:5-...",
        lambda at: tried("backbone.source=convnet", data=PAIR),
    ),
    Row(
        "rows of other width than the perceptron reads",
        BadData,
        "backbone: mlp:10-5 reads 10 numbers a row, the rows of digits are 1x8x8: write mlp:64-...",
        lambda at: tried("backbone.source=mlp:10-5"),
    ),
    Row(
        "several epochs of rows that are met once",
        BadSetting,
        "stage.0: epochs = 2, but the rows of a stream with arrival = 'online' are met once: set epochs = 1",
        lambda at: tried("stream.arrival=online", stage=[{"methods": ["ER"], "epochs": 2}]),
    ),
    Row(
        "a stage that is due on no task",
        BadSetting,
        "stage.0: when = '7-9' is none of the 5 tasks, which count from 0",
        lambda at: tried("stage.0.when='7-9'"),
    ),
    Row(
        "a device that this machine has not",
        BadSetting,
        'run.device: torch sees no cuda here, so there is no \'cuda:64\': use "auto" or "cpu"',
        lambda at: tried("run.device=cuda:64"),
    ),
    Row(
        "a device that there is not",
        BadSetting,
        'a device is "auto", "cpu", "mps", "cuda" or "cuda:1", not \'gpu\'',
        lambda at: device_called("gpu"),
    ),
]

FITS = [
    Row(
        "settings for no method",
        BadSetting,
        "strength: settings belong to one method, 0 were given; pass it with them",
        lambda at: fit("digits", strength=1.0),
    ),
    Row(
        "a class in place of a method",
        BadSetting,
        "ER is a class: give ER(), perhaps with settings, or its name",
        lambda at: fit("digits", ER),
    ),  # pyright: ignore[reportArgumentType]
    Row(
        "a rule in place of a method",
        BadSetting,
        'nacre.fit takes methods, by name or made, not Rest: "fine-tuning" is none; rules go into '
        "nacre.Stage(method=...)",
        lambda at: fit("digits", Rest("body")),
    ),  # pyright: ignore
]

FOLDERS = [
    Row(
        "a folder of other things",
        BadData,
        "PATH/a exists and is no run's folder (it has no config.toml): choose another --out",
        lambda at: Experiment(config()).run(at.write("a/notes.txt", "").parent),
    ),
    Row(
        "a folder of a run with other settings",
        BadSetting,
        "PATH/run holds a run with other settings; choose another --out, or delete it:\n  stream.tasks: None -> 2",
        lambda at: again(at, "stream.tasks=2"),
    ),
    Row(
        "a folder of this run, finished",
        Finished,
        "PATH/run holds this very run, finished: see PATH/run/run.json",
        again,
    ),
    Row(
        "a folder of this run, unfinished",
        BadSetting,
        "PATH/run holds this very run, unfinished: go on with `nacre resume PATH/run`",
        unfinished,
    ),
    Row(
        "a folder in which another process works",
        BadSetting,
        "another process works in PATH/run: wait for it, or end it first",
        busy,
    ),
    Row(
        "a finished run that shall go on",
        Finished,
        "PATH/run holds a finished run: see PATH/run/run.json",
        lambda at: Experiment(config()).resume(ran(at)),
    ),
    Row(
        "data that have changed since the run began",
        BadData,
        "the data have changed since this run began (sha256 …..., then …...): bring the old rows back, or "
        "start a new run",
        other_data,
    ),
    Row(
        "classes that were grouped otherwise since the run began",
        BadData,
        "the stream is another than when this run began (sha256 …..., then …...), by other names of classes or other "
        "groups of them perhaps: bring these back, or start a new run",
        other_stream,
    ),
    Row(
        "a folder that there is not",
        BadData,
        "there is no folder PATH/gone: give that of a run, as `nacre run --out` made it",
        lambda at: Experiment(config()).resume(at / "gone"),
    ),
    Row(
        "a checkpoint that is not one of a run",
        BadCheckpoint,
        "the checkpoint of seed 0 is not one of an experiment: was it written by hand?",
        other_checkpoint,
    ),
    Row(
        "a folder of a run, for a comparison",
        BadSetting,
        "PATH/run holds a run, no comparison of runs: choose another --out",
        lambda at: several(at, "a").run(ran(at)),
    ),
    Row(
        "a folder of another comparison",
        BadSetting,
        "PATH/both holds another comparison, of 1-a: choose another --out",
        lambda at: compared(at, several(at, "a"), several(at, "b")),
    ),
    Row(
        "a comparison with other settings",
        BadSetting,
        "PATH/both/1-a holds a run with other settings; choose another --out, or delete it:\n  stream.tasks: None -> 2",
        lambda at: compared(at, several(at, "a"), Comparison([config("run.name=a", "stream.tasks=2")])),
    ),
    Row(
        "a comparison that is finished",
        Finished,
        "PATH/both holds this very comparison, finished: see PATH/both/comparison.md",
        finished_comparison,
    ),
    Row(
        "a row of a comparison that fails",
        NacreError,
        "run: data: there is nothing at 'gone.npz' (looked for PATH/gone.npz): give one of …",
        failing,
    ),
    Row(
        "a comparison with rows elsewhere",
        BadData,
        "PATH/comparison.json names the row '../../elsewhere', which is no folder beside it: is the file ours?",
        lambda at: mark(at, rows=["../../elsewhere"]),
    ),
    Row(
        "a comparison of another format",
        BadData,
        "PATH/comparison.json is no nacre-comparison-1 that can be read ('other'): resume the runs beside it "
        "one by one",
        lambda at: mark(at, format="other"),
    ),
    Row(
        "stored bounds that are broken",
        BadData,
        "PATH/stored.json cannot be read: …; install the package again",
        broken_bounds,
    ),
]

RECORDS = [
    Row(
        "a folder without a record",
        BadData,
        "PATH holds no run.json: give the folder of a run, as `nacre run --out` made it",
        lambda at: Run.load(at.folder),
    ),
    Row(
        "a record that is no JSON",
        BadData,
        "PATH/run.json cannot be read (…): resume the run, which writes it anew",
        lambda at: Run.load(at.write("run.json", "{").parent),
    ),
    Row(
        "a record of another format",
        BadData,
        "a run record has format 'nacre-run-1', this one has 'list': is it a run.json of this version?",
        lambda at: Run.load(at.write("run.json", "[]").parent),
    ),
]

MODELS = [
    Row(
        "what is no exported model",
        BadCheckpoint,
        "PATH/run/export holds no exported model: give a run's folder or the export folder in it",
        lambda at: exported(at, format="other"),
    ),
    Row(
        "a model whose method is a class path to code that runs",
        BadSetting,
        "'os:system' is no Method: name a class that is one",
        lambda at: exported(at, method={"name": "os:system"}),
    ),
    Row(
        "a model that is not described",
        BadCheckpoint,
        "the checkpoint does not describe a model (in PATH/run/export) (KeyError: 'shape'): was it written by "
        "another version, or by hand?",
        lambda at: exported(at, row={}),
    ),
    Row(
        "a model of absurd sizes",
        BadData,
        "this spec describes a model of 65,000,000 weights, and there are 1,210 for it: was it altered?",
        lambda at: exported(at, body={"kind": "mlp", "widths": [64, 10**6], "pixels": {}}),
    ),
    Row(
        "weights of another model",
        BadCheckpoint,
        "the weights in PATH/run/export do not fit the model described there (…): export it again",
        lambda at: exported(at, classes=["a"]),
    ),
    Row(
        "rows of another shape",
        BadData,
        "the model was trained on rows of shape (1, 8, 8), (2, 7) holds none of them: give (rows, 1, 8, 8)",
        lambda at: asked(at, torch.zeros(2, 7)),
    ),
    Row(
        "rows that can be meant in two ways",
        BadData,
        "rows of shape (3, 5, 3) may be meant as 1x3x3x5 or 3x1x5x3 or 1x3x5x3: give (rows, channels, height, width)",
        lambda at: Trained((1, 8, 8), True, Pixels(1, 8)).rows(np.zeros((3, 5, 3), np.uint8)),
    ),
    Row(
        "rows that are no numbers",
        BadData,
        "rows are an array or a tensor of numbers, not list (…): convert them",
        lambda at: asked(at, ["a"]),
    ),
    Row(
        "bytes, where training rows were float vectors",
        BadData,
        "the model was trained on float vectors, these are uint8: scale and convert them as then",
        vectors,
    ),
    Row(
        "a task, where tasks were not told",
        BadSetting,
        "this model was trained without tasks told, all its classes compete: leave task out",
        lambda at: asked(at, torch.zeros(1, 1, 8, 8), task=0),
    ),
    Row(
        "a task that there is not",
        BadSetting,
        "task is one of 0..4, not 9",
        lambda at: asked(at, torch.zeros(1, 1, 8, 8), "stream.kind=task-incremental", task=9),
    ),
]
