"""Online MNIST as published: replay, GDumb and A-GEM beside the figures of another library's reproductions.

    python benchmarks/online_mnist.py --data FOLDER [--parts replay gdumb agem] [--forms published recipe] [--seeds 3]

The protocols are the recipes `online-split-mnist-replay`, `split-mnist-gdumb` and `permuted-mnist-agem`, with what no config
says set here: pixels normalised to mean 0.1307 and deviation 0.3081; for replay dropout 0.5 after the hidden layer and a
twentieth of the training rows left out, drawn by the seed. Beside each stands the recipe as it is. Each row of the stream is
trained on once. Test rows are read once, after the last task. Adds to `results/online_mnist.json`.

Claim held here: the mean last accuracy lies within 0.03 of the published one.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nacre.backbones import Body, Pixels, backbone
from nacre.data import Source, load, without_test_rows
from nacre.experiment import Config
from nacre.experiment.trial import trial
from nacre.metrics import score

HERE = Path(__file__).parent
RECIPES = HERE.parent / "src" / "nacre" / "experiment" / "recipes"
RESULT = HERE / "results" / "online_mnist.json"
NEAR = 0.03
FORMS = {"published": "as published", "recipe": "recipe as it is"}
MEAN, DEVIATION = 0.1307, 0.3081
SOURCE = "ContinualAI/continual-learning-baselines, table of results"


@dataclass(frozen=True)
class Protocol:
    """What a recipe lacks of a published protocol.

    Attributes:
        recipe: Its name.
        published: The last accuracy.
        dropout: After the last hidden layer.
        left_out: The share of the training rows that is not trained on.
    """

    recipe: str
    published: float
    dropout: float = 0.0
    left_out: float = 0.0


PROTOCOLS = {
    "replay": Protocol("online-split-mnist-replay", 0.92, dropout=0.5, left_out=0.05),
    "gdumb": Protocol("split-mnist-gdumb", 0.97),
    "agem": Protocol("permuted-mnist-agem", 0.81),
}


def last(config: Config, protocol: Protocol, source: Source, seed: int, published: bool) -> float:
    """The mean accuracy over all test sets after the last task.

    Args:
        config: The recipe.
        protocol: What it lacks.
        source: MNIST.
        seed: Draws everything.
        published: Whether what the recipe lacks is added.
    """
    body = normalised(config.backbone.source, protocol.dropout, seed) if published else None
    if published and protocol.left_out:
        kept = without_test_rows(source, seed, protocol.left_out)
        source = replace(kept, test=source.test, sha256="")
    made = trial(config, seed, source, body)
    tests = {name: rows for met in made.learner.learn(made.stream) for name, rows in met.tests.items()}
    return statistics.fmean(score(made.learner.predict, rows) for rows in tests.values())


def normalised(name: str, dropout: float, seed: int) -> Body:
    """The recipe's backbone with normalised pixels, and dropout behind it."""
    body = backbone(name, seed=seed)
    module = nn.Sequential(body.module, nn.Dropout(dropout)) if dropout else body.module
    return replace(body, module=module, pixels=Pixels(mean=MEAN, std=DEVIATION))


def figures(part: str, source: Source, seeds: int, forms: list[str]) -> dict[str, Any]:
    """Both forms of a protocol, beside what is published."""
    protocol = PROTOCOLS[part]
    config = Config.load(RECIPES / f"{protocol.recipe}.toml", ["run.device=cpu"])
    told: dict[str, Any] = {"recipe": protocol.recipe, "published": protocol.published, "seeds": list(range(seeds))}
    for form in forms:
        name, published = FORMS[form], form == "published"
        values = [last(config, protocol, source, seed, published) for seed in range(seeds)]
        told[name] = {
            "last": [round(value, 4) for value in values],
            "mean": round(statistics.fmean(values), 4),
            "standard_deviation": round(statistics.stdev(values), 4) if seeds > 1 else None,
        }
        print(part, name, json.dumps(told[name]), flush=True)
    if "published" in forms:
        far = abs(told[FORMS["published"]]["mean"] - protocol.published)
        told["claim"] = {"distance": round(far, 4), "at_most": NEAR, "holds": far <= NEAR}
    return told


def main() -> None:
    """Run the parts that are asked for, and write them into the result file beside the others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a folder with the four MNIST files")
    parser.add_argument("--parts", nargs="+", choices=PROTOCOLS, default=list(PROTOCOLS))
    parser.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULT)
    args = parser.parse_args()
    torch.set_num_threads(1)
    source = load(args.data)
    for part in args.parts:
        found = figures(part, source, args.seeds, args.forms)
        known = json.loads(args.out.read_text(encoding="utf-8")) if args.out.exists() else {}
        result = {
            "about": "Online MNIST: replay, GDumb and A-GEM beside published figures.",
            "command": "python benchmarks/online_mnist.py --data FOLDER",
            "published": SOURCE,
            "machine": "CPU, one thread",
            "versions": {"python": platform.python_version(), **{p: version(p) for p in ("nacre", "torch")}},
            "parts": {**known.get("parts", {}), part: found},
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
