"""Texts: intents read by a frozen sentence encoder, and what a training step of a text encoder costs.

    python benchmarks/text.py --part heads --backbone ENCODER --clinc150 FOLDER --banking77 FOLDER [--work runs/text]
    python benchmarks/text.py --part step --backbone ENCODER --banking77 FOLDER [--pairs 60]

ENCODER is a folder of all-MiniLM-L6-v2 (or its id on the hub), FOLDERs hold the published files.

`heads` runs the recipes `clinc150` and `banking77` with their own read-out, another width and the nearest class mean, on the
three seeds of the recipes, which draw the order of classes and the random projection; all training rows, all test rows.
Runs lie in the work folder, features too, and a second call goes on with them. Features are taken by the first run over the
data; how long each later run, and a whole repetition of one with its features at hand, takes is told beside.

`step` trains all weights of the encoder, cut to 2 layers and whole, by `Learner`; between any two of its steps a loop written
by hand takes one on the same batch, which it holds padded in int64, with a copy of the model, a linear head, the mean over
tokens and the same optimizer. Both stand in one process on one thread, so other load meets both; times are of the processor.
A ratio is that of one pair of steps; medians and quartiles over all pairs are told. Before, both are shown to do the same
work: without dropout their losses agree.

Writes `results/text.json`; each part leaves the other's figures as they are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nacre.backbones import Classifier, backbone
from nacre.core.drive import Drive
from nacre.core.method import Method
from nacre.core.optim import MadeOptimizer
from nacre.core.run import Run
from nacre.core.stream import Stream
from nacre.data import load
from nacre.experiment import Comparison, Experiment, Finished, recipe
from nacre.heads import GrowingLinear
from nacre.learner import Learner, Listener, Stage
from nacre.streams import split

RESULT = Path(__file__).parent / "results" / "text.json"
NEAREST = ['stage.0.methods=["SimpleCIL"]']
ROWS = {
    "clinc150": {"SimpleCIL": NEAREST, "RanPAC 5000": []},
    "banking77": {"SimpleCIL": NEAREST, "RanPAC 2000": ["stage.0.methods.0.width=2000"], "RanPAC 5000": []},
}
CLAIMS: dict[str, dict[str, tuple[float, float]]] = {  # the last accuracy in percent: at least, at most
    "clinc150": {"SimpleCIL": (91.0, 100.0), "RanPAC 5000": (95.0, 100.0)},
    "banking77": {"SimpleCIL": (84.7, 85.3), "RanPAC 2000": (92.5, 100.0), "RanPAC 5000": (93.3, 100.0)},
}
STEP = 1.10  # at most so many times the loop by hand
BATCH, RATE, WARM, ALIKE = 32, 2e-5, 5, 5


def heads(args: argparse.Namespace) -> dict[str, Any]:
    """Every read-out of both recipes; last accuracies in percent beside what is claimed of them."""
    os.environ["NACRE_CACHE"] = str((args.work / "kept").resolve())
    found: dict[str, Any] = {}
    for name, rows in ROWS.items():
        usual = ["run.threads=1", "run.keep=1"]
        data = getattr(args, name)
        if data is None:
            raise SystemExit(f"--part heads reads {name}: say its folder, as --{name} FOLDER")
        configs = [
            recipe(name, data=data.resolve(), backbone=args.backbone, changes=[*usual, *told, f"run.name={row}"])
            for row, told in rows.items()
        ]
        several = Comparison(configs)
        with suppress(Finished):
            several.save(args.work / name, several.run(args.work / name))
        found[name] = {}
        for row, place, config in zip(rows, several.names, configs, strict=True):
            run = Run.load(args.work / name / place)
            wall, cpu = perf_counter(), process_time()
            config.run.seeds = config.run.seeds[:1]
            again = Experiment(config).run()
            seconds = {"wall": round(perf_counter() - wall, 1), "processor": round(process_time() - cpu, 1)}
            assert again.results[0].summary["last"] == run.results[run.seeds[0]].summary["last"]
            found[name][row] = read_out(run, *CLAIMS[name][row]) | {
                "seconds_of_one_seed_again_with_features_at_hand": seconds
            }
            print(name, row, json.dumps(found[name][row]), flush=True)
    return found


def read_out(run: Run, least: float, most: float) -> dict[str, Any]:
    """A run's accuracies in percent, whether they are those claimed, and its seconds a seed."""
    last = [100 * result.summary["last"] for result in run.results.values()]
    mean = statistics.fmean(last)
    return {
        "last": [round(value, 2) for value in last],
        "mean": round(mean, 2),
        "average": round(100 * run.figure("average")[0], 2),
        "at_least": least,
        "at_most": most,
        "holds": least <= mean <= most,
        "seconds": [{kind: round(s, 1) for kind, s in r.seconds.items()} for r in run.results.values()],
    }


class ByHand(nn.Module):
    """What a loop written by hand trains: a model of transformers, the mean over tokens, a linear head."""

    def __init__(self, net: nn.Module, head: nn.Linear):
        super().__init__()
        self.net, self.head = net, head

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Logits (rows, classes) of tokens (rows, tokens)."""
        hidden = self.net(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        seen = attention_mask[..., None].to(hidden.dtype)
        return self.head((hidden * seen).sum(1) / seen.sum(1))


@dataclass
class Turns(Listener):
    """Lets the other loop take a step after each step of a learner, and times both.

    Attributes:
        other: Takes its next step; answers with its loss.
        ours: Processor seconds of each of the learner's steps.
        theirs: Of each step of the other loop.
        losses: Of each pair of steps.
    """

    other: Callable[[], float]
    ours: list[float] = field(default_factory=list)
    theirs: list[float] = field(default_factory=list)
    losses: list[tuple[float, float]] = field(default_factory=list)
    since: float = 0.0

    def stage_begins(self, learner: Learner, stage: Stage, total: int) -> None:
        self.since = process_time()

    def stepped(self, learner: Learner, loss: Tensor) -> None:
        end = process_time()
        self.ours.append(end - self.since)
        self.losses.append((float(loss), self.other()))
        self.since = process_time()
        self.theirs.append(self.since - end)


def turns(args: argparse.Namespace, layers: int, steps: int, dropout: bool) -> Turns:
    """So many steps of both loops, in turns, from the same weights over the same batches."""
    body = backbone(args.backbone, layers=layers, normalize=False)
    stream = split(load(args.banking77).tokenized(body.tokenizer), 1, order="given")
    classes = len(stream[0].task.classes)
    theirs = backbone(args.backbone, layers=layers, normalize=False).module.net
    head = GrowingLinear(body.width, classes=classes)
    model = Classifier(body, GrowingLinear(body.width, classes=classes))
    by_hand = ByHand(theirs, nn.Linear(body.width, classes))
    by_hand.head.load_state_dict(head.state_dict())
    if not dropout:
        for module in (*model.modules(), *by_hand.modules()):
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    batches = iter(padded(stream, steps))
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=RATE)
    by_hand.train()

    def step() -> float:
        tokens, y = next(batches)
        optimizer.zero_grad()
        loss = F.cross_entropy(by_hand(**tokens), y)
        loss.backward()
        optimizer.step()
        return loss.item()

    stage = Stage(optimizer=MadeOptimizer("adamw", RATE), steps=steps, batch_size=BATCH)
    taken = Turns(step)
    for _ in Learner(model, (stage,)).learn(stream, taken):
        pass
    return taken


def padded(stream: Stream, steps: int) -> list[tuple[dict[str, Tensor], Tensor]]:
    """The batches that a learner of seed 0 meets, as a loop by hand would hold them."""
    drive, found = Drive(Method(), nn.Linear(1, 1), None, stream[0].task, seed=0), []
    with drive:
        epoch = 0
        while len(found) < steps:
            for batch in drive.batches(epoch, BATCH):
                tokens = {name: batch.x[name].long() for name in ("input_ids", "attention_mask")}
                found.append((tokens, batch.y))
            epoch += 1
    return found[:steps]


def step_cost(args: argparse.Namespace) -> dict[str, Any]:
    """The cost of a step beside that of the loop by hand, with 2 layers and with all 6."""
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for layers in (2, 6):
        alike = turns(args, layers, ALIKE, dropout=False)
        apart = max(abs(a - b) for a, b in alike.losses)
        assert apart < 1e-4, f"the two loops do not do the same work: {alike.losses}"
        taken = turns(args, layers, WARM + args.pairs, dropout=True)
        ours, theirs = taken.ours[WARM:], taken.theirs[WARM:]
        low, middle, high = statistics.quantiles([a / b for a, b in zip(ours, theirs, strict=True)], n=4)
        found[f"{layers} layers"] = {
            "nacre_milliseconds": round(1000 * statistics.median(ours), 1),
            "by_hand_milliseconds": round(1000 * statistics.median(theirs), 1),
            "ratio": round(middle, 3),
            "quartiles": [round(low, 3), round(high, 3)],
            "at_most": STEP,
            "holds": middle <= STEP,
            "pairs": len(ours),
            "losses_without_dropout_differ_by": apart,
        }
        print(layers, json.dumps(found[f"{layers} layers"]), flush=True)
    return found


PARTS = {"heads": heads, "step": step_cost}


def main() -> None:
    """Run one part and keep its figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, required=True)
    parser.add_argument("--backbone", required=True, help="all-MiniLM-L6-v2: a folder, or its id")
    parser.add_argument("--clinc150", type=Path, help="the folder of data_full.json and domains.json")
    parser.add_argument("--banking77", type=Path, required=True, help="the folder of train.csv and test.csv")
    parser.add_argument("--pairs", type=int, default=60, help="pairs of steps that are told of")
    parser.add_argument("--work", type=Path, default=Path("runs/text"))
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    figures = PARTS[args.part](args)
    kept = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}
    kept |= {
        "command": "python benchmarks/text.py --part heads | step --backbone ENCODER --clinc150 FOLDER --banking77 FOLDER",
        "machine": {"cpu": "one thread", "load": [round(n, 1) for n in os.getloadavg()]},
        "versions": {
            "python": platform.python_version(),
            **{p: version(p) for p in ("nacre", "torch", "transformers")},
        },
        args.part: figures,
    }
    args.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
