"""What a sweep refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nacre.core.errors import BadData, BadSetting, NacreError, UnknownName
from nacre.experiment import Experiment, Finished, Sweep, crew, swept_in
from nacre.experiment import sweep as sweeps
from nacre.streams import First, split
from tests.errors.row import ANY, Place, Row
from tests.errors.rows_runs import at_once, ran
from tests.errors.rows_streams import toy

SMALL = '[backbone]\nsource = "mlp:64-16"\n[stream]\ntasks = 2\n[[stage]]\nmethods = ["SimpleCIL"]\n'
SEEDS = "stage.0.epochs=1,2"


def grid(at: Place, *axes: str, **told: Any) -> Sweep:
    """A sweep of a small config, whose runs are worked off in this process."""
    at.patch.setattr(crew, "_work_off", at_once)
    return Sweep.over(at.write("small.toml", SMALL), axes or [SEEDS], **told)


def again(at: Place, *axes: str, **told: Any) -> Any:
    """A sweep, and then another one, in one folder."""
    grid(at).run(at / "out")
    return grid(at, *axes, **told).run(at / "out")


def over_a_run(at: Place) -> Any:
    return grid(at).run(ran(at))


def mark(at: Place, **held: Any) -> Any:
    """Read a sweep that somebody wrote by hand."""
    usual = {
        "format": sweeps.FORMAT,
        "axes": [],
        "select": "validation",
        "by": "last",
        "before": {},
        "test": False,
        "rows": [],
    }
    at.write("sweep.json", json.dumps({**usual, **held}))
    return swept_in(at.folder)


def all_fail(at: Place) -> Any:
    def failed(places: list[Path], workers: int, look: Any) -> dict[Path, str]:
        for place in places:
            Experiment(sweeps.Config.load(place)).resume(place)
        return dict.fromkeys(places, "no memory is left")

    several = grid(at)
    at.patch.setattr(crew, "_work_off", failed)
    return several.run(at / "out")


SWEEPS = [
    Row(
        "an axis without values",
        BadSetting,
        "--over takes place=value,value, such as stage.0.optimizer.lr=0.01,0.1, not 'stage.0.epochs'",
        lambda at: grid(at, "stage.0.epochs"),
    ),
    Row(
        "a value of an axis named twice",
        BadSetting,
        "--over stage.0.epochs=1,1: a value is named twice: name each once",
        lambda at: grid(at, "stage.0.epochs=1,1"),
    ),
    Row(
        "an axis with an empty value",
        BadSetting,
        "--over: 'adamw,,sgd' has an empty value: leave out a comma",
        lambda at: grid(at, "stage.0.optimizer=adamw,,sgd"),
    ),
    Row(
        "an axis with a value that the setting cannot have",
        BadSetting,
        "stage.0.epochs is a whole number, not 'many' (str)",
        lambda at: grid(at, "stage.0.epochs=1,many"),
    ),
    Row(
        "a figure to choose by that there is not",
        UnknownName,
        "unknown figure to choose by 'lost': did you mean 'last'? known are " + ANY,
        lambda at: grid(at, by="lost"),
    ),
    Row(
        "a sweep of nothing",
        BadSetting,
        "a sweep varies something: give --over place=value,value",
        lambda at: Sweep.over(at.write("small.toml", SMALL), []),
    ),
    Row(
        "a sweep of too many runs",
        BadSetting,
        "these axes make 1024 runs: at most 1000 are made; take fewer values",
        lambda at: grid(at, *(f"stage.0.{key}={','.join(map(str, range(1, 33)))}" for key in ("epochs", "steps"))),
    ),
    Row(
        "an axis over what a sweep sets",
        BadSetting,
        "--over data.tested_on: a sweep sets this itself: vary something else",
        lambda at: grid(at, "data.tested_on=test,validation"),
    ),
    Row(
        "two axes over one setting",
        BadSetting,
        "--over stage.0.epochs is given twice: give all its values at once",
        lambda at: grid(at, "stage.0.epochs=1,2", "stage.0.epochs=3,4"),
    ),
    Row(
        "a figure to choose by that no run measures",
        BadSetting,
        "these runs measure no forward_transfer: repeat the command with another --by (their records stay), or see what "
        "stream.evaluate measures",
        lambda at: grid(at, by="forward_transfer").run(at / "out"),
    ),
    Row(
        "rows to choose on that there are not",
        BadSetting,
        '--select is "validation", or "first:3" for the validation rows of the first three tasks, not \'test\'',
        lambda at: grid(at, select="test"),
    ),
    Row(
        "a folder of a run, for a sweep",
        BadSetting,
        "PATH/run holds a run, no sweep: choose another --out",
        over_a_run,
    ),
    Row(
        "a folder of another sweep",
        BadSetting,
        "PATH/out holds another sweep: choose another --out",
        lambda at: again(at, "stage.0.epochs=3"),
    ),
    Row(
        "a sweep whose runs have other settings",
        BadSetting,
        "PATH/out/1-epochs-1 holds a run with other settings; choose another --out, or delete it:\n  " + ANY,
        lambda at: again(at, changes=["stage.0.batch_size=3"]),
    ),
    Row(
        "a sweep that is finished",
        Finished,
        "PATH/out holds this very sweep, finished: see PATH/out/sweep.md and PATH/out/best.toml",
        again,
    ),
    Row(
        "a sweep of which every run fails",
        NacreError,
        "every run of the sweep failed; the first: no memory is left",
        all_fail,
    ),
    Row(
        "a sweep with runs elsewhere",
        BadData,
        "PATH/sweep.json names the row '../../elsewhere', which is no folder beside it: is the file ours?",
        lambda at: mark(at, rows=["../../elsewhere"]),
    ),
    Row(
        "a sweep of another format",
        BadData,
        "PATH/sweep.json is no nacre-sweep-1 that can be read ('other'): resume the runs beside it one by one",
        lambda at: mark(at, format="other"),
    ),
    Row(
        "a sweep with more runs than its axes make",
        BadData,
        "PATH/sweep.json is no nacre-sweep-1 that can be read ('rows'): resume the runs beside it one by one",
        lambda at: mark(at, rows=["1-a", "2-b"]),
    ),
    Row(
        "an impossible share of validation rows",
        BadSetting,
        "data: validation_share must be between 0 and 1, not 1.5",
        lambda at: grid(at, "data.validation_share=0.1,1.5"),
    ),
    Row(
        "more first tasks than there are",
        BadSetting,
        "the stream has 2 tasks, so its first 3 cannot be taken: take fewer",
        lambda at: First(split(toy(), 2), 3),
    ),
]
