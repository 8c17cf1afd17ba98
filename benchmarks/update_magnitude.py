"""How far to move for a new task: the theory of linear tasks against a simulation, claim by claim.

    python benchmarks/update_magnitude.py

writes `benchmarks/results/update_magnitude.json` and the plot beside it. Some minutes of one core.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from time import perf_counter

import torch
from machine import cpu

from nacre.studies import update_magnitude

RESULT = Path(__file__).parent / "results" / "update_magnitude.json"
DISTANCES = (0.1, 0.3, 0.5, 0.7, 0.9, 1.1, 1.3, 1.5, 1.7, 1.9, 2.1)


def main() -> None:
    """Run the study in full, and write down the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=1000, help="simulations of each setting")
    parser.add_argument("--seed", type=int, default=1, help="seeds their rows and noise")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    start = perf_counter()
    study = update_magnitude(asked.repeats, asked.seed, DISTANCES)
    about = {
        "command": "python benchmarks/update_magnitude.py",
        "repeats": asked.repeats,
        "seed": asked.seed,
        "machine": cpu(),
        "torch": torch.__version__,
        "seconds": round(perf_counter() - start, 1),
    }
    RESULT.write_text(json.dumps({**about, **study.to_dict()}, indent=1) + "\n")
    assert study.draw is not None
    study.draw(study, RESULT.with_suffix(".svg"))
    print(study.text())


if __name__ == "__main__":
    main()
