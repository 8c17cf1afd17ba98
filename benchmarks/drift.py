"""Class statistics that follow a backbone which is tuned on every task: stale, transported, taken anew.

    python benchmarks/drift.py --backbone ENCODER --banking77 FOLDER --clinc150 FOLDER --pacs FOLDER --squeezenet FILE
        [--only NAME ...] [--work runs/drift] [--read]

Each sequence is tuned once by the library's learner (`drift_tables.py`); every read-out then runs on the features of the same
backbones, so only the correction differs. ENCODER is a folder of all-MiniLM-L6-v2. Sentences of Banking77: 40 training
sentences a class, 7 tasks of 11, all test sentences; of CLINC150: 20 and 12 a class, each task one domain. The glyph stream is
the embedded one with the shipped backbone, 10 tasks of 20. PACS at 64x64: each task is one domain, and a class is a thing in a
domain (28 in all), 40 training and 40 test pictures each, SqueezeNet of ImageNet through a module of this file. Orders of
classes and the choice of rows are drawn by the seed. Rates fall to 0 within each task. No setting is chosen by test rows: the
shrinkage of a map by training classes that it did not see, the ridge of random features by a fifth of the task's rows.

`--read` runs the read-outs alone, on the tables that are there. Writes `results/drift.json`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from drift_tables import Imprint, Scene, answered, in_tasks, some_of_each, tabled
from machine import cpu
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from nacre.backbones import Body, backbone
from nacre.core.dice import dice
from nacre.core.method import Method, compose
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Picked, TensorRows
from nacre.data import Source, augmentation, load
from nacre.heads import AnyDrift, AnyReadout, CommonShift, Kernel, Linear, LinearKernel, NearestMean, RandomRidge, Ridge
from nacre.learner import Stage
from nacre.methods import LDC, MIST, FeatureDistillation, TaskAdapters
from nacre.schedules import schedule

RESULT = Path(__file__).parent / "results" / "drift.json"
OWN_WORLD = ("banking", "credit_cards")  # domains of CLINC150 that Banking77 is of
HEADS: dict[str, Callable[[], AnyReadout]] = {
    "nearest mean": NearestMean,
    "ridge": lambda: Ridge(1.0),
    "RanPAC 2000": RandomRidge,
}
DRIFTS: dict[str, Callable[[], AnyDrift]] = {
    "common shift": CommonShift,
    "kernel": Kernel,
    "linear": Linear,
    "linear and kernel": LinearKernel,
}
CLAIMS = {  # sequence, head, correction: at least so much in percent, or so much of the gap from stale to taken anew
    ("banking77 full 6 layers", "nearest mean", "linear"): (84.5, None),
    ("banking77 full 6 layers", "ridge", "linear"): (83.0, None),
    ("banking77 full 6 layers", "RanPAC 2000", "linear"): (88.5, 0.90),
    ("banking77 MIST 6 layers", "RanPAC 2000", "linear"): (89.8, None),
    ("banking77 MIST 2 layers", "RanPAC 2000", "linear"): (85.5, None),
    ("clinc150 full 2 layers", "RanPAC 2000", "linear"): (None, 0.65),
    ("clinc150 full 2 layers", "RanPAC 2000", "linear, anchors"): (None, 0.80),
}
SECONDS, KIB = 1.5, 32.0  # of the processor a task for map and rebuild; of memory a class at width 384


@dataclass(frozen=True)
class Sequence:
    """How a backbone is tuned on every task of a scene.

    Attributes:
        scene: Makes the rows, from the arguments, the backbone and a seed.
        body: Makes the backbone.
        stage: Makes the tuning.
        seeds: Orders of classes.
        frozen: What names of weights contain that do not train at all.
    """

    scene: Callable[[argparse.Namespace, Any, int], Scene]
    body: Callable[[argparse.Namespace, int], Body | nn.Module]
    stage: Callable[[], Stage]
    seeds: tuple[int, ...] = (0, 1)
    frozen: str = "embeddings"


def banking(args: argparse.Namespace, body: Body, seed: int) -> Scene:
    """Banking77, 40 sentences a class; sentences of other domains of CLINC150 as anchors."""
    source, other = _read(args.banking77, body), _read(args.clinc150, body)
    kept = some_of_each(source.train.y, 40, seed, "sentences")
    domains = json.loads((args.clinc150 / "domains.json").read_text(encoding="utf-8"))
    own = {name for domain in OWN_WORLD for name in domains[domain]}
    chosen = torch.tensor([k for k, name in enumerate(other.classes) if name not in own])
    far = torch.isin(other.train.y, chosen).nonzero().flatten()
    far = far[torch.randperm(len(far), generator=torch.Generator().manual_seed(seed))[:600]]
    tasks = in_tasks(range(77), 7, seed, "classes")
    anchors = {"clinc150": Picked(other.train, far)}
    return Scene(Picked(source.train, kept), source.test, source.train.y[kept], source.test.y, tasks, anchors)


def clinc(args: argparse.Namespace, body: Body, seed: int) -> Scene:
    """CLINC150 by domain, 20 and 12 sentences a class; sentences of Banking77 as anchors."""
    source, other = _read(args.clinc150, body), _read(args.banking77, body)
    train = some_of_each(source.train.y, 20, seed, "sentences")
    test = some_of_each(source.test.y, 12, seed, "test sentences")
    domains = json.loads((args.clinc150 / "domains.json").read_text(encoding="utf-8"))
    number = {name: k for k, name in enumerate(source.classes)}
    groups = [[number[name] for name in names] for names in domains.values()]
    tasks = [groups[k] for k in torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()]
    some = torch.randperm(len(other.train), generator=torch.Generator().manual_seed(seed))[:600]
    anchors = {"banking77": Picked(other.train, some)}
    rows = Picked(source.train, train), Picked(source.test, test)
    return Scene(*rows, source.train.y[train], source.test.y[test], tasks, anchors)


def glyphs(args: argparse.Namespace, body: Body, seed: int) -> Scene:
    """The embedded stream: ten scripts, twenty characters each, in a drawn order."""
    source = load("glyphs", seed=seed)
    tasks = [list(source.groups[k]) for k in torch.randperm(10, generator=dice(seed, "scripts")).tolist()]
    return Scene(source.train, source.test, source.train.y, source.test.y, tasks)


def pacs(args: argparse.Namespace, body: nn.Module, seed: int) -> Scene:
    """PACS, a domain a task; 28 classes, a thing in a domain each."""
    x, y = [], []
    for k, domain in enumerate(("photo", "art_painting", "cartoon", "sketch")):
        with np.load(args.pacs / f"pacs64_{domain}.npz", allow_pickle=False) as held:
            ends, raw = held["offsets"], held["jpeg"].tobytes()
            pictures = [Image.open(BytesIO(raw[low:high])).convert("RGB") for low, high in itertools.pairwise(ends)]
            x.append(torch.from_numpy(np.stack([np.asarray(p) for p in pictures])).permute(0, 3, 1, 2))
            y.append(torch.from_numpy(held["labels"]).long() + 7 * k)
    rows = TensorRows(torch.cat(x), torch.cat(y))
    train, test = some_of_each(rows.y, 40, seed, "pictures"), some_of_each(rows.y, 40, seed, "pictures", skip=40)
    order = torch.randperm(4, generator=dice(seed, "domains")).tolist()
    tasks = [list(range(7 * k, 7 * k + 7)) for k in order]
    return Scene(Picked(rows, train), Picked(rows, test), rows.y[train], rows.y[test], tasks)


class Fire(nn.Module):
    """A layer of SqueezeNet: narrow, then wide by kernels of 1 and 3."""

    def __init__(self, width: int, narrow: int, wide: int):
        super().__init__()
        self.squeeze = nn.Conv2d(width, narrow, 1)
        self.expand1x1 = nn.Conv2d(narrow, wide, 1)
        self.expand3x3 = nn.Conv2d(narrow, wide, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(rows, width, height, width) -> (rows, 2 * wide, height, width)."""
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.expand1x1(x)), F.relu(self.expand3x3(x))], 1)


class SqueezeNet(nn.Module):
    """SqueezeNet 1.0 below its last layer: pictures in 0..255 -> 512 features."""

    width = 512

    def __init__(self, weights: Path):
        super().__init__()
        pool = {"kernel_size": 3, "stride": 2, "ceil_mode": True}
        fires = [Fire(96, 16, 64), Fire(128, 16, 64), Fire(128, 32, 128), Fire(256, 32, 128), Fire(256, 48, 192)]
        fires += [Fire(384, 48, 192), Fire(384, 64, 256), Fire(512, 64, 256)]
        layers = [nn.Conv2d(3, 96, 7, 2), nn.ReLU(), nn.MaxPool2d(**pool), *fires[:3], nn.MaxPool2d(**pool)]
        self.features = nn.Sequential(*layers, *fires[3:7], nn.MaxPool2d(**pool), fires[7])
        held = {k: v.float() for k, v in load_file(weights).items() if k.startswith("features.")}
        self.load_state_dict(held)
        self.register_buffer("middle", torch.tensor([123.0, 117.0, 104.0]).view(3, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Features (rows, 512) of uint8 pictures (rows, 3, height, width)."""
        return self.features(x.float() - self.middle).mean((2, 3))


def encoder(layers: int) -> Callable[[argparse.Namespace, int], Body]:
    """The first layers of the sentence encoder."""
    return lambda args, seed: backbone(args.backbone, layers=layers, normalize=False, seed=seed)


def falling(method: Method, rate: float, epochs: int, batch: int = 32, **settings: Any) -> Stage:
    """A stage under AdamW whose rate falls to 0, the head starting at class means."""
    made = MadeOptimizer("adamw", rate)
    decay = schedule("linear")
    return Stage(compose(Imprint(), method), made, epochs=epochs, batch_size=batch, schedule=decay, **settings)


def mist(rate: float, epochs: int, batch: int = 32, free: bool = False, **settings: Any) -> Stage:
    """Sparse tuning: a tenth of each tensor, nine tenths of it, and unless `free` of biases and norms, resting at each step."""
    tuner = MIST(select=0.1, drop=0.9, protect=0.0, drop_free=not free, batch=batch)
    return falling(tuner, rate, epochs, batch, **settings)


SEQUENCES = {
    "clinc150 full 2 layers": Sequence(clinc, encoder(2), lambda: falling(Method(), 3e-4, 3)),
    "banking77 full 6 layers": Sequence(banking, encoder(6), lambda: falling(Method(), 5e-5, 2)),
    "banking77 MIST 6 layers": Sequence(banking, encoder(6), lambda: mist(1e-3, 2)),
    "banking77 MIST 2 layers": Sequence(banking, encoder(2), lambda: mist(1e-3, 3)),
    "banking77 MIST 6 layers, norms never dropped": Sequence(banking, encoder(6), lambda: mist(1e-3, 2, free=True)),
    "banking77 MIST 2 layers, norms never dropped": Sequence(banking, encoder(2), lambda: mist(1e-3, 3, free=True)),
    "banking77 LoRA 6 layers": Sequence(
        banking, encoder(6), lambda: falling(TaskAdapters(rank=8, per="all", target="query,key,value,dense"), 1e-3, 2)
    ),
    "banking77 distilled 6 layers": Sequence(
        banking, encoder(6), lambda: falling(FeatureDistillation(strength=50.0), 5e-5, 2)
    ),
    "glyphs full": Sequence(
        glyphs, lambda args, seed: backbone("glyph-vit"), lambda: falling(Method(), 1e-3, 2, 64), (0, 1, 2), ""
    ),
    "glyphs MIST": Sequence(
        glyphs,
        lambda args, seed: backbone("glyph-vit"),
        lambda: mist(5e-3, 2, 64, augment=augmentation("jitter")),
        (0, 1, 2),
        "",
    ),
    "glyphs MIST, norms never dropped": Sequence(
        glyphs,
        lambda args, seed: backbone("glyph-vit"),
        lambda: mist(5e-3, 2, 64, free=True, augment=augmentation("jitter")),
        (0, 1, 2),
        "",
    ),
    "pacs full": Sequence(
        pacs, lambda args, seed: SqueezeNet(args.squeezenet), lambda: falling(Method(), 1e-4, 3), (0, 1, 2), ""
    ),
}


def corrections(path: Path, scene: Scene) -> dict[str, dict[str, Any]]:
    """Every head under every correction, on one table."""
    found: dict[str, dict[str, Any]] = {}
    for head, make in HEADS.items():
        row: dict[str, Any] = {}
        for name, as_of in (("frozen", "first"), ("stale", ""), ("taken anew", "last")):
            row[name] = answered(LDC(head=make(), drift=None), path, scene, as_of=as_of)
        for name, drift in DRIFTS.items():
            if head != "RanPAC 2000" or name in ("kernel", "linear"):
                row[name] = answered(LDC(head=make(), drift=drift()), path, scene)
        if scene.anchors:
            row["linear, anchors"] = answered(
                LDC(head=make(), drift=Linear()), path, scene, anchors=list(scene.anchors)
            )
        found[head] = {name: round(r["last"], 2) for name, r in row.items()}
        gap = row["taken anew"]["last"] - row["stale"]["last"]
        closed = {name: (r["last"] - row["stale"]["last"]) / gap if gap else None for name, r in row.items()}
        found[head]["of the gap"] = {
            name: None if c is None else round(c, 3)
            for name, c in closed.items()
            if name in DRIFTS or "anchors" in name
        }
        method = row["linear"]["method"]
        found[head]["processor seconds of the last task"] = round(row["linear"]["seconds"][-1], 2)
        found[head]["KiB a class"] = round(method.statistics.bytes_per_class / 1024, 2)
        told = method.told.values()
        found["drift"] = {k: round(statistics.fmean(t[k] for t in told), 3) for k in ("cosine", "explained", "r2")}
    return found


def claims(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What is claimed of the means over seeds, and whether it holds."""
    told = []
    for (name, head, correction), (least, share) in CLAIMS.items():
        rows = [seed[head] for seed in found.get(name, {}).values()]
        if not rows:
            continue
        last, stale, anew = (statistics.fmean(r[key] for r in rows) for key in (correction, "stale", "taken anew"))
        closed = (last - stale) / (anew - stale)
        holds = (least is None or last >= least) and (share is None or closed >= share)
        told.append(
            {
                "sequence": name,
                "head": head,
                "correction": correction,
                "last": round(last, 2),
                "at_least": least,
                "of_the_gap": round(closed, 3),
                "of_the_gap_at_least": share,
                "seeds": len(rows),
                "holds": bool(holds),
            }
        )
    heads = [seed[head] for seeds in found.values() for seed in seeds.values() for head in HEADS]
    at_size = [seed["RanPAC 2000"] for n, seeds in found.items() if n.startswith("bank") for seed in seeds.values()]
    if at_size:
        slowest = max(r["processor seconds of the last task"] for r in at_size)
        about = "map, transport, rebuild, present rows and solution of the last task, one thread"
        told.append({"seconds": about, "most": slowest, "at_most": SECONDS, "holds": slowest <= SECONDS})
        largest = max(r["KiB a class"] for r in heads if r in at_size)
        told.append({"memory": "KiB a class at width 384", "most": largest, "at_most": KIB, "holds": largest <= KIB})
    return told


def main() -> None:
    """Tune what was not tuned yet, then run every read-out and write the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True, help="a folder of all-MiniLM-L6-v2, or its id on the hub")
    parser.add_argument("--banking77", type=Path, required=True)
    parser.add_argument("--clinc150", type=Path, required=True)
    parser.add_argument("--pacs", type=Path)
    parser.add_argument("--squeezenet", type=Path, help="model.safetensors of SqueezeNet 1.0")
    parser.add_argument("--only", nargs="+", choices=SEQUENCES, default=list(SEQUENCES))
    parser.add_argument("--work", type=Path, default=Path("runs/drift"))
    parser.add_argument("--read", action="store_true", help="tune nothing")
    args = parser.parse_args()
    torch.set_num_threads(1)
    known = json.loads(RESULT.read_text(encoding="utf-8"))["sequences"] if RESULT.exists() else {}
    for name in args.only:
        sequence = SEQUENCES[name]
        for seed in sequence.seeds:
            path = args.work / f"{name.replace(' ', '-').replace(',', '')}-{seed}.safetensors"
            if args.read and not path.exists():
                continue
            body = sequence.body(args, seed)
            scene = sequence.scene(args, body, seed)
            about = tabled(scene, body, sequence.stage(), seed, path, sequence.frozen)
            own = {"own head": round(100 * about["own"][-1], 2), "seconds": about["seconds"]}
            known.setdefault(name, {})[str(seed)] = {**corrections(path, scene), **own}
            print(name, seed, json.dumps(known[name][str(seed)]), flush=True)
            _write(known)


def _write(known: dict[str, Any]) -> None:
    made = {
        "about": "Class statistics that follow a backbone tuned on every task: last accuracy in percent.",
        "command": "python benchmarks/drift.py --backbone ENCODER --banking77 FOLDER --clinc150 FOLDER --pacs FOLDER "
        "--squeezenet FILE",
        "machine": f"{cpu()}, one thread, beside other work",
        "versions": {
            "python": platform.python_version(),
            **{p: version(p) for p in ("nacre", "torch", "transformers")},
        },
        "claims": claims(known),
        "sequences": {name: known[name] for name in SEQUENCES if name in known},
    }
    RESULT.write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


def _read(folder: Path, body: Body) -> Source:
    source = load(folder)
    return source.tokenized(body.tokenizer) if body.tokenizer is not None else source


if __name__ == "__main__":
    main()
