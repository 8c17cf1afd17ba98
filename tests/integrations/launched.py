"""What each process does under `accelerate launch`; what it found goes into a file of the folder that it is given."""

from __future__ import annotations

import hashlib
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any
from unittest import mock

from accelerate import Accelerator
from torch import nn

from nacre.core import ranks
from nacre.core.errors import RanksDiffer
from nacre.core.reduce import Reducer

EXAMPLE = str(Path(__file__).parents[2] / "examples" / "accelerate_loop.py")
METHODS = ("fine-tuning", "ER-0", "EWC-0", "MIST-1")


def digest(model: nn.Module) -> str:
    """Of every bit of its weights and buffers."""
    return hashlib.sha256(b"".join(t.numpy().tobytes() for t in model.state_dict().values())).hexdigest()


def example(**told: Any) -> dict[str, Any]:
    matrix, model, leaks = runpy.run_path(EXAMPLE)["run"](**told)
    return {"matrix": matrix.table(), "digest": digest(model), "leaks": leaks}


def trainers(folder: Path, accumulate: int) -> dict[str, list[float]]:
    """The last weights of some methods in the Trainer of transformers: micro-batches of 4 rows, two a step in all."""
    from tests.integrations import test_transformers as theirs

    found = {}
    for name in METHODS:
        told = {"accumulate": accumulate, "per_device_train_batch_size": 4, "optim": "sgd", "weight_decay": 0.0}
        learn = theirs.theirs(folder / name, also={"augment": None}, **told)
        model, _, moved = theirs.learned(name, learn, net=theirs.simple)
        found[name] = [*model.head.weight.flatten().tolist(), len(moved)]
    return found


def command(folder: Path) -> None:
    """`nacre run`, as `python -m nacre` does it: it finds the group of its own accord."""
    from nacre.cli.main import cli

    cli(["run", str(folder / "my.toml"), "--out", str(folder / "two")], standalone_mode=False)


def unaveraged() -> str:
    """What is said where nobody averages gradients."""
    from tests.integrations import loops

    with mock.patch.object(Reducer, "reduce", lambda self: None):
        try:
            loops.learned("fine-tuning", loops.plain())
        except RanksDiffer as error:
            return str(error)
    return ""


if __name__ == "__main__":
    out = Path(sys.argv[1])
    accelerator = Accelerator()  # makes the group, which all below find
    command(out)
    done = {"example": example(), "trainers": trainers(out, 1), "unaveraged": unaveraged(), "world": ranks.world()}
    (out / f"{ranks.rank()}.json").write_text(json.dumps(done))
    accelerator.wait_for_everyone()
    accelerator.end_training()
    sys.stdout.flush()
    os._exit(0)  # all is written; beside much other work torch's threads have aborted the process while it ended
