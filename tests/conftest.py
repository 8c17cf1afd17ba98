"""Makes the tiny worlds importable as `worlds`; one thread, which is the fastest for tiny tensors."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
torch.set_num_threads(1)
