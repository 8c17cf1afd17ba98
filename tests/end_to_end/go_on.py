"""A process of its own: resumes each run's folder that it is given, and says so when it is done."""

from __future__ import annotations

import sys
import warnings

warnings.simplefilter("error")

import torch  # noqa: E402

from nacre.experiment import Config, Experiment  # noqa: E402

if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(12345)  # whatever the global state was
    for folder in sys.argv[1:]:
        run = Experiment(Config.load(folder)).resume(folder)
        print(folder, run.status)
