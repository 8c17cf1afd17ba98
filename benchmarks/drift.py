"""Class statistics that follow a backbone which is tuned on every task: stale, transported, taken anew.

    python benchmarks/drift.py --backbone ENCODER --banking77 FOLDER --clinc150 FOLDER [--only NAME ...] [--work runs/drift]

Each sequence is tuned once by the library's learner (`drift_tables.py`); every read-out then runs on the features of the same
backbones. Sentences of Banking77: 40 training sentences a class, 7 tasks of 11, all test sentences; of CLINC150: 20 and 12 a
class, each task one domain. Orders of classes and the choice of sentences are drawn by the seed. No setting reads test rows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from drift_tables import Imprint, Scene, in_tasks, some_of_each, tabled
from torch import Tensor

from nacre.backbones import Body, backbone
from nacre.core.method import compose
from nacre.core.optim import MadeOptimizer
from nacre.core.rows import Picked
from nacre.data import Source, load
from nacre.learner import Stage
from nacre.methods import MIST
from nacre.schedules import schedule

HERE = Path(__file__).parent
BANK_WORDS = ("bank", "card")  # CLINC150's domains of these names are left out where Banking77 is learned


@dataclass(frozen=True)
class Sequence:
    """How a backbone is tuned on every task of a scene.

    Attributes:
        scene: Makes the rows, from the arguments, a tokenizer and a seed.
        layers: Of the encoder.
        stage: Makes the tuning.
        seeds: Orders of classes.
    """

    scene: Callable[[argparse.Namespace, Body, int], Scene]
    layers: int
    stage: Callable[[], Stage]
    seeds: tuple[int, ...] = (0, 1)


def banking(args: argparse.Namespace, body: Body, seed: int) -> Scene:
    """Banking77, 40 sentences a class; sentences of CLINC150 as anchors."""
    source = _read(args.banking77, body)
    kept = some_of_each(source.train.y, 40, seed, "sentences")
    train = Picked(source.train, kept)
    tasks = in_tasks(range(77), 7, seed, "classes")
    other = _read(args.clinc150, body)
    far = _domain_rows(args, other, lambda name: not any(word in name for word in BANK_WORDS))
    far = far[torch.randperm(len(far), generator=torch.Generator().manual_seed(seed))[:600]]
    return Scene(train, source.test, source.train.y[kept], source.test.y, tasks, {"clinc150": Picked(other.train, far)})


def clinc(args: argparse.Namespace, body: Body, seed: int) -> Scene:
    """CLINC150 by domain, 20 and 12 sentences a class; sentences of Banking77 as anchors."""
    source = _read(args.clinc150, body)
    train = some_of_each(source.train.y, 20, seed, "sentences")
    test = some_of_each(source.test.y, 12, seed, "test sentences")
    domains = json.loads((args.clinc150 / "domains.json").read_text(encoding="utf-8"))
    number = {name: k for k, name in enumerate(source.classes)}
    groups = [[number[name] for name in names] for names in domains.values()]
    tasks = [groups[k] for k in torch.randperm(len(groups), generator=torch.Generator().manual_seed(seed)).tolist()]
    other = _read(args.banking77, body)
    some = torch.randperm(len(other.train), generator=torch.Generator().manual_seed(seed))[:600]
    anchors = {"banking77": Picked(other.train, some)}
    return Scene(
        Picked(source.train, train),
        Picked(source.test, test),
        source.train.y[train],
        source.test.y[test],
        tasks,
        anchors,
    )


def _read(folder: Path, body: Body) -> Source:
    source = load(folder)
    return source.tokenized(body.tokenizer) if body.tokenizer is not None else source


def _domain_rows(args: argparse.Namespace, source: Source, wanted: Callable[[str], bool]) -> Tensor:
    domains = json.loads((args.clinc150 / "domains.json").read_text(encoding="utf-8"))
    names = {name for domain, held in domains.items() if wanted(domain) for name in held}
    chosen = torch.tensor([k for k, name in enumerate(source.classes) if name in names])
    return torch.isin(source.train.y, chosen).nonzero().flatten()


def full(rate: float, epochs: int) -> Stage:
    """All weights of the blocks, cross-entropy of a cosine head that starts at class means."""
    falling = schedule("linear")
    return Stage(Imprint(), MadeOptimizer("adamw", rate), epochs=epochs, batch_size=32, schedule=falling)


def mist(epochs: int) -> Stage:
    """Sparse tuning on every task: a tenth of each tensor, nine tenths of it resting at each step; views by dropout."""
    method = compose(Imprint(), MIST(select=0.1, drop=0.9, protect=0.0, batch=32))
    falling = schedule("linear")
    return Stage(method, MadeOptimizer("adamw", 1e-3), epochs=epochs, batch_size=32, schedule=falling)


SEQUENCES = {
    "banking77 MIST 2 layers": Sequence(banking, 2, lambda: mist(3)),
    "clinc150 full 2 layers": Sequence(clinc, 2, lambda: full(3e-4, 3)),
    "banking77 full 6 layers": Sequence(banking, 6, lambda: full(5e-5, 2)),
    "banking77 MIST 6 layers": Sequence(banking, 6, lambda: mist(2)),
}


def main() -> None:
    """Tune what was not tuned yet, then run every read-out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", required=True, help="a folder of all-MiniLM-L6-v2, or its id on the hub")
    parser.add_argument("--banking77", type=Path, required=True)
    parser.add_argument("--clinc150", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=SEQUENCES, default=list(SEQUENCES))
    parser.add_argument("--work", type=Path, default=Path("runs/drift"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.only:
        sequence = SEQUENCES[name]
        for seed in sequence.seeds:
            body = backbone(args.backbone, layers=sequence.layers, normalize=False, seed=seed)
            scene = sequence.scene(args, body, seed)
            path = args.work / f"{name.replace(' ', '-')}-{seed}.safetensors"
            print(path.stem, tabled(scene, body, sequence.stage(), seed, path, "embeddings"))


if __name__ == "__main__":
    main()
