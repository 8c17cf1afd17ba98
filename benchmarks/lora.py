"""LoRA per task on all-MiniLM-L6-v2: an adapter a task through PEFT, saved and loaded back.

    python benchmarks/lora.py --backbone ENCODER --banking77 FOLDER [--rows 10]

ENCODER is a folder of all-MiniLM-L6-v2 (or its id on the hub), FOLDER holds the published files of Banking77. The first
`--rows` training rows and 10 test rows of each of the first 20 intents, in 4 tasks of 5 intents. `TaskAdapters`
(LoRA of rank 8 on query and value) trains 5 epochs of AdamW at 1e-3 on each task.

Told are the accuracies with task ids told and hidden, beside those of fine-tuning one shared adapter and of the nearest class
mean of the frozen encoder; that the encoder's weights and the answers of earlier tasks keep their bits; and that every folder
loads by plain `PeftModel.from_pretrained` over `AutoModel` with equal bits. Writes `results/lora.json`.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import tempfile
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from time import process_time
from typing import Any

import torch
from machine import cpu
from torch import Tensor

from nacre.adapters import adapters_in, answering_with, merged, save_adapters
from nacre.backbones import Body, Classifier, backbone
from nacre.core.method import Method
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Batch, Rows
from nacre.core.stream import Experience, Task
from nacre.data import TextRows, tokens_of
from nacre.heads import GrowingLinear
from nacre.learner import Learner, Stage
from nacre.methods import SimpleCIL, TaskAdapters
from nacre.schedules import schedule

RESULT = Path(__file__).parent / "results" / "lora.json"
TASKS, CLASSES = 4, 5
AT_LEAST = {"told": 95.0, "hidden": 84.0}
"""What is claimed of the mean accuracy after the last task, in percent."""


def stream_of(folder: Path, body: Body, rows: int) -> list[Experience]:
    """Tasks of five intents each, as tokens; the task ids are told."""
    names = json.loads((folder / "categories.json").read_text(encoding="utf-8"))[: TASKS * CLASSES]
    label = {name: k for k, name in enumerate(names)}
    held: dict[str, list[list[str]]] = {part: [[] for _ in names] for part in ("train", "test")}
    for part, texts in held.items():
        with (folder / f"{part}.csv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["category"] in label:
                    texts[label[row["category"]]].append(row["text"])
    assert body.tokenizer is not None
    met = []
    for index in range(TASKS):
        classes = tuple(range(index * CLASSES, (index + 1) * CLASSES))
        parts = {}
        for part, most in (("train", rows), ("test", 10)):
            pairs = [(text, c) for c in classes for text in held[part][c][:most]]
            y = torch.tensor([c for _, c in pairs])
            parts[part] = Told(tokens_of("banking77", TextRows([t for t, _ in pairs], y), body.tokenizer), index)
        met.append(Experience(Task(index, parts["train"], classes, index), {f"task{index}": parts["test"]}))
    return met


class Told:
    """Rows that carry the id of their task."""

    def __init__(self, rows: Rows, task: int):
        self.rows, self.task = rows, task

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> Any:
        """How long the texts are."""
        return getattr(self.rows, "lengths", None)

    def take(self, index: Tensor) -> Batch:
        """The rows at these positions."""
        batch = self.rows.take(index)
        return replace(batch, task=torch.full((len(batch),), self.task))


def answers(learner: Learner, rows: Rows, told: bool) -> tuple[Tensor, Tensor]:
    """Scores and labels of test rows."""
    found = []
    for low in range(0, len(rows), 200):
        batch = rows.take(torch.arange(low, min(low + 200, len(rows))))
        found.append((learner.predict(batch if told else replace(batch, task=None)), batch.y))
    return torch.cat([s for s, _ in found]), torch.cat([y for _, y in found])


def accuracy(learner: Learner, met: list[Experience], told: bool) -> float:
    """Mean over the tasks, in percent."""
    shares = []
    for one in met:
        (rows,) = one.tests.values()
        scores, y = answers(learner, rows, told)
        shares.append(float((scores.argmax(1) == y).double().mean()))
    return round(100 * sum(shares) / len(shares), 2)


def learned(
    body: Body, method: Method, met: list[Experience], look: Any = None, trains: bool = True
) -> tuple[Learner, float]:
    """A learner at the end of the stream, and the processor time of its training."""
    model = Classifier(body, GrowingLinear(body.width))
    optimizer = MadeOptimizer("adamw", 1e-3) if trains else None
    stage = Stage(method, optimizer, epochs=5, batch_size=16, schedule=schedule("cosine"))
    who, spent, since = Learner(model, (stage,)), 0.0, process_time()
    for one in who.learn(met):
        spent += process_time() - since
        if look is not None:
            look(who, one)
        since = process_time()
    return who, round(spent, 1)


def measured(args: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    met = stream_of(args.banking77, backbone(args.backbone), args.rows)
    first: dict[int, Tensor] = {}
    kept = True

    def look(who: Learner, one: Experience) -> None:
        nonlocal kept
        for k in range(one.task.index + 1):
            now = answers(who, met[k].tests[f"task{k}"], told=True)[0][:, k * CLASSES : (k + 1) * CLASSES]
            kept = kept and torch.equal(first.setdefault(k, now), now)

    body = backbone(args.backbone)
    before = {n: t.clone() for n, t in body.module.state_dict().items()}
    who, seconds = learned(body, TaskAdapters(rank=8), met, look)
    after: Any = merged(who.model)
    figures = {"told": accuracy(who, met, True), "hidden": accuracy(who, met, False)}
    shared, _ = learned(backbone(args.backbone), TaskAdapters(rank=8, per="all"), met)
    nearest, _ = learned(backbone(args.backbone), SimpleCIL(), met, trains=False)
    size = sum(p.numel() for n, p in who.model.named_parameters() if ".task0." in n)
    return {
        "tasks": TASKS,
        "classes": TASKS * CLASSES,
        "training_rows": sum(one.task.rows for one in met),
        "accuracy_percent": {
            "an adapter a task, told": figures["told"],
            "an adapter a task, hidden, the nearest class mean chooses": figures["hidden"],
            "one adapter for all, hidden": accuracy(shared, met, False),
            "nearest class mean of the frozen encoder, told": accuracy(nearest, met, True),
            "nearest class mean of the frozen encoder, hidden": accuracy(nearest, met, False),
        },
        "at_least": AT_LEAST,
        "holds": all(figures[name] >= low for name, low in AT_LEAST.items()),
        "numbers_of_an_adapter": size,
        "training_seconds": seconds,
        "encoder_keeps_its_bits": all(torch.equal(t, before[n]) for n, t in after.body.state_dict().items()),
        "answers_of_earlier_tasks_keep_their_bits": kept,
        **loaded_back(args.backbone, who),
    }


@torch.no_grad()
def loaded_back(source: str, who: Learner) -> dict[str, Any]:
    """Every adapter through a folder into plain PEFT over AutoModel; and merged."""
    from peft import PeftModel
    from transformers import AutoModel

    model: Any = who.model.eval()
    texts = {"input_ids": torch.randint(1000, 2000, (8, 12), generator=torch.Generator().manual_seed(0))}
    texts["attention_mask"] = torch.ones_like(texts["input_ids"])
    equal, apart, bytes_ = [], 0.0, 0
    with tempfile.TemporaryDirectory() as folder:
        for name in save_adapters(model, folder, base=source):
            theirs = PeftModel.from_pretrained(AutoModel.from_pretrained(source), Path(folder) / name).eval()
            with answering_with(model, name):
                ours = model.body.net(**texts).last_hidden_state
            equal.append(torch.equal(theirs(**texts).last_hidden_state, ours))
            plain: Any = merged(model, name)
            apart = max(apart, float((plain.body.net(**texts).last_hidden_state - ours).abs().max()))
            bytes_ = (Path(folder) / name / "adapter_model.safetensors").stat().st_size
    return {
        "folders_loaded_by_plain_peft_with_equal_bits": f"{sum(equal)} of {len(adapters_in(model))}",
        "merged_differs_by_at_most": apart,
        "bytes_of_a_folder's_weights": bytes_,
    }


def main() -> None:
    """Measure and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True, help="all-MiniLM-L6-v2: a folder, or its id")
    parser.add_argument("--banking77", type=Path, required=True, help="the folder of train.csv and test.csv")
    parser.add_argument("--rows", type=int, default=10, help="training rows of each intent")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    figures = measured(args)
    kept = {
        "command": "python benchmarks/lora.py --backbone ENCODER --banking77 FOLDER",
        "machine": {"cpu": cpu(), "threads": 1, "load": [round(n, 1) for n in os.getloadavg()]},
        "versions": {
            "python": platform.python_version(),
            **{p: version(p) for p in ("nacre", "torch", "transformers", "peft")},
        },
        **figures,
    }
    args.out.write_text(json.dumps(kept, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
