"""Broken files by the thousand: whatever a reader is given, it reads it or says why not.

    python benchmarks/fuzz.py --seconds 600

Small valid files of every format are damaged: bits flipped, pieces cut, repeated and moved, sizes in headers made absurd,
magic exchanged; behind checksums too, which are then made right again. Claims held here, for every input of every reader:

- it is read, or refused with an error of `nacre.core.errors`; no other error comes, and no process dies;
- that takes at most 5 seconds of the processor;
- the memory of the process grows by at most 256 MiB over what it had before.

Each reader works in a process of its own with one thread. Input k of a reader is a function of (seed, reader, k) alone, so
`--reader NAME --only K` makes one again. The result says how many inputs each reader met, how many of them it read, and with
which errors it refused the others.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # where this file lies beside the others

from benchmarks.fuzz_damage import Reader, damaged
from benchmarks.fuzz_files import READERS
from nacre.core.errors import NacreError

RESULT = Path(__file__).parent / "results" / "fuzz.json"
SLOW, GROWTH = 5.0, 256 * 2**20
KEPT = 20  # failures of a reader that are written down


@dataclass
class Found:
    """What one reader did with its inputs.

    Attributes:
        inputs: How many it met.
        read: How many of them it read.
        refused: Errors that it refused the others with: how often.
        slowest: Seconds of the processor of the slowest.
        growth: The most bytes that the process grew by, over one input.
        failures: Inputs that a claim does not hold for.
    """

    inputs: int = 0
    read: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0
    growth: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**vars(self), "refused": dict(sorted(self.refused.items())), "slowest": round(self.slowest, 3)}


def made(reader: Reader, seed: int, k: int) -> bytes:
    """Input k of a reader."""
    return damaged(reader, random.Random(f"{seed}:{reader.name}:{k}"))


def fuzz(reader: Reader, folder: Path, seed: int = 0, inputs: int | None = None, seconds: float | None = None) -> Found:
    """Give a reader so many damaged files, or for so long."""
    found, since = Found(), time.perf_counter()
    reader.prepare(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for raw in reader.seeds:  # what is imported at the first calls is not what takes long or grows
            with suppress(NacreError):  # some of them are what another reader takes
                reader.read(reader.put(folder, raw))
        while (inputs is None or found.inputs < inputs) and (seconds is None or time.perf_counter() - since < seconds):
            one(reader, folder, seed, found.inputs, found)
    return found


def one(reader: Reader, folder: Path, seed: int, k: int, found: Found) -> None:
    """Give a reader its input k, and write down what it did."""
    raw = made(reader, seed, k)
    path = reader.put(folder, raw)
    before, begin = peak(), time.process_time()  # of the processor: others may keep the machine busy
    failure = ""
    try:
        reader.read(path)
        found.read += 1
    except NacreError as error:
        found.refused[type(error).__name__] += 1
        failure = "" if str(error).strip() else "an error that says nothing"
    except Exception:
        failure = traceback.format_exc(limit=-4)
    took, grown = time.process_time() - begin, peak() - before
    found.inputs += 1
    found.slowest, found.growth = max(found.slowest, took), max(found.growth, grown)
    failure = failure or (f"took {took:.1f} s" if took > SLOW else f"grew by {grown:,} bytes" if grown > GROWTH else "")
    if failure and len(found.failures) < KEPT:
        found.failures.append({"input": k, "what": failure, "begins": raw[:64].hex()})


def peak() -> int:
    """The most memory that this process ever had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def worked_off(reader: Reader, seed: int, seconds: float) -> dict[str, Any]:
    """One reader in a process of its own, so that one that dies is seen."""
    with tempfile.TemporaryDirectory() as folder:
        words = [
            sys.executable,
            __file__,
            "--worker",
            reader.name,
            folder,
            "--seed",
            str(seed),
            "--seconds",
            str(seconds),
        ]
        told = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        try:
            done = subprocess.run(words, capture_output=True, text=True, env=told, timeout=seconds + 120)
        except subprocess.TimeoutExpired:
            return {"inputs": 0, "failures": [{"what": "did not come to an end"}]}
        if done.returncode:
            how = f"signal {signal.Signals(-done.returncode).name}" if done.returncode < 0 else done.stderr[-2000:]
            return {"inputs": 0, "failures": [{"what": f"the process died: {how}"}]}
        return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Fuzz as the command line says."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--seconds", type=float, default=600, help="in all, shared out among the readers")
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--reader", choices=sorted(READERS), help="only this one")
    words.add_argument(
        "--only", type=int, help="make this one input of --reader, show what comes of it, and leave it here"
    )
    words.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    words.add_argument("--out", type=Path, default=RESULT)
    said = words.parse_args()
    if said.worker:
        print(
            json.dumps(fuzz(READERS[said.worker[0]], Path(said.worker[1]), said.seed, seconds=said.seconds).to_json())
        )
        return
    if said.only is not None:
        reader = READERS[said.reader]
        reader.prepare(Path())
        print(reader.read(reader.put(Path(), made(reader, said.seed, said.only))))
        return
    chosen = [READERS[said.reader]] if said.reader else list(READERS.values())
    result: dict[str, Any] = {}
    for reader in chosen:
        result[reader.name] = found = worked_off(reader, said.seed, said.seconds / len(chosen))
        print(f"{reader.name:14} {found['inputs']:7} inputs, {len(found['failures'])} failures", flush=True)
    report = {
        "command": f"python benchmarks/fuzz.py --seconds {said.seconds:g} --seed {said.seed}",
        "machine": f"{platform.system()} {platform.machine()}, one thread",
        "versions": {
            name: version(name)
            for name in ("nacre", "torch", "numpy", "pillow", "pyarrow", "transformers", "safetensors")
        },
        "claims": {"seconds an input at most": SLOW, "bytes that memory grows by at most": GROWTH},
        "inputs": sum(found["inputs"] for found in result.values()),
        "failures": sum(len(found["failures"]) for found in result.values()),
        "readers": result,
    }
    said.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{report['inputs']} inputs, {report['failures']} failures; kept in {said.out}")
    sys.exit(bool(report["failures"]))


if __name__ == "__main__":
    main()
