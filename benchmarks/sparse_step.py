"""What a step of sparse tuning costs: its time, the optimizer's state and the peak of memory, beside other ways to tune.

    python benchmarks/sparse_step.py --backbone ENCODER --banking77 FOLDER

Three cases: (a) four Linear(1024) at batch 32; (b) a vision transformer of width 384 with 6 layers at 8 x 197 tokens; (c)
all-MiniLM-L6-v2 (ENCODER, a folder) at 32 sentences of Banking77 (FOLDER) as they are long. Without the two folders (c) is
left out; `--cases a b` measures some, and keeps what the result file says of the others.

Ways to tune: all weights with AdamW (also its fused form; in (c) also with the embeddings frozen); a mask on gradients in
front of AdamW, as in published code; three of PEFT on all linear layers, which are LoRA of rank 8, SHiRA of rank 8 (as many
entries by chance as LoRA has values) and Super-Tuning of the 1 or 5 % of largest entries; all weights in the optimizer and all
but 1 or 5 % of the entries resting; the compact form with 1 or 5 %. For the last two, and the mask, entries are drawn at random
in every weight matrix, convolution and bare tensor; there biases, norms and the head train wholly, with those of PEFT the head.
In (c) all but the first two leave the embeddings frozen.

Each way has a process of its own, as it has where somebody trains, so that none is served with memory that another one has
freed (`--together` puts all into one process: there the allocator keeps what it would hand back to the system otherwise, by
which full AdamW in (a) gains more than the others). They take turns, block by block, with one thread (processor time) and with
two (time on the clock). A figure is the median over blocks; its spread is the quartiles of the ratios within a round. The peak
of memory is that of another process after six steps, as the operating system counts it, interpreter and libraries included.
"""

from __future__ import annotations

import argparse
import csv
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import peft
import torch
import torch.nn.functional as F
from machine import cpu
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from nacre.adapters import put_in, put_in_entries, targets_in, train_only
from nacre.adapters.layers import config_of, exactly
from nacre.core.dice import dice, keep
from nacre.core.rule import attached
from nacre.rules import Rest

RESULT = Path(__file__).parent / "results" / "sparse_step.json"
CLASSES = 11
CASES = {
    "a": "four Linear(1024), batch 32",
    "b": "vision transformer of width 384, 6 layers, 8 x 197 tokens",
    "c": "all-MiniLM-L6-v2, 32 sentences of Banking77",
}
LIMITS = [  # case, way, beside, figure, at most
    ("a", "compact 1 %", "full", "time", 0.50),
    ("b", "compact 1 %", "full", "time", 0.85),
    ("b", "resting 1 %", "full", "time", 1.10),
    ("c", "compact 5 %", "full", "time", 0.70),
    ("c", "compact 5 %", "full, embeddings frozen", "time", 0.85),
    ("c", "compact 5 %", "full", "peak_mb", 0.80),
    ("a", "compact 1 %", "full", "state_bytes", 0.02),
    ("b", "compact 1 %", "full", "state_bytes", 0.02),
    ("c", "compact 1 %", "full", "state_bytes", 0.02),
]


class Tuned(nn.Module):
    """A body that answers with (rows, width) or (rows, tokens, width), and a head."""

    def __init__(self, body: nn.Module, width: int):
        super().__init__()
        self.body, self.head = body, nn.Linear(width, CLASSES)

    def forward(self, **inputs: Tensor) -> Tensor:
        """Scores (rows, classes)."""
        answer: Any = self.body(**inputs)
        z = getattr(answer, "last_hidden_state", answer)
        if "attention_mask" in inputs:
            mask = inputs["attention_mask"][..., None].to(z.dtype)
            z = (z * mask).sum(1) / mask.sum(1)
        return self.head(z[:, 0] if z.ndim == 3 else z)


class Stack(nn.Module):
    """Four linear layers."""

    def __init__(self, width: int = 1024):
        super().__init__()
        self.layers = nn.Sequential(*(m for _ in range(4) for m in (nn.Linear(width, width), nn.ReLU())))

    def forward(self, x: Tensor) -> Tensor:
        """The last layer's answer."""
        return self.layers(x)


@dataclass
class Case:
    """A model and its batches: inputs by name, and labels."""

    model: Callable[[], Tuned]
    batches: list[tuple[dict[str, Tensor], Tensor]]


def case(name: str, args: argparse.Namespace) -> Case:
    """One of the three."""
    draw = dice(0, "batches")

    def labels(rows: int) -> Tensor:
        return torch.randint(CLASSES, (rows,), generator=draw)

    if name == "a":
        return Case(lambda: Tuned(Stack(), 1024), [({"x": torch.randn(32, 1024, generator=draw)}, labels(32))])
    import transformers

    transformers.utils.logging.disable_progress_bar()
    if name == "b":
        shape = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 6, "intermediate_size": 1536}
        config = transformers.ViTConfig(**shape)
        pixels = {"pixel_values": torch.randn(8, 3, 224, 224, generator=draw)}
        return Case(lambda: Tuned(transformers.ViTModel(config, add_pooling_layer=False), 384), [(pixels, labels(8))])
    with (args.banking77 / "train.csv").open(encoding="utf-8", newline="") as file:
        texts = [row["text"] for row in csv.DictReader(file)]
    words = transformers.AutoTokenizer.from_pretrained(args.backbone)
    batches = []
    for index in torch.randperm(len(texts), generator=draw)[: 32 * 8].view(8, 32).tolist():
        told = words([texts[i] for i in index], padding=True, truncation=True, max_length=32, return_tensors="pt")
        batches.append(({k: told[k] for k in ("input_ids", "attention_mask")}, labels(32)))

    def model() -> Tuned:
        body = transformers.AutoModel.from_pretrained(args.backbone, add_pooling_layer=False)
        return Tuned(body, body.config.hidden_size)

    return Case(model, batches)


def masks(model: nn.Module, share: float) -> dict[str, Tensor]:
    """By name, for each tensor that is no vector and trains: which entries are chosen, by chance."""
    found = {n: p for n, p in model.body.named_parameters() if p.ndim > 1 and p.requires_grad}  # pyright: ignore
    return {f"body.{n}": keep(share, p.numel(), "cpu", 0, n).view(p.shape) for n, p in found.items()}


@dataclass
class Way:
    """A model, its optimizer and what happens between the backward pass and the step."""

    model: Tuned
    optimizer: Optimizer
    between: Callable[[], Any] = lambda: None
    rule: Rest | None = None

    def steps(self, batches: list[tuple[dict[str, Tensor], Tensor]], clock: Callable[[], float]) -> list[float]:
        """A step on each batch; how long each took."""
        taken = []
        with ExitStack() as stack:
            if self.rule is not None:
                stack.enter_context(attached(self.rule, self.optimizer, self.model))
            for inputs, y in batches:
                start = clock()
                self.optimizer.zero_grad()
                F.cross_entropy(self.model(**inputs), y).backward()
                self.between()
                self.optimizer.step()
                taken.append(clock() - start)
        return taken

    def state_bytes(self) -> int:
        """What the optimizer keeps."""
        held = [t for own in self.optimizer.state.values() for t in own.values() if isinstance(t, Tensor)]
        return sum(t.numel() * t.element_size() for t in held)

    def trained(self) -> int:
        """How many numbers the optimizer holds."""
        return sum(p.numel() for group in self.optimizer.param_groups for p in group["params"])


def ways(name: str, of: Case) -> dict[str, Callable[[], Way]]:
    """How each way is made."""

    def made(freezes: bool = True) -> Tuned:
        torch.manual_seed(0)
        model = of.model().train()
        if name == "c" and freezes:
            for n, p in model.body.named_parameters():
                p.requires_grad_("embeddings." not in n)
        return model

    def adamw(model: nn.Module, **settings: Any) -> AdamW:
        return AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-5, **settings)

    def full(freezes: bool = False, **settings: Any) -> Way:
        model = made(freezes)
        return Way(model, adamw(model, **settings))

    def masked() -> Way:
        model = made()
        by_name, named = masks(model, 0.01), dict(model.named_parameters())
        held = [(named[n], m.float()) for n, m in by_name.items()]

        def mask() -> None:
            torch._foreach_mul_([p.grad for p, _ in held], [m for _, m in held])

        return Way(model, adamw(model), mask)

    def lora() -> Way:
        model = made()
        put_in(model, "lora", config_of("lora", targets_in(model, "all-linear"), 8, 16.0))
        train_only(model, "lora")
        return Way(model, adamw(model))

    def of_peft(config: str, **settings: Any) -> Way:
        model = made()
        for p in model.body.parameters():
            p.requires_grad_(False)
        told = getattr(peft, config)(target_modules=exactly(targets_in(model, "all-linear")), **settings)
        peft.inject_adapter_in_model(told, model, "sparse")
        model.head.requires_grad_(True)
        return Way(model, adamw(model))

    def resting(share: float) -> Way:
        model = made()
        return Way(model, adamw(model), rule=Rest({n: ~m for n, m in masks(model, share).items()}))

    def compact(share: float) -> Way:
        model = made()
        put_in_entries(model, masks(model, share))
        return Way(model, adamw(model))

    found = {"full": full, "full, fused": lambda: full(fused=True)}
    if name == "c":
        found["full, embeddings frozen"] = lambda: full(freezes=True)
    return found | {
        "mask on gradients": masked,
        "LoRA r=8": lora,
        "SHiRA r=8": lambda: of_peft("ShiraConfig", r=8, random_seed=0),
        "Super-Tuning 1 %": lambda: of_peft("SupertuningConfig", sparsity=0.99),
        "Super-Tuning 5 %": lambda: of_peft("SupertuningConfig", sparsity=0.95),
        "resting 1 %": lambda: resting(0.01),
        "resting 5 %": lambda: resting(0.05),
        "compact 1 %": lambda: compact(0.01),
        "compact 5 %": lambda: compact(0.05),
    }


Answer = Callable[[dict[str, int]], Any]


def answering(of: Case, way: Way) -> Answer:
    """Answers with how long each step of a block took; asked nothing, with what the way holds."""

    def answer(asked: dict[str, int]) -> Any:
        if not asked:
            return {"trained": way.trained(), "state_bytes": way.state_bytes()}
        torch.set_num_threads(asked["threads"])
        clock = process_time if asked["threads"] == 1 else perf_counter
        first = asked["place"] * asked["steps"]
        return way.steps([of.batches[(first + k) % len(of.batches)] for k in range(asked["steps"] + 1)], clock)

    return answer


def elsewhere(command: list[str], stack: ExitStack) -> Answer:
    """The same from a process of its own, by lines."""
    served = [sys.executable, __file__, "--serve", *command]
    process = stack.enter_context(subprocess.Popen(served, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    assert process.stdin and process.stdout
    told, replies = process.stdin, process.stdout

    def answer(asked: dict[str, int]) -> Any:
        print(json.dumps(asked), file=told, flush=True)
        if not (line := replies.readline()):
            raise RuntimeError(f"{' '.join(served)} ended with {process.wait()}")
        return json.loads(line)

    return answer


def in_turns(answers: dict[str, Answer], threads: int, rounds: int, steps: int) -> dict[str, dict[str, Any]]:
    """Blocks of steps of each way in turn; the first step of a block and the first round only warm up."""
    blocks: dict[str, list[float]] = {name: [] for name in answers}
    order = list(answers)
    for place in range(rounds + 1):
        for name in order[place % len(order) :] + order[: place % len(order)]:
            taken = answers[name]({"threads": threads, "place": place, "steps": steps})
            if place:
                blocks[name].append(statistics.median(taken[1:]))
    told = {}
    for name, times in blocks.items():
        low, _, high = statistics.quantiles([t / f for t, f in zip(times, blocks["full"], strict=True)], n=4)
        told[name] = {
            "time": statistics.median(times),
            "times_full": round(statistics.median(times) / statistics.median(blocks["full"]), 3),
            "times_full_quartiles": [round(low, 3), round(high, 3)],
        }
    return told


def peak_mb(command: list[str]) -> float:
    """The peak of memory of a process of its own, in MB."""
    done = subprocess.run([sys.executable, __file__, *command], check=True, capture_output=True, text=True)
    return float(done.stdout.split()[-1])


def measured(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """All figures of one case."""
    folders = ["--backbone", str(args.backbone), "--banking77", str(args.banking77)] if name == "c" else []
    told: dict[str, Any] = {
        "about": CASES[name],
        "command": command(name, args),
        "rounds": args.rounds,
        "steps_a_block": args.steps,
        "ways": {},
    }
    of = case(name, args)
    with ExitStack() as stack:
        answers = {
            way: answering(of, make()) if args.together else elsewhere([name, way, *folders], stack)
            for way, make in ways(name, of).items()
        }
        timed = {threads: in_turns(answers, threads, args.rounds, args.steps) for threads in args.threads}
        for way, answer in answers.items():
            told["ways"][way] = answer({}) | {f"{threads} threads": figures[way] for threads, figures in timed.items()}
        answers.clear()
    gc.collect()
    torch.set_num_threads(1)
    for way in told["ways"]:
        told["ways"][way]["peak_mb"] = peak_mb(["--peak", name, way, *folders])
        print(name, way, json.dumps(told["ways"][way]), flush=True)
    told["machine"] = {"cpu": cpu(), "system": platform.system(), "load": [round(n, 1) for n in os.getloadavg()]}
    return told


def claims(cases: dict[str, Any]) -> dict[str, Any]:
    """What is claimed of the cases that were measured, and whether it holds on every number of threads."""
    told = {}
    for name, way, beside, figure, most in LIMITS:
        if name not in cases:
            continue
        one, other = (cases[name]["ways"][w] for w in (way, beside))
        counts = [k for k in one if k.endswith("threads")] if figure == "time" else [""]
        for k in counts:
            ratio = one[k]["time"] / other[k]["time"] if k else one[figure] / other[figure]
            place = f"({name}) {way}, {figure} of {beside}{', ' + k if k else ''}"
            told[place] = {"ratio": round(ratio, 4), "at_most": most, "holds": ratio <= most}
    return told


def command(name: str, args: argparse.Namespace) -> str:
    """How the figures of a case are made anew."""
    folders = " --backbone ENCODER --banking77 FOLDER" * (name == "c")
    return f"python benchmarks/sparse_step.py{folders} --cases {name}{' --together' * args.together} --rounds {args.rounds}"


def main() -> None:
    """Measure, print and keep the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", help="all-MiniLM-L6-v2: a folder")
    parser.add_argument("--banking77", type=Path, help="the folder of train.csv")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--rounds", type=int, default=12, help="blocks of each way")
    parser.add_argument("--steps", type=int, default=3, help="steps in a block that are timed")
    parser.add_argument("--peak", nargs=2, metavar=("CASE", "WAY"), help="print the peak of memory of one way, and end")
    parser.add_argument("--serve", nargs=2, metavar=("CASE", "WAY"), help=argparse.SUPPRESS)
    parser.add_argument("--together", action="store_true", help="all ways in one process")
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    if args.serve:
        of = case(args.serve[0], args)
        answer = answering(of, ways(args.serve[0], of)[args.serve[1]]())
        for line in sys.stdin:
            print(json.dumps(answer(json.loads(line))), flush=True)
        return
    if args.peak:
        of = case(args.peak[0], args)
        ways(args.peak[0], of)[args.peak[1]]().steps((of.batches * 6)[:6], perf_counter)
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        print(round(int(next(s for s in status.splitlines() if s.startswith("VmHWM")).split()[1]) / 1024, 1))
        return
    kept = json.loads(args.out.read_text(encoding="utf-8"))["cases"] if args.out.exists() else {}
    for name in args.cases:
        if name != "c" or (args.backbone and args.banking77):
            kept[name] = measured(name, args)
        else:
            print("(c) is left out: it needs --backbone and --banking77")
    result = {
        "versions": {
            "python": platform.python_version(),
            **{p: version(p) for p in ("nacre", "torch", "transformers", "peft")},
        },
        "claims": claims(kept),
        "cases": {name: kept[name] for name in sorted(kept)},
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for place, told in result["claims"].items():
        print(f"{place}: x{told['ratio']} (at most x{told['at_most']}): {'holds' if told['holds'] else 'MISSED'}")


if __name__ == "__main__":
    main()
