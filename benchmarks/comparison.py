"""The embedded comparison and its joint bound on three stream seeds, with the library itself.

    python benchmarks/comparison.py --out runs/comparison-3-seeds

writes `benchmarks/results/comparison.json`, and the bound that `nacre run` prints into the package. Rows that are finished in
the folder are not run again. About half an hour of one core a seed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
from pathlib import Path

from nacre.core.run import Run
from nacre.experiment import Comparison, Config, default_comparison

HERE = Path(__file__).parent
RESULT = HERE / "results" / "comparison.json"
STORED = HERE.parent / "src/nacre/experiment/stored.json"
FIGURES = ("last", "average", "learning", "forgetting", "moved", "relative", "stale", "training", "evaluation")
SEEDS = [0, 1, 2]


def joint() -> Config:
    """All tasks at once: fine-tuning's recipe, 8 epochs over everything."""
    tables = default_comparison().configs[3].to_dict()
    tables["run"]["name"] = "joint"
    tables["stage"][0] |= {"methods": [{"name": "Joint"}], "epochs": 8}
    return Config.of(tables)


def figures(run: Run) -> dict[str, object]:
    """Mean and spread of a row's figures, and its last score on each seed."""
    found: dict[str, object] = {
        name: [None if v is None or math.isnan(v) else round(v, 5) for v in run.figure(name)] for name in FIGURES
    }
    return found | {"last_by_seed": [run.results[seed].figure("last") for seed in run.seeds]}


def main() -> None:
    """Run what is missing, and write down the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="where the runs are kept")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="rows at a time")
    asked = parser.parse_args()
    seeds = f"run.seeds={SEEDS}"
    configs = [*default_comparison([seeds]).configs, Config.of(joint().to_dict(), [seeds])]

    def told(config: Config, run: Run) -> None:
        print(f"{config.run.name}: {sum(len(r.moments) for r in run.results.values())} moments", flush=True)

    runs = Comparison(configs).run(asked.out, asked.workers, told)
    command = "python benchmarks/comparison.py"
    rows = {run.name: figures(run) for run in runs}
    about = {"command": command, "seeds": SEEDS, "versions": runs[0].versions, "threads": 1}
    RESULT.write_text(json.dumps({**about, "mean, spread": rows}, indent=1) + "\n")
    last, spread = runs[-1].figure("last")
    bound = {"name": "joint training (bound)", "last": last, "spread": spread, "seeds": SEEDS, "command": command}
    STORED.write_text(json.dumps({"bounds": [bound]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
