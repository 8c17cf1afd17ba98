"""What a run costs: time and memory."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None


def peak_memory() -> int:
    """The most memory used so far, in bytes: of the accelerator if one is in use, else of this process.

    0 where the system does not tell.
    """
    if torch.cuda.is_available() and torch.cuda.max_memory_allocated():
        return torch.cuda.max_memory_allocated()
    with suppress(OSError):  # Linux; what getrusage says there is no less than what the process that started us had
        told = Path("/proc/self/status").read_text()
        if "VmHWM:" in told:
            return 1024 * int(told.partition("VmHWM:")[2].split()[0])
    if resource is None:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def forget_peak() -> None:
    """Measure `peak_memory` from here on, where the system lets us: on Linux and of accelerators."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
