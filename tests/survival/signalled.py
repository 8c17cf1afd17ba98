"""A process of its own: runs commands in forked processes, sends them signals, and says what became of them."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import nacre.checkpoint
import nacre.learner
from nacre.checkpoint import load
from nacre.cli.main import cli
from nacre.cli.work import run_one  # noqa: F401  imported here, so that no forked process has to
from nacre.core.run import Run
from nacre.experiment import Config, Experiment
from nacre.experiment.recorder import Recorder

TOP = Path(tempfile.mkdtemp())
PAUSE = 0.02  # seconds a step takes at least, so that there is a step to be met
CONFIG = """
[run]
threads = 1
save_seconds = 0

[stream]
tasks = 2

[backbone]
source = "mlp:64-16"

[[stage]]
methods = [{ name = "er", rows = 4 }]
optimizer = { name = "sgd", lr = 0.05, momentum = 0.9 }
steps = 40
batch_size = 16
"""


def slowed(module: Any, name: str, seconds: float) -> Callable[[], None]:
    """What makes a function take longer, in the process that calls it."""

    def patch() -> None:
        quick = getattr(module, name)

        def slow(*given: Any, **told: Any) -> Any:
            (TOP / "slow").touch()
            time.sleep(seconds)
            return quick(*given, **told)

        setattr(module, name, slow)

    return patch


class Command:
    """A command of `nacre` in a process of its own."""

    def __init__(self, *words: object, patch: Callable[[], None] | None = None):
        (TOP / "slow").unlink(missing_ok=True)
        self.errors = TOP / f"errors-{time.monotonic_ns()}"
        self.process = os.fork()
        if not self.process:
            handle = os.open(self.errors, os.O_WRONLY | os.O_CREAT)
            os.dup2(handle, 2)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            try:
                if patch is not None:
                    patch()
                cli([str(w) for w in words])
            except SystemExit as end:
                os._exit(int(end.code or 0))
            finally:
                os._exit(99)

    def send(self, *numbers: int) -> None:
        for number in numbers:
            os.kill(self.process, number)
            time.sleep(0.1)

    def ends(self) -> dict[str, Any]:
        """Exit code, what was said, and how long it took from now."""
        since = time.monotonic()
        code = os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1])
        return {"code": code, "said": self.errors.read_text(), "seconds": time.monotonic() - since}


def until(there: Callable[[], Any]) -> None:
    """Wait until something is there."""
    end = time.monotonic() + 30
    while not there():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.005)


def after(out: Path, seed: int = 0) -> dict[str, Any]:
    """What lies in a run's folder: how far it is, and the step of the newest checkpoint."""
    held = sorted((out / "checkpoints" / f"seed-{seed}").glob("*"))
    whole = [p for p in held if p.suffix != ".new"]
    step = load(whole[-1])["learner"]["step"] if whole else None
    return {"status": Run.load(out).status, "step": step, "left over": len(held) - len(whole)}


def alike(one: Path, other: Path, seed: int = 0) -> bool:
    """Whether two runs ended the same, bit for bit."""
    from tests.end_to_end.small import newest, same

    return same(newest(one, seed), newest(other, seed)) and same(
        Run.load(one).repeatable(), Run.load(other).repeatable()
    )


def main() -> dict[str, Any]:
    """Everything that can happen, by name."""
    torch.set_num_threads(1)
    config, said = TOP / "small.toml", {}
    config.write_text(CONFIG)
    seeds = ("--set", "run.seeds=[0, 1]")
    whole = {words: TOP / f"whole-{len(words)}" for words in ((), seeds)}
    for words, out in whole.items():  # in this process: what they import, no forked one has to
        Experiment(Config.load(config, words[1:])).run(out)
    step = slowed(nacre.learner, "_backward", PAUSE)
    for name, patch, numbers in (
        ("SIGINT", step, [signal.SIGINT]),
        ("SIGTERM", step, [signal.SIGTERM]),
        ("twice", slowed(nacre.learner, "_backward", 20), [signal.SIGTERM, signal.SIGTERM]),
        ("testing", slowed(Recorder, "measure", 20), [signal.SIGTERM]),
        ("saving", slowed(nacre.checkpoint, "write_tensors", 0.5), [signal.SIGINT]),
        ("SIGKILL", step, [signal.SIGKILL]),
    ):
        out = TOP / name
        command = Command("run", config, "--out", out, patch=patch)
        until(lambda: (TOP / "slow").exists())
        time.sleep(0.15)
        other = Command("resume", out).ends() if name == "SIGTERM" else None
        command.send(*numbers)
        said[name] = {**command.ends(), **after(out), "other": other}
        said[name] |= {"resumed": Command("resume", out).ends()["code"], "equal": alike(whole[()], out)}
        said[name]["again"] = Command("resume", out).ends()["code"]
    out = TOP / "second seed"
    command = Command("run", config, "--out", out, *seeds, patch=step)
    until(lambda: (out / "checkpoints" / "seed-1").exists())
    command.send(signal.SIGTERM)
    said["second seed"] = {**command.ends(), **after(out, 1)}
    said["second seed"] |= {"resumed": Command("resume", out).ends()["code"], "equal": alike(whole[seeds], out, 1)}
    return said


if __name__ == "__main__":
    print(json.dumps(main()))
    sys.stdout.flush()
